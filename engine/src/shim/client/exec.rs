//! Further commands in a container, over a connection of their own each.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures::{Stream, StreamExt};

use super::{AttachInput, Frames, Line, Shim, ShimError, next, unexpected};
use crate::shim::protocol;
use crate::shim::spec::{ExecSpec, ExecState, Exit};

/// A command that runs.
#[derive(Debug)]
pub struct Exec {
    /// Its host PID.
    pub pid: u32,
    /// Ends with the command.
    pub output: ExecOutput,
    /// Shutting it down is the end of the command's stdin.
    pub input: AttachInput,
}

/// Something a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecEvent {
    /// It wrote: stream (1 stdout, 2 stderr; a terminal is all stdout) and bytes.
    Output(u8, Bytes),
    /// It ended. Nothing comes after this.
    Ended(Exit),
}

/// What a command does.
#[derive(Debug)]
pub struct ExecOutput(Frames);

impl Stream for ExecOutput {
    type Item = io::Result<ExecEvent>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let event = match ready!(self.0.poll_next_unpin(cx)) {
                None => return Poll::Ready(None),
                Some(Err(e)) => Err(e),
                Some(Ok(mut frame)) => match frame.first() {
                    Some(&protocol::OUTPUT) if frame.len() >= 2 => {
                        let stream = frame[1];
                        frame.advance(2);
                        Ok(ExecEvent::Output(stream, frame.freeze()))
                    }
                    Some(&protocol::EXITED) => {
                        serde_json::from_slice(&frame[1..]).map(ExecEvent::Ended).map_err(io::Error::from)
                    }
                    _ => continue,
                },
            };
            return Poll::Ready(Some(event));
        }
    }
}

impl Shim {
    /// Runs a further command. Returns once it has been executed.
    pub async fn exec(&self, spec: &ExecSpec) -> Result<Exec, ShimError> {
        let json = serde_json::to_vec(spec).map_err(io::Error::from);
        let json = json.map_err(ShimError::system("encode exec for", &self.bundle))?;
        let Line { mut frames, write, .. } = self.connection().await?;
        let (mut pid, write) = self.ask(&mut frames, write, protocol::EXEC, &[&json]).await?;
        let pid = if pid.len() == 4 { pid.get_u32() } else { 0 };
        Ok(Exec { pid, output: ExecOutput(frames), input: AttachInput::new(write) })
    }

    /// The commands that run, and the last ones whose end nobody was told of.
    pub async fn execs(&self) -> Result<Vec<ExecState>, ShimError> {
        let json = self.request(protocol::LIST_EXECS, &[]).await?;
        let list = serde_json::from_slice(&json).map_err(io::Error::from);
        list.map_err(ShimError::system("decode execs of", &self.bundle))
    }

    /// Waits for the end of a command that an earlier daemon started.
    pub async fn wait_exec(&self, id: &str) -> Result<Exit, ShimError> {
        let Line { mut frames, mut write, .. } = self.connection().await?;
        let mut request = Vec::new();
        protocol::put(&mut request, protocol::WAIT_EXEC, &[id.as_bytes()]);
        let sent = tokio::io::AsyncWriteExt::write_all(&mut write, &request).await;
        sent.map_err(ShimError::system("ask shim in", &self.bundle))?;
        loop {
            match next(&mut frames, &self.bundle).await? {
                (protocol::OUTPUT, _) => {}
                (protocol::EXITED, json) => {
                    let exit = serde_json::from_slice(&json).map_err(io::Error::from);
                    return exit.map_err(ShimError::system("decode exit in", &self.bundle));
                }
                other => return Err(unexpected(other, &self.bundle)),
            }
        }
    }

    /// Sets the size of a command's terminal.
    pub async fn resize_exec(&self, id: &str, rows: u16, cols: u16) -> Result<(), ShimError> {
        let (rows, cols) = (rows.to_be_bytes(), cols.to_be_bytes());
        self.request(protocol::RESIZE_EXEC, &[&rows, &cols, id.as_bytes()]).await.map(|_| ())
    }

    /// Sends a command a signal.
    pub async fn signal_exec(&self, id: &str, signal: i32) -> Result<(), ShimError> {
        let number = (signal as u32).to_be_bytes();
        self.request(protocol::SIGNAL_EXEC, &[&number, id.as_bytes()]).await.map(|_| ())
    }
}
