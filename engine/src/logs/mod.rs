//! Reading the logs that shims write, json-file or `local`: rotated files included, from the end, and on as they grow.

mod files;
mod follow;
#[cfg(test)]
mod fuzz_tests;
mod line;
mod source;

use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::engine::Engine;
use crate::error::Error;
use files::Backlog;
use follow::Follower;
#[cfg(test)]
pub(crate) use line::parse;

/// Which standard stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StdStream {
    /// Standard input (never in a log).
    Stdin,
    /// Standard output, and everything of a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What to read of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Go on as long as the container runs.
    pub follow: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Nothing before this time (nanoseconds since the Unix epoch).
    pub since_ns: Option<i64>,
    /// Nothing after this time.
    pub until_ns: Option<i64>,
    /// Only this many of the last lines; none = all.
    pub tail: Option<u64>,
}

/// A piece of output: a line, or a part of a very long one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFrame {
    /// Where it was written.
    pub stream: StdStream,
    /// Nanoseconds since the Unix epoch.
    pub timestamp_ns: i64,
    /// The bytes, with their line end.
    pub data: Bytes,
    /// Labels and variables told with it, by name.
    pub attributes: Vec<(String, String)>,
}

impl LogOptions {
    fn wants(&self, f: &LogFrame) -> bool {
        let stream = match f.stream {
            StdStream::Stdout => self.stdout,
            StdStream::Stderr => self.stderr,
            StdStream::Stdin => false,
        };
        stream && self.since_ns.is_none_or(|t| f.timestamp_ns >= t)
    }

    fn is_past(&self, f: &LogFrame) -> bool {
        self.until_ns.is_some_and(|t| f.timestamp_ns > t)
    }
}

/// Frames on their way to whoever reads the log.
type Frames = mpsc::Sender<Result<LogFrame, Error>>;

impl Engine {
    /// The container's log. A damaged line comes as an [`Error::DamagedLog`], and what follows it goes on.
    pub async fn logs(
        &self,
        id: &str,
        o: LogOptions,
    ) -> Result<BoxStream<'static, Result<LogFrame, Error>>, Error> {
        let slot = self.table().find(id)?;
        let c = slot.container();
        let format = c.config.log.format().filter(|_| !c.log_path.as_os_str().is_empty());
        let Some(format) = format else {
            return Err(Error::Invalid("configured logging driver does not support reading".into()));
        };
        if !o.stdout && !o.stderr {
            return Err(Error::Invalid("Bad parameters: you must choose at least one stream".into()));
        }
        let (send, receive) = mpsc::channel(256);
        let life = slot.life.subscribe();
        let follow = o.follow && life.borrow().running;
        // Watched before the first read, so that nothing falls between the two.
        let follower = if follow { Some(Follower::watch(&c.log_path, format)?) } else { None };
        let closing = self.closing().clone();
        tokio::spawn(async move {
            let path = c.log_path.clone();
            let (options, frames) = (o.clone(), send.clone());
            let read = tokio::task::spawn_blocking(move || {
                Backlog::open(&path, format, options.tail)?.send(&options, &frames)
            });
            let at = match read.await {
                Ok(Ok(Some(at))) => at,
                Ok(Ok(None)) | Err(_) => return,
                Ok(Err(e)) => {
                    // Nobody listens when the reader has gone.
                    let _ = send.send(Err(e)).await;
                    return;
                }
            };
            if let Some(follower) = follower {
                tokio::select! {
                    () = follower.run(at, o, send, life) => {}
                    () = closing.cancelled() => {}
                }
            }
        });
        Ok(Box::pin(ReceiverStream::new(receive)))
    }
}
