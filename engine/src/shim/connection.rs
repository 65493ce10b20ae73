//! One client of the shim: buffered frames in both directions over a nonblocking socket.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use super::protocol;

/// While a client has more than this to take, the container's output is not read.
pub const HIGH_WATER: usize = 64 << 10;

/// A connected client.
pub struct Connection {
    /// `ATTACH_*` flags.
    pub attached: u8,
    /// Wants to be told of the exit.
    pub waiting: bool,
    /// The exec it was asked for by, or waits for.
    pub exec: Option<u32>,
    /// Its end of input has been dealt with.
    pub input_ended: bool,
    stream: UnixStream,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    sent: usize,
    readable: bool,
    broken: bool,
}

impl Connection {
    /// Takes over an accepted stream.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            attached: 0,
            waiting: false,
            exec: None,
            input_ended: false,
            stream,
            inbox: Vec::new(),
            outbox: Vec::new(),
            sent: 0,
            readable: true,
            broken: false,
        })
    }

    /// The socket.
    pub fn fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    /// Whether the client may still send.
    pub fn is_readable(&self) -> bool {
        self.readable && !self.broken
    }

    /// Whether there is something left to send.
    pub fn has_output(&self) -> bool {
        !self.broken && self.sent < self.outbox.len()
    }

    /// Whether it lags behind so far that the container has to wait.
    pub fn is_full(&self) -> bool {
        !self.broken && self.outbox.len() - self.sent > HIGH_WATER
    }

    /// Whether nothing more can come of it.
    pub fn is_done(&self) -> bool {
        let expects = self.attached != 0 || self.waiting || self.exec.is_some();
        self.broken || (!self.readable && !self.has_output() && !expects)
    }

    /// Whether the client is gone.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Gives it up.
    pub fn give_up(&mut self) {
        self.broken = true;
    }

    /// Reads once. False when the client has ended its input.
    pub fn fill(&mut self, buffer: &mut [u8]) -> bool {
        match self.stream.read(buffer) {
            Ok(0) => self.readable = false,
            Ok(n) => self.inbox.extend_from_slice(&buffer[..n]),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.broken = true,
        }
        self.readable && !self.broken
    }

    /// The next whole frame.
    pub fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        match protocol::first(&self.inbox) {
            Ok(Some((length, kind, payload))) => {
                let payload = payload.to_vec();
                self.inbox.drain(..length);
                Some((kind, payload))
            }
            Ok(None) => None,
            Err(_) => {
                self.broken = true;
                None
            }
        }
    }

    /// Queues a frame and sends what the socket takes.
    pub fn send(&mut self, kind: u8, payload: &[&[u8]]) {
        if !self.broken {
            protocol::put(&mut self.outbox, kind, payload);
            self.flush();
        }
    }

    /// Sends what the socket takes.
    pub fn flush(&mut self) {
        while self.sent < self.outbox.len() {
            match self.stream.write(&self.outbox[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.broken = true;
                    return;
                }
            }
        }
        self.outbox.clear();
        self.sent = 0;
    }
}
