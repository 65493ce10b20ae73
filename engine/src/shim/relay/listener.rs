//! The host's side of a relayed port: a socket of IPv6 alone, since IPv4 is the kernel's business.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::sockopt::{Ipv6RecvPacketInfo, Ipv6V6Only, ReuseAddr};
use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockType, SockaddrIn6, bind, listen, setsockopt, shutdown,
    socket,
};

use super::super::spec::Relay;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// A port and where it leads.
pub struct Listener {
    pub relay: Relay,
    pub socket: Socket,
}

/// Of either protocol.
pub enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl Socket {
    /// Takes the port, and serves nobody yet.
    pub fn bind(relay: &Relay) -> io::Result<Self> {
        let kind = if relay.protocol == "udp" { SockType::Datagram } else { SockType::Stream };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Inet6, kind, flags, None)?;
        setsockopt(&fd, Ipv6V6Only, &true)?;
        match kind {
            // What was served here a moment ago is in TIME_WAIT still.
            SockType::Stream => setsockopt(&fd, ReuseAddr, &true)?,
            // A client is answered from the address it has asked.
            _ => setsockopt(&fd, Ipv6RecvPacketInfo, &true)?,
        }
        bind(fd.as_raw_fd(), &SockaddrIn6::from(relay.from))?;
        Ok(match kind {
            SockType::Stream => Self::Tcp(fd.into()),
            _ => Self::Udp(fd.into()),
        })
    }

    /// Begins to serve.
    pub fn listen(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => Ok(listen(socket, Backlog::new(BACKLOG)?)?),
            Self::Udp(socket) => {
                // What came while it led nowhere.
                while socket.recv(&mut [0; 1]).is_ok() {}
                Ok(())
            }
        }
    }

    /// Keeps the port from others, and serves nobody.
    pub fn hold(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => Ok(shutdown(socket.as_raw_fd(), Shutdown::Both)?),
            Self::Udp(_) => Ok(()),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
        }
    }
}

/// A socket that leads to the container, at an address of this family.
pub fn towards(kind: SockType, to: SocketAddr) -> nix::Result<OwnedFd> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
}
