//! Publishes what tasks wrote to those who asked for service logs.

use std::collections::HashMap;
use std::fmt::Display;
use std::time::{SystemTime, UNIX_EPOCH};

use futures::StreamExt;
use skep_engine::{Engine, LogOptions, StdStream};
use skep_proto::v1::{self, logs_client::LogsClient};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Channel;

use crate::runtime::TASK_LABEL;

const SERVICE_LABEL: &str = "com.docker.swarm.service.id";
/// The streams, as `LogEntry` numbers them.
const STDOUT: u32 = 1;
const STDERR: u32 = 2;
/// Entries in one message to the manager.
const BATCH: usize = 256;

/// Serves subscriptions from one manager until the connection ends, however it does: a next session gets them anew.
pub async fn serve(channel: Channel, engine: Engine, node_id: String) -> Result<(), tonic::Status> {
    let mut client = LogsClient::new(channel);
    let mut subscriptions = client.listen_subscriptions(v1::Empty {}).await?.into_inner();
    let mut running = HashMap::new();
    while let Some(subscription) = subscriptions.message().await? {
        running.retain(|_, task: &mut AbortOnDropHandle<()>| !task.is_finished());
        if subscription.close {
            running.remove(&subscription.id);
            continue;
        }
        let publisher =
            Publisher { client: client.clone(), engine: engine.clone(), node_id: node_id.clone() };
        let id = subscription.id.clone();
        running.insert(id, AbortOnDropHandle::new(tokio::spawn(publisher.publish(subscription))));
    }
    Ok(())
}

struct Publisher {
    client: LogsClient<Channel>,
    engine: Engine,
    node_id: String,
}

impl Publisher {
    async fn publish(self, subscription: v1::Subscription) {
        let (sender, receiver) = mpsc::channel(16);
        let id = subscription.id.clone();
        let feed = self.feed(subscription, sender);
        let publish = async { self.client.clone().publish_logs(ReceiverStream::new(receiver)).await };
        let ((), published) = tokio::join!(feed, publish);
        if let Err(e) = published {
            tracing::debug!(subscription = %id, error = %e, "a log subscription ended early");
        }
    }

    /// Sends every log that exists, then, when following, those of tasks still to come.
    async fn feed(&self, subscription: v1::Subscription, sender: mpsc::Sender<v1::PublishLogsMessage>) {
        let selector = subscription.selector.clone().unwrap_or_default();
        let options = subscription.options.unwrap_or_default();
        let mut events = self.engine.events();
        let mut readers = tokio::task::JoinSet::new();
        let mut known = std::collections::HashSet::new();
        let start = |readers: &mut tokio::task::JoinSet<()>,
                     known: &mut std::collections::HashSet<String>,
                     options: v1::LogOptions| {
            for c in self.engine.list() {
                let label = |name: &str| c.config.labels.get(name).cloned().unwrap_or_default();
                let (service, task) = (label(SERVICE_LABEL), label(TASK_LABEL));
                let wanted = !task.is_empty()
                    && (selector.service_ids.contains(&service) || selector.task_ids.contains(&task));
                if wanted && known.insert(task.clone()) {
                    let source = Source {
                        engine: self.engine.clone(),
                        container: c.id.to_string(),
                        service_id: service,
                        task_id: task,
                        node_id: self.node_id.clone(),
                        subscription: subscription.id.clone(),
                    };
                    readers.spawn(source.send(options, sender.clone()));
                }
            }
        };
        start(&mut readers, &mut known, options);
        if options.follow {
            // Of a task that comes later all is new, though it may have been written before its log is read.
            let later = v1::LogOptions { tail: -1, ..options };
            loop {
                tokio::select! {
                    event = events.recv() => match event {
                        Ok(e) if e.kind == "container" && e.action == "start" => start(&mut readers, &mut known, later),
                        Ok(_) => {}
                        Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => start(&mut readers, &mut known, later),
                        Err(tokio::sync::broadcast::error::RecvError::Closed) => break,
                    },
                    () = sender.closed() => return,
                }
            }
        }
        while readers.join_next().await.is_some() {}
        let close = v1::PublishLogsMessage {
            subscription_id: subscription.id.clone(),
            close: true,
            ..Default::default()
        };
        // The subscriber may have left already; then there is nobody to tell.
        let _ = sender.send(close).await;
    }
}

/// One task's log on its way to one subscription.
struct Source {
    engine: Engine,
    container: String,
    service_id: String,
    task_id: String,
    node_id: String,
    subscription: String,
}

impl Source {
    async fn send(self, options: v1::LogOptions, sender: mpsc::Sender<v1::PublishLogsMessage>) {
        let positive = |n: i64| (n > 0).then_some(n);
        let read = LogOptions {
            follow: options.follow,
            stdout: options.stdout,
            stderr: options.stderr,
            since_ns: positive(options.since_ns),
            until_ns: positive(options.until_ns),
            tail: u64::try_from(options.tail).ok(),
        };
        let frames = match self.engine.logs(&self.container, read).await {
            Ok(frames) => frames,
            Err(e) => {
                let (mut entries, mut warning) = (Vec::new(), String::new());
                self.tell(options.follow, &e, &mut entries, &mut warning);
                let _ = sender.send(self.message(entries, warning)).await;
                return;
            }
        };
        let mut batches = frames.ready_chunks(BATCH);
        while let Some(batch) = batches.next().await {
            let mut entries = Vec::with_capacity(batch.len());
            let mut warning = String::new();
            for frame in batch {
                match frame {
                    Ok(f) => {
                        let stream = if f.stream == StdStream::Stderr { STDERR } else { STDOUT };
                        entries.push(self.entry(f.timestamp_ns, stream, f.data.to_vec()));
                    }
                    Err(e) => self.tell(options.follow, &e, &mut entries, &mut warning),
                }
            }
            if sender.send(self.message(entries, warning)).await.is_err() {
                return;
            }
        }
    }

    fn entry(&self, timestamp_ns: i64, stream: u32, data: Vec<u8>) -> v1::LogEntry {
        v1::LogEntry {
            service_id: self.service_id.clone(),
            task_id: self.task_id.clone(),
            node_id: self.node_id.clone(),
            timestamp_ns,
            stream,
            data,
        }
    }

    /// Says what went wrong: to one that follows by a line of the task's, since a warning comes at the end only.
    fn tell(
        &self,
        follow: bool,
        error: &impl Display,
        entries: &mut Vec<v1::LogEntry>,
        warning: &mut String,
    ) {
        let why = format!("logs of task {}: {error}", self.task_id);
        if !follow {
            return *warning = why;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        entries.push(self.entry(now, STDERR, format!("warning: {why}\n").into_bytes()));
    }

    fn message(&self, entries: Vec<v1::LogEntry>, warning: String) -> v1::PublishLogsMessage {
        v1::PublishLogsMessage { subscription_id: self.subscription.clone(), entries, close: false, warning }
    }
}
