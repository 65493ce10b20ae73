//! Service logs. A client subscribes at any manager; that manager asks the agents that listen to it, and
//! subscribes at every other manager for theirs (those do not pass it on again). So agents talk to one
//! manager only, and no subscription is replicated.

mod missing;
mod subscription;

use std::collections::{BTreeSet, HashMap};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use skep_identity::peer;
use skep_proto::v1::logs_client::LogsClient;
use skep_proto::v1::{self, logs_server::Logs};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::authority;
use crate::context::{Context, forward, is_forwarded};
use crate::listeners::Listeners;
use crate::store::StoreView;
use missing::Missing;
use subscription::Active;

type Messages<T> = ReceiverStream<Result<T, Status>>;

/// The log service of this manager. Cheap to clone.
#[derive(Clone)]
pub struct LogsHandle {
    ctx: Arc<Context>,
    state: Arc<Mutex<State>>,
    stop: CancellationToken,
}

#[derive(Default)]
struct State {
    active: HashMap<String, Active>,
    /// Agents that listen here.
    listeners: Listeners<v1::Subscription>,
}

impl LogsHandle {
    pub(crate) fn new(ctx: Arc<Context>, stop: CancellationToken) -> Self {
        let handle = Self { ctx, state: Arc::default(), stop };
        let ending = handle.clone();
        tokio::spawn(async move {
            ending.stop.cancelled().await;
            // Subscribers see the end of their streams.
            ending.lock().active.clear();
        });
        handle
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes a subscription and tells the agents that serve it.
    fn end(&self, id: &str) {
        let mut state = self.lock();
        let Some(active) = state.active.remove(id) else { return };
        for node in active.served {
            let close = v1::Subscription { id: id.to_owned(), close: true, ..Default::default() };
            state.listeners.tell(&node, close);
        }
    }

    /// An agent has said all, or is gone: without `follow` the last one ends the subscription.
    fn node_done(&self, id: &str, node: &str) {
        let mut state = self.lock();
        let done = state.active.get_mut(id).is_some_and(|active| active.node_done(node));
        if done {
            state.active.remove(id);
        }
    }

    fn listener_gone(&self, node: &str, number: u64) {
        let mut state = self.lock();
        if state.listeners.leave(node, number) {
            state.active.retain(|_, active| !active.node_done(node));
        }
    }

    /// Subscribes at the other managers on behalf of `id`; their streams flow into the same channel.
    fn fan_out(
        &self,
        request: &v1::SubscribeLogsRequest,
        tx: &mpsc::Sender<Result<v1::SubscribeLogsMessage, Status>>,
        missing: &Missing,
    ) {
        for manager in self.ctx.other_managers() {
            let mut client = LogsClient::new(self.ctx.channel(&manager.addr));
            let (request, tx, missing) = (forward(request.clone()), tx.clone(), missing.clone());
            let pump = async move {
                let mut stream = match client.subscribe_logs(request).await {
                    Ok(response) => response.into_inner(),
                    Err(status) => {
                        let why = skep_identity::explain(&manager.addr, &status);
                        let why = format!("logs of agents at manager {} are missing: {why}", manager.node_id);
                        return Some(why);
                    }
                };
                loop {
                    let message = tokio::select! {
                        message = stream.message() => message,
                        () = tx.closed() => return None,
                    };
                    match message {
                        Ok(Some(message)) => {
                            if tx.send(Ok(message)).await.is_err() {
                                return None;
                            }
                        }
                        Ok(None) => return None,
                        Err(status) => {
                            let why =
                                format!("logs from manager {} ended: {}", manager.node_id, status.message());
                            return Some(why);
                        }
                    }
                }
            };
            let stop = self.stop.clone();
            tokio::spawn(async move {
                if let Some(Some(why)) = stop.run_until_cancelled(pump).await {
                    missing.tell(None, why).await;
                }
            });
        }
    }
}

/// The tasks a selector names.
fn tasks_of<'a>(
    view: &'a StoreView,
    selector: &'a v1::LogSelector,
) -> impl Iterator<Item = &'a Arc<v1::Task>> {
    let of_services = selector.service_ids.iter().flat_map(|id| view.tasks_of_service(id));
    of_services.chain(selector.task_ids.iter().filter_map(|id| view.task(id)))
}

/// The nodes that hold tasks a selector names.
fn nodes_of(view: &StoreView, selector: &v1::LogSelector) -> BTreeSet<String> {
    tasks_of(view, selector).map(|t| t.node_id.clone()).filter(|n| !n.is_empty()).collect()
}

