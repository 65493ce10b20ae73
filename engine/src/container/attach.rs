//! Attaching to a container's standard streams, also before it is started: then the connection is made
//! between the making of its process and the start, so that not a byte is missed.

use std::pin::Pin;

use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::io::{AsyncWrite, DuplexStream};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use crate::config::ContainerState;
use crate::engine::Engine;
use crate::error::Error;
use crate::events::now_ns;
use crate::logs::{LogFrame, LogOptions, StdStream};
use crate::shim::Shim;

/// Bytes of input kept while nothing takes them.
pub(super) const INPUT_BUFFER: usize = 64 << 10;

/// What of the output to attach to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttachSpan {
    /// What comes.
    #[default]
    Live,
    /// What has been logged.
    Logged,
    /// What has been logged, and then what comes: each piece once.
    All,
}

/// Which streams to attach to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttachOptions {
    /// Write to its standard input.
    pub stdin: bool,
    /// Read its standard output.
    pub stdout: bool,
    /// Read its standard error.
    pub stderr: bool,
    /// What of the output.
    pub span: AttachSpan,
}

/// What takes input.
pub(super) type Input = Pin<Box<dyn AsyncWrite + Send>>;

/// The streams of an attached client.
pub struct Attached {
    /// Output as it comes; ends with the container's run.
    pub output: BoxStream<'static, Result<LogFrame, Error>>,
    /// Input; shutting it down (or dropping it) is the end of the container's standard input for this client.
    pub input: Option<Pin<Box<dyn AsyncWrite + Send>>>,
}

/// An attachment that waits for the container's process to be made.
pub(super) struct Pending {
    options: AttachOptions,
    connection: oneshot::Sender<Result<shim_side::Connection, Error>>,
}

impl Pending {
    /// Called by the start, before the process runs.
    pub(super) async fn connect(self, shim: &Shim, id: &str) {
        // Whoever attached may have left.
        let _ = self.connection.send(shim_side::connect(shim, self.options, id).await);
    }
}

impl Engine {
    /// Attaches to a container that runs, or is created and not started yet.
    pub async fn attach(&self, id: &str, o: AttachOptions) -> Result<Attached, Error> {
        let slot = self.table().find(id)?;
        let c = slot.container();
        let reads = o.stdout || o.stderr;
        let live = if o.span != AttachSpan::Logged && (o.stdin || reads) {
            // A start takes the lock too: either it finds us waiting, or we find its shim.
            let op = slot.op.lock().await;
            let shim = slot.shim();
            Some(match shim {
                Some(shim) => {
                    drop(op);
                    Ok(shim_side::connect(&shim, o, &slot.id).await?)
                }
                None if matches!(slot.container().state, ContainerState::Removing | ContainerState::Dead) => {
                    return Err(Error::Conflict(
                        "container is marked for removal and cannot be attached to".into(),
                    ));
                }
                None => {
                    let (connection, wait) = oneshot::channel();
                    slot.volatile().pending.push(Pending { options: o, connection });
                    Err(wait)
                }
            })
        } else {
            None
        };
        let past = if o.span != AttachSpan::Live && reads && !c.log_path.as_os_str().is_empty() {
            let until_ns = match &live {
                Some(Ok(connection)) => connection.since_ns,
                _ => now_ns(),
            };
            let log = LogOptions {
                stdout: o.stdout,
                stderr: o.stderr,
                until_ns: Some(until_ns),
                ..LogOptions::default()
            };
            self.logs(id, log).await?
        } else {
            futures::stream::empty().boxed()
        };
        let Some(live) = live else { return Ok(Attached { output: past, input: None }) };
        self.emit(&slot, "attach", &[]);
        let (ours, theirs) = tokio::io::duplex(INPUT_BUFFER);
        let (send, receive) = mpsc::channel(64);
        let feeds = o.stdin;
        tokio::spawn(async move {
            let connection = match live {
                Ok(c) => Ok(c),
                Err(wait) => tokio::select! {
                    // An error here: the container went away, or did not start.
                    c = wait => c.unwrap_or(Err(Error::ShuttingDown)),
                    () = send.closed() => return,
                },
            };
            match connection {
                Ok(c) => relay(c, feeds.then_some(theirs), send).await,
                Err(Error::ShuttingDown) => {}
                Err(e) => drop(send.send(Err(e)).await),
            }
        });
        let input: Option<Input> = if o.stdin { Some(Box::pin(ours)) } else { None };
        Ok(Attached { output: past.chain(ReceiverStream::new(receive)).boxed(), input })
    }
}

impl Engine {
    /// A client of a container typed the keys that leave its terminal.
    pub fn detached(&self, id: &str) {
        if let Ok(slot) = self.table().find(id) {
            self.emit(&slot, "detach", &[]);
        }
    }
}

/// Input one way, output the other, until the output ends.
async fn relay(
    c: shim_side::Connection,
    from: Option<DuplexStream>,
    to: mpsc::Sender<Result<LogFrame, Error>>,
) {
    let shim_side::Connection { mut output, mut input, .. } = c;
    let feed = tokio::spawn(async move {
        if let Some(mut from) = from {
            // A container that closes its input ends this; so does a client that leaves.
            if let Err(e) = tokio::io::copy(&mut from, &mut input).await {
                tracing::debug!(error = %e, "the input of an attached client ended");
            }
            if let Err(e) = tokio::io::AsyncWriteExt::shutdown(&mut input).await {
                tracing::debug!(error = %e, "the input of an attached client could not be closed");
            }
        }
        // Dropping it before the output ends would detach.
        input
    });
    loop {
        let frame = tokio::select! {
            frame = output.next() => frame,
            () = to.closed() => break,
        };
        let Some(frame) = frame else { break };
        if to.send(frame).await.is_err() {
            break;
        }
    }
    feed.abort();
}

/// The shim's streams in the engine's types.
mod shim_side {
    use super::*;

    pub(super) struct Connection {
        pub(super) output: BoxStream<'static, Result<LogFrame, Error>>,
        pub(super) input: Pin<Box<dyn AsyncWrite + Send>>,
        /// Until when its output is in the log.
        pub(super) since_ns: i64,
    }

    pub(super) async fn connect(shim: &Shim, o: AttachOptions, id: &str) -> Result<Connection, Error> {
        let failed = |reason: String| Error::Shim { id: id.to_owned(), reason };
        let begun = o.span == AttachSpan::All;
        let streams = shim.attach(o.stdin, o.stdout, o.stderr, begun).await;
        let streams = streams.map_err(|e| failed(e.to_string()))?;
        let since_ns = streams.since_ns;
        let id = id.to_owned();
        let output = streams.output.map(move |frame| match frame {
            Ok((stream, data)) => Ok(LogFrame {
                stream: if stream == 2 { StdStream::Stderr } else { StdStream::Stdout },
                timestamp_ns: now_ns(),
                data,
                attributes: Vec::new(),
            }),
            Err(e) => Err(Error::Shim { id: id.clone(), reason: e.to_string() }),
        });
        // Held in any case: dropping it would end this client's input.
        Ok(Connection { output: output.boxed(), input: Box::pin(streams.input), since_ns })
    }
}
