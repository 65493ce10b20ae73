//! The socket that a runtime sends the master of a container's terminal through.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use super::super::error::{Context, Error};

/// How long the runtime's message may take: it was sent before the runtime ended.
const PATIENCE: Duration = Duration::from_secs(10);

/// The socket, at a path that is removed with it.
pub struct Console {
    listener: UnixListener,
    path: String,
}

impl Console {
    /// At a path relative to the working directory, since a socket's may not be long.
    pub fn listen(path: &str) -> Result<Self, Error> {
        let listener = UnixListener::bind(path).on("listen on", path)?;
        listener.set_nonblocking(true).on("listen on", path)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// The master, once the runtime has ended well.
    pub fn receive(self) -> Result<OwnedFd, Error> {
        let (stream, _) = self.listener.accept().map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => Error::Refused("the runtime sent no terminal".into()),
            _ => Error::System { operation: "accept on", subject: self.path.clone(), source: e },
        })?;
        stream.set_nonblocking(false).on("read", &self.path)?;
        stream.set_read_timeout(Some(PATIENCE)).on("read", &self.path)?;
        let (mut buffer, mut space) = ([0u8; 4096], cmsg_space!(RawFd));
        let mut iov = [io::IoSliceMut::new(&mut buffer)];
        let message =
            recvmsg::<()>(stream.as_raw_fd(), &mut iov, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)
                .on("receive from", "the runtime")?;
        for c in message.cmsgs().on("receive from", "the runtime")? {
            if let ControlMessageOwned::ScmRights(fds) = c
                && let Some(fd) = fds.first()
            {
                // SAFETY: the kernel just gave us this descriptor.
                return Ok(unsafe { OwnedFd::from_raw_fd(*fd) });
            }
        }
        Err(Error::Refused("the runtime sent no terminal".into()))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // The bundle's removal takes what is left.
        let _ = std::fs::remove_file(&self.path);
    }
}