/// Whether clients can still look a task up whose lines they get: they ask for each by its ID, and end if there is none.
/// One that is about to be removed is told of only to who follows it, and so knows it already.
fn can_be_told(view: &StoreView, task: &str, follow: bool) -> bool {
    view.task(task).is_some_and(|t| follow || t.desired_state() != v1::TaskState::Remove)
}

#[tonic::async_trait]
impl Logs for LogsHandle {
    type SubscribeLogsStream = Subscribed;
    type ListenSubscriptionsStream = Messages<v1::Subscription>;

    async fn subscribe_logs(
        &self,
        request: Request<v1::SubscribeLogsRequest>,
    ) -> Result<Response<Self::SubscribeLogsStream>, Status> {
        // In process there is no connection, and the caller is this manager itself.
        if peer(request.extensions()).is_some() {
            authority::manager(self.ctx.store(), request.extensions())?;
        }
        let forwarded = is_forwarded(request.metadata());
        let request = request.into_inner();
        let selector = request.selector.clone().unwrap_or_default();
        if selector.service_ids.is_empty() && selector.task_ids.is_empty() {
            return Err(Status::invalid_argument("a log subscription names services or tasks"));
        }
        let (tx, rx) = mpsc::channel(64);
        let id = self.ctx.new_id();
        let view = self.ctx.view();
        let nodes = nodes_of(&view, &selector);
        let options = request.options.unwrap_or_default();
        if !forwarded {
            let missing = Missing::new(
                self.ctx.clone(),
                selector.clone(),
                options.follow,
                tx.clone(),
                self.stop.clone(),
            );
            self.fan_out(&request, &tx, &missing);
            let (view, nodes) = (view.clone(), nodes.clone());
            // The subscriber reads once it has its stream.
            tokio::spawn(async move {
                for node in &nodes {
                    missing.tell_of_node(&view, node).await;
                }
            });
        }
        let mut active = Active::new(id.clone(), selector, options, tx.clone());
        {
            let mut state = self.lock();
            for node in state.listeners.nodes().filter(|n| options.follow || nodes.contains(*n)) {
                if state.listeners.tell(node, active.open_for(node, self.ctx.host())) {
                    active.served.insert(node.to_owned());
                }
            }
            if options.follow || !active.served.is_empty() {
                state.active.insert(id.clone(), active);
            }
        }
        Ok(Response::new(Subscribed { messages: ReceiverStream::new(rx), handle: self.clone(), id }))
    }

    async fn listen_subscriptions(
        &self,
        request: Request<v1::Empty>,
    ) -> Result<Response<Self::ListenSubscriptionsStream>, Status> {
        let node = String::from(authority::node(self.ctx.store(), request.extensions())?.node_id);
        let (tx, rx) = mpsc::channel(1024);
        let number = {
            let mut state = self.lock();
            for active in state.active.values_mut().filter(|a| a.options.follow) {
                if tx.try_send(Ok(active.open_for(&node, self.ctx.host()))).is_ok() {
                    active.served.insert(node.clone());
                }
            }
            state.listeners.enter(&node, tx.clone())
        };
        let handle = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = tx.closed() => {}
                () = handle.stop.cancelled() => {}
            }
            handle.listener_gone(&node, number);
        });
        Ok(Response::new(ReceiverStream::new(rx)))
    }

    async fn publish_logs(
        &self,
        request: Request<Streaming<v1::PublishLogsMessage>>,
    ) -> Result<Response<v1::Empty>, Status> {
        let node = String::from(authority::node(self.ctx.store(), request.extensions())?.node_id);
        let mut stream = request.into_inner();
        let mut id = None;
        while let Some(mut message) = stream.message().await? {
            id = Some(message.subscription_id.clone());
            let active = self.lock().active.get(&message.subscription_id).map(|a| (a.tx.clone(), a.options));
            // Gone: the agent learns by this call's end.
            let Some((tx, options)) = active else { break };
            let view = self.ctx.view();
            message.entries.retain(|e| can_be_told(&view, &e.task_id, options.follow));
            if !message.entries.is_empty() || !message.warning.is_empty() {
                let out = v1::SubscribeLogsMessage { entries: message.entries, warning: message.warning };
                if tx.send(Ok(out)).await.is_err() {
                    break;
                }
            }
            if message.close {
                break;
            }
        }
        if let Some(id) = id {
            self.node_done(&id, &node);
        }
        Ok(Response::new(v1::Empty {}))
    }
}

/// A subscriber's stream; dropping it ends the subscription.
pub struct Subscribed {
    messages: Messages<v1::SubscribeLogsMessage>,
    handle: LogsHandle,
    id: String,
}

impl futures::Stream for Subscribed {
    type Item = Result<v1::SubscribeLogsMessage, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.messages).poll_next(cx)
    }
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        self.handle.end(&self.id);
    }
}
