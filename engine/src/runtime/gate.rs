//! The socket between the shim and the container's first process: progress one way, "go on" the
//! other, and the pty's master. It closes on exec, which is how the shim sees the command run.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    socketpair,
};
use serde::{Deserialize, Serialize};

use super::error::{Context, Error};

/// Large enough for any error text; longer ones are cut.
const MAX_MESSAGE: usize = 8192;

/// What passes through.
#[derive(Debug, Serialize, Deserialize)]
pub enum Message {
    /// To the shim: the container's first process is there; its descriptor comes with this.
    Born {
        /// Its host PID.
        pid: i32,
    },
    /// To the child: the cgroup is there, go in.
    Join,
    /// To the shim: all is mounted, and hooks may look at it.
    Mounted,
    /// To the child: they have, go on.
    Enter,
    /// To the shim: the pty's master comes with this.
    Terminal,
    /// To the shim: all is set up, the command is found.
    Ready,
    /// To the child: run the command.
    Start,
    /// To the shim: it failed.
    Failed {
        /// Error text.
        message: String,
        /// Exit code it stands for.
        exit_code: i32,
    },
}

/// One end.
pub struct Gate(OwnedFd);

impl Gate {
    /// Both ends.
    pub fn pair() -> Result<(Self, Self), Error> {
        let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .on("make", "socket pair")?;
        Ok((Self(a), Self(b)))
    }

    /// Sends `message`, and `fd` with it.
    pub fn send(&self, message: &Message, fd: Option<&OwnedFd>) -> Result<(), Error> {
        let mut bytes = serde_json::to_vec(message).map_err(io::Error::from).on("encode", "message")?;
        if bytes.len() > MAX_MESSAGE {
            let cut = Message::Failed { message: "an error text too long to pass on".into(), exit_code: 128 };
            bytes = serde_json::to_vec(&cut).map_err(io::Error::from).on("encode", "message")?;
        }
        let raw: Vec<RawFd> = fd.iter().map(|f| f.as_raw_fd()).collect();
        let control: &[ControlMessage<'_>] = match raw.is_empty() {
            true => &[],
            false => &[ControlMessage::ScmRights(&raw)],
        };
        let iov = [io::IoSlice::new(&bytes)];
        sendmsg::<()>(self.0.as_raw_fd(), &iov, control, MsgFlags::MSG_NOSIGNAL, None)
            .on("send to", "container init")?;
        Ok(())
    }

    /// In a child that has got the other end's copy too: so that it sees that other end close.
    pub fn shut(&self) {
        // SAFETY: this process never uses the number again: it ends, or becomes another program.
        unsafe { libc::close(self.0.as_raw_fd()) };
    }

    /// For poll(2).
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// The next message with its descriptor; none when the other end is closed.
    pub fn receive(&self) -> Result<Option<(Message, Option<OwnedFd>)>, Error> {
        let mut buffer = [0u8; MAX_MESSAGE];
        let mut space = cmsg_space!(RawFd);
        let mut reset = false;
        let (length, fd) = loop {
            let mut iov = [io::IoSliceMut::new(&mut buffer)];
            match recvmsg::<()>(self.0.as_raw_fd(), &mut iov, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC) {
                Err(nix::Error::EINTR) => continue,
                // The other end left without reading what we sent. What it said before that is still to be read.
                Err(nix::Error::ECONNRESET) if !reset => reset = true,
                Err(nix::Error::ECONNRESET) => return Ok(None),
                Err(e) => return Err(e).on("receive from", "container init"),
                Ok(m) => {
                    let mut fd = None;
                    for c in m.cmsgs().on("receive from", "container init")? {
                        if let ControlMessageOwned::ScmRights(fds) = c {
                            // SAFETY: the kernel just gave us this descriptor.
                            fd = fds.first().map(|f| unsafe { OwnedFd::from_raw_fd(*f) });
                        }
                    }
                    break (m.bytes, fd);
                }
            }
        };
        if length == 0 {
            return Ok(None);
        }
        let message =
            serde_json::from_slice(&buffer[..length]).map_err(io::Error::from).on("decode", "message")?;
        Ok(Some((message, fd)))
    }
}
