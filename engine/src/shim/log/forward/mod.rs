//! Messages on their way to a receiver, by a process that waits for it in the shim's stead. It outlives the
//! container by a few seconds, to hand over what is left.

mod endpoint;
mod fluentd;
mod journald;
mod msgpack;
mod sender;
mod syslog;
mod tls;

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use self::sender::{Errand, READY};
use super::process;
use crate::log_entry::LogEntry;
use crate::shim::spec::ShimSpec;

/// Bytes that may wait here before the container has to.
const HIGH_WATER: usize = 64 << 10;
/// Longest wait for a receiver at the container's start.
const FIRST_CONTACT: Duration = Duration::from_secs(20);
/// A process that ends is not replaced more often.
const AGAIN: Duration = Duration::from_secs(5);

/// The shim's end of it.
pub(super) struct Forward {
    errand: Errand,
    socket: Option<UnixStream>,
    since: Instant,
    outbox: Vec<u8>,
    sent: usize,
    /// Mode `non-blocking`: bytes kept; what comes on top is lost.
    ring: Option<usize>,
    lost: u64,
    inbox: Vec<u8>,
}

impl Forward {
    /// Starts the process; fails with the receiver's reason where it must be there and is not.
    pub(super) fn open(spec: &ShimSpec) -> io::Result<Self> {
        let errand = Errand::new(spec).map_err(io::Error::other)?;
        let socket = start(&errand)?;
        let mut forward = Self {
            errand,
            socket: None,
            since: Instant::now(),
            outbox: Vec::new(),
            sent: 0,
            ring: spec.log.ring(),
            lost: 0,
            inbox: Vec::new(),
        };
        socket.set_read_timeout(Some(FIRST_CONTACT))?;
        // What it says first: that it is ready, or why not.
        let mut line = Vec::new();
        let mut byte = [0];
        while (&socket).read(&mut byte)? == 1 && byte != *b"\n" {
            line.push(byte[0]);
        }
        if line != READY.as_bytes() {
            return Err(io::Error::other(String::from_utf8_lossy(&line).into_owned()));
        }
        socket.set_nonblocking(true)?;
        forward.socket = Some(socket);
        Ok(forward)
    }

    /// Adds a message.
    pub(super) fn add(&mut self, entry: &LogEntry) {
        if self.ring.is_some_and(|ring| self.waiting() + entry.line.len() > ring) {
            self.lost += 1;
            return;
        }
        if self.sent > HIGH_WATER {
            self.outbox.drain(..std::mem::take(&mut self.sent));
        }
        entry.put(&mut self.outbox);
    }

    fn waiting(&self) -> usize {
        self.outbox.len() - self.sent
    }

    /// Sends what the process takes.
    pub(super) fn flush(&mut self) {
        while self.sent < self.outbox.len() {
            let Some(socket) = &mut self.socket else { return };
            match socket.write(&self.outbox[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // Told of when it is read from.
                Err(_) => return,
            }
        }
        self.outbox.clear();
        self.sent = 0;
    }

    /// The container has to wait.
    pub(super) fn is_full(&self) -> bool {
        self.ring.is_none() && self.waiting() > HIGH_WATER
    }

    /// Not everything is sent.
    pub(super) fn is_pending(&self) -> bool {
        self.socket.is_some() && self.waiting() > 0
    }

    pub(super) fn fd(&self) -> Option<(RawFd, bool)> {
        self.socket.as_ref().map(|s| (s.as_raw_fd(), self.waiting() > 0))
    }

    /// Sends on; the last thing that the process has said.
    pub(super) fn progress(&mut self) -> Option<String> {
        self.flush();
        let mut said = None;
        let mut buffer = [0; 4096];
        while let Some(socket) = &mut self.socket {
            match socket.read(&mut buffer) {
                Ok(n) if n > 0 => self.inbox.extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => {
                    said = Some("the process that sends messages on has ended".to_owned());
                    self.replace();
                    break;
                }
            }
        }
        while let Some(end) = self.inbox.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.inbox.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line[..end]).into_owned();
            if line != READY {
                said = Some(line);
            }
        }
        if self.lost > 0 && self.waiting() == 0 {
            let lost = std::mem::take(&mut self.lost);
            said = Some(format!("{lost} messages found the buffer full and are lost"));
        }
        said
    }

    /// What was half sent cannot be taken up by another process.
    fn replace(&mut self) {
        self.socket = None;
        self.outbox.clear();
        self.sent = 0;
        if self.since.elapsed() > AGAIN {
            self.since = Instant::now();
            self.socket = start(&self.errand).ok().filter(|s| s.set_nonblocking(true).is_ok());
        }
    }
}

fn start(errand: &Errand) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    let theirs = OwnedFd::from(theirs);
    process::detached(&theirs, |fd| sender::run(errand, fd.into()))?;
    Ok(ours)
}
