//! A relayed TCP connection: bytes go from one socket to the other by splice(2), and the end of one direction leaves
//! the other as it is.

use std::fs::File;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, SpliceFFlags, splice};
use nix::sys::socket::sockopt::KeepAlive;
use nix::sys::socket::{SockType, SockaddrStorage, connect, setsockopt};
use nix::unistd::pipe2;

use super::listener::towards;

/// What a pipe takes by default (pipe(7)).
const PIPE: usize = 64 << 10;
/// Bytes of one direction before others have their turn.
const SHARE: usize = 1 << 20;
/// Empty pipes kept for the next that needs one.
const SPARE: usize = 2;

/// A pipe that bytes go through on their way.
pub struct Pipe {
    read: File,
    write: OwnedFd,
}

/// Empty pipes. A direction has one of its own only while its receiver lags behind.
#[derive(Default)]
pub struct Pipes(Vec<Pipe>);

impl Pipes {
    fn take(&mut self) -> nix::Result<Pipe> {
        self.0.pop().map_or_else(
            || {
                pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
                    .map(|(read, write)| Pipe { read: read.into(), write })
            },
            Ok,
        )
    }

    fn give(&mut self, pipe: Pipe) {
        if self.0.len() < SPARE {
            self.0.push(pipe);
        }
    }
}

/// What a connection did.
pub enum Progress {
    /// It waits for the network.
    Waits,
    /// There is more.
    Goes,
    /// It has ended.
    Over,
}

/// A client's connection and the one to the container.
pub struct Session {
    /// It came in by this one.
    pub listener: u64,
    client: TcpStream,
    target: TcpStream,
    connecting: bool,
    up: Flow,
    down: Flow,
}

/// One direction.
#[derive(Default)]
struct Flow {
    pipe: Option<Pipe>,
    /// Bytes in the pipe.
    held: usize,
    /// The sender has ended.
    ended: bool,
    /// The receiver knows, or is no more.
    over: bool,
}

impl Session {
    /// Begins to connect to the container.
    pub fn open(listener: u64, client: TcpStream, to: SocketAddr) -> io::Result<Self> {
        let target = towards(SockType::Stream, to)?;
        client.set_nonblocking(true)?;
        client.set_nodelay(true)?;
        // What has gone without a word is not kept for ever.
        setsockopt(&client, KeepAlive, &true)?;
        setsockopt(&target, KeepAlive, &true)?;
        match connect(target.as_raw_fd(), &SockaddrStorage::from(to)) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(e) => return Err(e.into()),
        }
        let target = TcpStream::from(target);
        target.set_nodelay(true)?;
        Ok(Self { listener, client, target, connecting: true, up: Flow::default(), down: Flow::default() })
    }

    /// Both sockets.
    pub fn sockets(&self) -> [BorrowedFd<'_>; 2] {
        [self.client.as_fd(), self.target.as_fd()]
    }

    /// Moves what can be moved.
    pub fn progress(&mut self, pipes: &mut Pipes) -> Progress {
        if self.connecting {
            match (self.target.take_error(), self.target.peer_addr()) {
                (Ok(None), Ok(_)) => self.connecting = false,
                (Ok(None), Err(e)) if e.kind() == io::ErrorKind::NotConnected => return Progress::Waits,
                _ => return Progress::Over,
            }
        }
        let moved = self
            .up
            .advance(&self.client, &self.target, pipes)
            .and_then(|up| Ok(up | self.down.advance(&self.target, &self.client, pipes)?));
        match moved {
            // A sender that has broken off takes no answer any more.
            Err(_) => Progress::Over,
            Ok(_) if self.up.over && self.down.over => Progress::Over,
            Ok(true) => Progress::Goes,
            Ok(false) => Progress::Waits,
        }
    }
}

impl Flow {
    /// True when there is more to do at once. Fails with what is wrong with the sender.
    fn advance(&mut self, from: &TcpStream, to: &TcpStream, pipes: &mut Pipes) -> nix::Result<bool> {
        let mut left = SHARE;
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
        while !self.over {
            if let Some(pipe) = self.pipe.take_if(|_| self.held > 0) {
                match splice(&pipe.read, None, to, None, self.held, flags) {
                    Ok(n) if n > 0 => self.held -= n,
                    Err(Errno::EINTR) => {}
                    Err(Errno::EAGAIN) => {
                        self.pipe = Some(pipe);
                        return Ok(false);
                    }
                    // The receiver is gone. What it has said itself is still passed on, up to its end.
                    _ => {
                        self.over = true;
                        return Ok(false);
                    }
                }
                match self.held {
                    0 => pipes.give(pipe),
                    _ => self.pipe = Some(pipe),
                }
                continue;
            }
            if self.ended {
                // It may be gone already.
                let _ = to.shutdown(Shutdown::Write);
                self.over = true;
                return Ok(false);
            }
            if left == 0 {
                return Ok(true);
            }
            let pipe = pipes.take()?;
            match splice(from, None, &pipe.write, None, PIPE.min(left), flags) {
                Ok(0) => self.ended = true,
                Ok(n) => {
                    left -= n;
                    self.held = n;
                    self.pipe = Some(pipe);
                    continue;
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    pipes.give(pipe);
                    return Ok(false);
                }
                Err(e) => {
                    pipes.give(pipe);
                    return Err(e);
                }
            }
            pipes.give(pipe);
        }
        Ok(false)
    }
}
