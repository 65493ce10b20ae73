//! The shim's ends of a container's stdin, stdout and stderr: pipes, or the master of a pty.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;

use super::log::Lines;
use crate::runtime::Pipes;

/// Bytes of input kept for a container that does not read.
pub const MAX_PENDING: usize = 64 << 10;

/// One output stream.
pub struct Output {
    /// 1 = stdout (also a terminal), 2 = stderr.
    pub number: u8,
    /// Lines for the log.
    pub lines: Lines,
    file: Option<File>,
}

/// The container's stdio.
pub struct Stdio {
    /// What is read from.
    pub outputs: Vec<Output>,
    input: Option<File>,
    pending: Vec<u8>,
    close_after: bool,
}

fn nonblocking(fd: OwnedFd) -> io::Result<File> {
    fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(fd.into())
}

impl Stdio {
    /// Pipes, and the container's ends of them. Without `open_stdin` it reads nothing.
    pub fn pipes(open_stdin: bool) -> io::Result<(Self, Pipes)> {
        let (out_read, out_write) = pipe2(OFlag::O_CLOEXEC)?;
        let (err_read, err_write) = pipe2(OFlag::O_CLOEXEC)?;
        let (stdin, input) = match open_stdin {
            true => {
                let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
                (read, Some(nonblocking(write)?))
            }
            false => (File::open("/dev/null")?.into(), None),
        };
        let output = |number, name, fd| -> io::Result<Output> {
            Ok(Output { number, lines: Lines::new(name), file: Some(nonblocking(fd)?) })
        };
        let outputs = vec![output(1, "stdout", out_read)?, output(2, "stderr", err_read)?];
        Ok((Self { outputs, input, pending: Vec::new(), close_after: false }, [stdin, out_write, err_write]))
    }

    /// The master of a pty.
    pub fn terminal(master: &OwnedFd, open_stdin: bool) -> io::Result<Self> {
        let file = nonblocking(master.try_clone()?)?;
        let input = if open_stdin { Some(file.try_clone()?) } else { None };
        let output = Output { number: 1, lines: Lines::new("stdout"), file: Some(file) };
        Ok(Self { outputs: vec![output], input, pending: Vec::new(), close_after: false })
    }

    /// Takes input for the container; without an open stdin it is dropped.
    pub fn feed(&mut self, data: &[u8]) {
        if self.input.is_some() && !self.close_after {
            self.pending.extend_from_slice(data);
            self.pump();
        }
    }

    /// Writes what the container takes.
    pub fn pump(&mut self) {
        while let Some(input) = &mut self.input {
            if self.pending.is_empty() {
                if self.close_after {
                    self.input = None;
                }
                return;
            }
            match input.write(&self.pending) {
                Ok(n) => drop(self.pending.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.input = None;
                    self.pending.clear();
                }
            }
        }
    }

    /// Closes stdin once all that is pending has been taken.
    pub fn close_input(&mut self) {
        self.close_after = true;
        self.pump();
    }

    /// Whether more input may come.
    pub fn has_room(&self) -> bool {
        self.pending.len() < MAX_PENDING
    }

    /// To be polled for writing.
    pub fn waiting_input(&self) -> Option<RawFd> {
        self.input.as_ref().filter(|_| !self.pending.is_empty()).map(AsRawFd::as_raw_fd)
    }
}

/// What reading gave.
pub enum ReadOutcome {
    /// This many bytes.
    Data(usize),
    /// Nothing now.
    Empty,
    /// Nothing any more.
    Closed,
}

impl Output {
    /// To be polled for reading.
    pub fn fd(&self) -> Option<RawFd> {
        self.file.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// Sets the size, where it is a terminal.
    pub fn resize(&self, rows: u16, cols: u16) -> io::Result<()> {
        match &self.file {
            Some(file) => crate::runtime::resize(file, rows, cols),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Reads what is there.
    pub fn read(&mut self, buffer: &mut [u8]) -> ReadOutcome {
        loop {
            let Some(file) = &mut self.file else { return ReadOutcome::Closed };
            match file.read(buffer) {
                Ok(0) => {}
                Ok(n) => return ReadOutcome::Data(n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return ReadOutcome::Empty,
                // A pty's master gets EIO when nobody holds the slave (any more, or yet again).
                Err(_) => {}
            }
            self.file = None;
            return ReadOutcome::Closed;
        }
    }
}
