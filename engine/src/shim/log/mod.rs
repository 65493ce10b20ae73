//! What a shim does with its container's output: into a file, to a receiver, or both.

mod file;
mod forward;
mod json;
mod lines;
mod process;
mod rotating;

use std::io;
use std::os::fd::RawFd;

use time::OffsetDateTime;

pub use lines::Lines;

use self::file::LogFile;
use self::forward::Forward;
use self::lines::Message;
use super::spec::ShimSpec;
use crate::log_entry::{EntryPart, LogEntry};

/// Where messages go.
pub struct Log {
    file: Option<LogFile>,
    forward: Option<Forward>,
}

impl Log {
    /// Opens the file and finds the receiver. To be called before anything of the container is there: a receiver
    /// has a process of its own, which must not hold on to it.
    pub fn open(spec: &ShimSpec) -> io::Result<Self> {
        let file = match spec.log.format() {
            Some(format) => Some(LogFile::open(spec, format)?),
            None => None,
        };
        let forward = if spec.log.is_remote() { Some(Forward::open(spec)?) } else { None };
        Ok(Self { file, forward })
    }

    /// Adds what `lines` has made of `data`.
    pub fn write(&mut self, lines: &mut Lines, data: &[u8]) -> io::Result<()> {
        if self.file.is_none() && self.forward.is_none() {
            return Ok(());
        }
        lines.feed(data, &mut |m| self.message(m))?;
        self.flush()
    }

    /// Adds an unfinished last line.
    pub fn finish(&mut self, lines: &mut Lines) -> io::Result<()> {
        if self.file.is_none() && self.forward.is_none() {
            return Ok(());
        }
        lines.finish(&mut |m| self.message(m))?;
        self.flush()
    }

    fn message(&mut self, m: &Message<'_>) -> io::Result<()> {
        // One that fails does not keep the message from the other.
        let written = self.file.as_mut().map_or(Ok(()), |f| f.add(m));
        if let Some(forward) = &mut self.forward {
            forward.add(&entry(m));
        }
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(forward) = &mut self.forward {
            forward.flush();
        }
        self.file.as_mut().map_or(Ok(()), LogFile::flush)
    }

    /// The receiver lags behind so far that the container has to wait.
    pub fn is_full(&self) -> bool {
        self.forward.as_ref().is_some_and(Forward::is_full)
    }

    /// To be polled for reading, and for writing where that is wanted.
    pub fn fd(&self) -> Option<(RawFd, bool)> {
        self.forward.as_ref().and_then(Forward::fd)
    }

    /// Sends on, and takes what the receiver's process has to say.
    pub fn progress(&mut self) -> Option<String> {
        self.forward.as_mut().and_then(Forward::progress)
    }

    /// Whether there is something left to send.
    pub fn is_pending(&self) -> bool {
        self.forward.as_ref().is_some_and(Forward::is_pending)
    }
}

/// As it stands in a `local` log, but for the attributes.
fn entry(m: &Message<'_>) -> LogEntry {
    LogEntry {
        source: m.stream.to_owned(),
        time_nano: m.time_ns,
        line: m.line.to_vec(),
        partial: m.part.is_some(),
        part: m.part.map(|p| EntryPart { last: p.last, id: p.id.to_owned(), ordinal: p.ordinal }),
        attributes: Vec::new(),
    }
}

/// Nanoseconds since the Unix epoch.
fn now_ns() -> i64 {
    i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos()).unwrap_or(0)
}
