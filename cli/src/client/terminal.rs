//! Our own terminal: raw mode while a container has it, its size, and the keys that detach from it.

use std::io::IsTerminal;
use std::os::fd::AsFd;

use anyhow::{Context, Result, bail};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// Standard input in raw mode, until this goes.
pub struct Raw {
    before: Termios,
}

impl Raw {
    /// Every key goes to the container as it is. Nothing to do where standard input is no terminal.
    pub fn enter() -> Result<Option<Self>> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(stdin.as_fd()).context("read the terminal's settings")?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &raw).context("put the terminal in raw mode")?;
        Ok(Some(Self { before }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The terminal may be gone; there is nobody to tell then.
        let _ = tcsetattr(std::io::stdin().as_fd(), SetArg::TCSANOW, &self.before);
    }
}

/// Standard input without echo, until this goes.
pub struct Silent {
    before: Termios,
}

impl Silent {
    /// What is typed is not shown.
    pub fn enter() -> Result<Self> {
        let stdin = std::io::stdin();
        let before = tcgetattr(stdin.as_fd()).context("read the terminal's settings")?;
        let mut silent = before.clone();
        silent.local_flags.remove(nix::sys::termios::LocalFlags::ECHO);
        tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &silent).context("put out the terminal's echo")?;
        Ok(Self { before })
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // The terminal may be gone; there is nobody to tell then.
        let _ = tcsetattr(std::io::stdin().as_fd(), SetArg::TCSANOW, &self.before);
    }
}

/// Standard input key by key and without echo, until this goes. Keys that send signals still do.
pub struct Keys {
    before: Termios,
}

impl Keys {
    /// None where standard input is no terminal, or one that others read: to ask it for keys would stop us.
    pub fn enter() -> Result<Option<Self>> {
        use nix::sys::termios::LocalFlags;
        let stdin = std::io::stdin();
        let others = nix::unistd::tcgetpgrp(stdin.as_fd()).is_ok_and(|group| group != nix::unistd::getpgrp());
        if !stdin.is_terminal() || others {
            return Ok(None);
        }
        let before = tcgetattr(stdin.as_fd()).context("read the terminal's settings")?;
        let mut keys = before.clone();
        keys.local_flags.remove(LocalFlags::ECHO | LocalFlags::ICANON);
        tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &keys).context("read the terminal key by key")?;
        Ok(Some(Self { before }))
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        // The terminal may be gone; there is nobody to tell then.
        let _ = tcsetattr(std::io::stdin().as_fd(), SetArg::TCSANOW, &self.before);
    }
}

/// Rows and columns of our output, if it is a terminal.
pub fn size() -> Option<(u16, u16)> {
    size_of(libc::STDOUT_FILENO)
}

/// Those of standard error.
pub fn size_of_errors() -> Option<(u16, u16)> {
    size_of(libc::STDERR_FILENO)
}

fn size_of(descriptor: i32) -> Option<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ (ioctl_tty(2)) writes one winsize through the pointer, which is valid for it.
    let code = unsafe { libc::ioctl(descriptor, libc::TIOCGWINSZ, &raw mut size) };
    (code == 0 && size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// Watches what is typed for the keys that detach; holds back what may be their beginning.
pub struct Escape {
    keys: Vec<u8>,
    seen: usize,
}

impl Escape {
    /// Reads `ctrl-p,ctrl-q`.
    pub fn parse(text: &str) -> Result<Self> {
        let one = |key: &str| match (key.as_bytes(), key.strip_prefix("ctrl-").map(str::as_bytes)) {
            ([c], _) => Ok(*c),
            (_, Some([c @ b'a'..=b'z'])) => Ok(c - b'a' + 1),
            (_, Some([c @ (b'@' | b'[' | b'\\' | b']' | b'^' | b'_')])) => Ok(c - b'@'),
            _ => bail!("invalid detach keys ({text}): Unknown character: '{key}'"),
        };
        Ok(Self { keys: text.split(',').map(one).collect::<Result<_>>()?, seen: 0 })
    }

    /// What of `data` is input, and whether the keys were typed.
    pub fn pass(&mut self, data: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(data.len() + self.seen);
        for &byte in data {
            if byte != self.keys[self.seen] {
                out.extend_from_slice(&self.keys[..std::mem::take(&mut self.seen)]);
            }
            if byte == self.keys[self.seen] {
                self.seen += 1;
            } else {
                out.push(byte);
            }
            if self.seen == self.keys.len() {
                return (out, true);
            }
        }
        (out, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_found_across_reads_and_nothing_else_is_lost() {
        let table: [(&[&[u8]], &[u8], bool); 4] = [
            (&[b"ab\x10", b"\x11cd"], b"ab", true),
            (&[b"ab\x10", b"cd"], b"ab\x10cd", false),
            (&[b"\x10\x10\x11"], b"\x10", true),
            (&[b"\x11"], b"\x11", false),
        ];
        for (reads, expected, detached) in table {
            let mut escape = Escape::parse("ctrl-p,ctrl-q").expect("keys");
            let (mut out, mut found) = (Vec::new(), false);
            for read in reads {
                let (data, end) = escape.pass(read);
                out.extend(data);
                found |= end;
            }
            assert_eq!((out.as_slice(), found), (expected, detached), "{reads:?}");
        }
        for bad in ["", "ctrl-", "ctrl-A", "ab"] {
            assert!(Escape::parse(bad).is_err(), "{bad}");
        }
    }
}
