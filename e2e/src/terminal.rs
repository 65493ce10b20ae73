//! A client at a terminal, as a person has it: what it shows, what is typed, how large it is.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::process::{Child, Command};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// Longest wait for what a terminal is to show.
const PATIENCE: Duration = Duration::from_secs(60);

/// A command that runs at a terminal of 33 rows and 77 columns.
pub struct Terminal {
    child: Child,
    master: std::fs::File,
    shown: String,
}

fn size(rows: u16, columns: u16) -> nix::pty::Winsize {
    nix::pty::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

impl Terminal {
    /// Starts it.
    pub fn start(mut command: Command) -> Result<Self> {
        let pty = nix::pty::openpty(Some(&size(33, 77)), None)?;
        command.stdin(pty.slave.try_clone()?).stdout(pty.slave.try_clone()?).stderr(pty.slave.try_clone()?);
        let child = command.spawn()?;
        Ok(Self { child, master: std::fs::File::from(pty.master), shown: String::new() })
    }

    /// Types.
    pub fn write(&mut self, text: &[u8]) -> Result<()> {
        Ok(self.master.write_all(text)?)
    }

    /// Waits until it shows these words, a minute at most, and forgets what came before.
    pub fn until(&mut self, words: &str) -> Result<()> {
        let mut buffer = [0; 4096];
        let deadline = Instant::now() + PATIENCE;
        while !self.shown.contains(words) {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut fd = libc::pollfd { fd: self.master.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one live pollfd.
            let ready = unsafe { libc::poll(&raw mut fd, 1, i32::try_from(left.as_millis())?) };
            ensure!(ready != 0, "{words:?} is not in {:?} after {PATIENCE:?}", self.shown);
            let n = self.master.read(&mut buffer);
            let n = n.with_context(|| format!("{words:?} is not in {:?}", self.shown))?;
            self.shown.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
        self.shown.clear();
        Ok(())
    }

    /// Makes it larger, until it shows these words.
    pub fn resize(&mut self, rows: u16, columns: u16, words: &str) -> Result<()> {
        let new = size(rows, columns);
        // SAFETY: a live winsize.
        let set = unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const new) };
        ensure!(set == 0, "cannot resize the test's terminal");
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id())?);
        let (seen, ended) = channel::<()>();
        std::thread::scope(|scope| {
            // The client may not listen to the signal yet, and nothing tells when it does.
            scope.spawn(move || {
                loop {
                    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGWINCH);
                    if ended.recv_timeout(Duration::from_millis(100)) != Err(RecvTimeoutError::Timeout) {
                        return;
                    }
                }
            });
            let found = self.until(words);
            drop(seen);
            found
        })
    }

    /// Waits for its end; its exit code.
    pub fn wait(mut self) -> Result<Option<i32>> {
        Ok(self.child.wait()?.code())
    }
}
