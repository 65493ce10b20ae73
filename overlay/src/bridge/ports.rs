//! Published ports held on the host: a bound socket that does not listen keeps every other program off
//! the port, and tells us when one has it already. The traffic itself is translated by nftables and
//! never reaches the socket.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::sockopt::ReuseAddr;
use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockType, SockaddrIn, bind, listen, setsockopt, shutdown,
    socket,
};

use crate::error::{Error, Result};
use crate::model::{Bound, Publish};

const RANDOM_PORTS: std::ops::RangeInclusive<u16> = 32_768..=60_999;

/// The ports held, by owner.
#[derive(Debug, Default)]
pub struct Ports {
    held: BTreeMap<String, Vec<Held>>,
    /// Where the search for a free port goes on.
    next: u16,
}

#[derive(Debug)]
struct Held {
    bound: Bound,
    /// None for SCTP where the kernel has none: then only our own containers are checked against.
    _socket: Option<OwnedFd>,
}

impl Ports {
    /// Takes all ports or none.
    pub fn take(&mut self, owner: &str, wanted: &[Publish]) -> Result<Vec<Bound>> {
        let mut taken = Vec::new();
        for publish in wanted {
            taken.push(self.take_one(publish, &taken)?);
        }
        let bound = taken.iter().map(|h| h.bound.clone()).collect();
        self.held.entry(owner.into()).or_default().extend(taken);
        Ok(bound)
    }

    /// Takes again what an owner had, after a restart; what cannot be taken is returned.
    pub fn retake(&mut self, owner: &str, ports: &[Bound]) -> Vec<Error> {
        let mut errors = Vec::new();
        for port in ports {
            let wanted = Publish {
                protocol: port.protocol.clone(),
                container_port: port.container_port,
                host_ip: Some(IpAddr::V4(port.host_ip)),
                host_port: port.host_port,
                host_port_end: 0,
            };
            errors.extend(self.take(owner, &[wanted]).err());
        }
        errors
    }

    /// Gives back all ports of an owner.
    pub fn release(&mut self, owner: &str) {
        self.held.remove(owner);
    }

    /// Gives back all ports.
    pub fn release_all(&mut self) {
        self.held.clear();
    }

    /// Makes an owner's ports on all addresses exactly these (protocol, port); returns the ones that
    /// another program has.
    pub fn set(&mut self, owner: &str, wanted: &[(String, u16)]) -> Vec<(String, u16)> {
        let held = self.held.entry(owner.into()).or_default();
        held.retain(|h| wanted.contains(&(h.bound.protocol.clone(), h.bound.host_port)));
        let have: Vec<_> = held.iter().map(|h| (h.bound.protocol.clone(), h.bound.host_port)).collect();
        let mut refused = Vec::new();
        for (protocol, port) in wanted.iter().filter(|w| !have.contains(w)) {
            let publish = Publish {
                protocol: protocol.clone(),
                container_port: *port,
                host_ip: None,
                host_port: *port,
                host_port_end: 0,
            };
            if self.take(owner, &[publish]).is_err() {
                refused.push((protocol.clone(), *port));
            }
        }
        refused
    }

    fn take_one(&mut self, publish: &Publish, pending: &[Held]) -> Result<Held> {
        let unpublishable = |reason: &str| Error::Unpublishable {
            port: publish.container_port,
            protocol: publish.protocol.clone(),
            reason: reason.into(),
        };
        if publish.container_port == 0 {
            return Err(unpublishable("port 0 is none"));
        }
        let host_ip = match publish.host_ip {
            None => Ipv4Addr::UNSPECIFIED,
            Some(IpAddr::V4(addr)) => addr,
            Some(IpAddr::V6(addr)) if addr.is_unspecified() => Ipv4Addr::UNSPECIFIED,
            Some(IpAddr::V6(_)) => return Err(unpublishable("give an IPv4 host address")),
        };
        if !["tcp", "udp", "sctp"].contains(&publish.protocol.as_str()) {
            return Err(unpublishable("the protocol must be tcp, udp or sctp"));
        }
        let bound = |host_port| Bound {
            protocol: publish.protocol.clone(),
            container_port: publish.container_port,
            host_ip,
            host_port,
        };
        if publish.host_port != 0 {
            let last = publish.host_port_end.max(publish.host_port);
            let mut outcome = self.hold(bound(publish.host_port), pending);
            for port in publish.host_port..last {
                match outcome {
                    Err(Error::PortTaken { .. }) => outcome = self.hold(bound(port + 1), pending),
                    other => return other,
                }
            }
            return outcome;
        }
        for _ in RANDOM_PORTS {
            let port = self.next.clamp(*RANDOM_PORTS.start(), *RANDOM_PORTS.end());
            self.next = if port == *RANDOM_PORTS.end() { *RANDOM_PORTS.start() } else { port + 1 };
            match self.hold(bound(port), pending) {
                Err(Error::PortTaken { .. }) => {}
                other => return other,
            }
        }
        Err(Error::NoPort { host: host_ip.into(), protocol: publish.protocol.clone() })
    }

    fn hold(&self, bound: Bound, pending: &[Held]) -> Result<Held> {
        let taken = || Error::PortTaken {
            host: bound.host_ip.into(),
            port: bound.host_port,
            protocol: bound.protocol.clone(),
        };
        let clash = |other: &Held| {
            let other = &other.bound;
            other.protocol == bound.protocol
                && other.host_port == bound.host_port
                && (other.host_ip == bound.host_ip
                    || other.host_ip.is_unspecified()
                    || bound.host_ip.is_unspecified())
        };
        if self.held.values().flatten().chain(pending).any(clash) {
            return Err(taken());
        }
        let socket = match bind_only(&bound) {
            Ok(socket) => socket,
            Err(Errno::EADDRINUSE) => return Err(taken()),
            Err(errno) => {
                let place = format!("{}:{}/{}", bound.host_ip, bound.host_port, bound.protocol);
                return Err(Error::sys("bind", place)(errno));
            }
        };
        Ok(Held { bound, _socket: socket })
    }
}

/// Binds a socket that nothing ever connects to.
///
/// A TCP port that a program served until a moment ago has connections in TIME_WAIT, and is free for who binds
/// with SO_REUSEADDR (socket(7)). To listen for an instant makes the kernel compare with every other socket,
/// which such a bind does not; with the option off again, nobody else can listen on the port afterwards.
fn bind_only(bound: &Bound) -> nix::Result<Option<OwnedFd>> {
    let kind = match bound.protocol.as_str() {
        "tcp" => SockType::Stream,
        "udp" => SockType::Datagram,
        _ => return Ok(None),
    };
    let fd = socket(AddressFamily::Inet, kind, SockFlag::SOCK_CLOEXEC, None)?;
    let addr = SockaddrIn::from(SocketAddrV4::new(bound.host_ip, bound.host_port));
    if kind == SockType::Stream {
        setsockopt(&fd, ReuseAddr, &true)?;
        bind(fd.as_raw_fd(), &addr)?;
        listen(&fd, Backlog::new(0)?)?;
        shutdown(fd.as_raw_fd(), Shutdown::Both)?;
        setsockopt(&fd, ReuseAddr, &false)?;
    } else {
        bind(fd.as_raw_fd(), &addr)?;
    }
    Ok(Some(fd))
}
