//! Published ports held on the host: a bound socket that does not listen keeps every other program off
//! the port, and tells us when one has it already. The traffic itself is translated by nftables and
//! never reaches the socket. Ports of IPv6 that a container's shim serves are held by that.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::sockopt::{Ipv6V6Only, ReuseAddr};
use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt,
    shutdown, socket,
};

use crate::error::{Error, Result};
use crate::model::{Bound, Publish};

const RANDOM_PORTS: std::ops::RangeInclusive<u16> = 32_768..=60_999;

/// A port to be held.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// As asked for.
    pub publish: Publish,
    /// Addresses of the host, the same port on each.
    pub hosts: Vec<IpAddr>,
    /// Families (0.0.0.0 and `::`) in which it is open at the container's own address instead, which nobody else wants.
    pub opened: Vec<IpAddr>,
    /// Addresses of the container.
    pub targets: Vec<IpAddr>,
}

impl Wanted {
    fn new(protocol: &str, container_port: u16, host: IpAddr, host_port: u16) -> Self {
        let protocol = protocol.to_owned();
        let publish = Publish {
            protocol,
            container_port,
            host_ip: Some(host),
            interface: None,
            host_port,
            host_port_end: 0,
        };
        match host_port {
            0 => Self { publish, hosts: Vec::new(), opened: vec![host], targets: Vec::new() },
            _ => Self { publish, hosts: vec![host], opened: Vec::new(), targets: Vec::new() },
        }
    }

    /// Where a port of this host address leads, for people to read.
    fn target(&self, host: IpAddr) -> String {
        let port = self.publish.container_port;
        let same = self.targets.iter().find(|t| t.is_ipv4() == host.is_ipv4());
        let target = same.or(self.targets.first());
        target.map_or_else(|| port.to_string(), |addr| SocketAddr::new(*addr, port).to_string())
    }

    fn bound(&self, host_ip: IpAddr, host_port: u16) -> Bound {
        let Publish { protocol, container_port, .. } = &self.publish;
        let (protocol, container_port) = (protocol.clone(), *container_port);
        Bound { protocol, container_port, host_ip, host_port, interface: None }
    }
}

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
    /// None for SCTP where the kernel has none, and for what a shim holds: then only our own containers are checked
    /// against.
    socket: Option<OwnedFd>,
}

impl Ports {
    /// Takes all ports or none.
    pub fn take(&mut self, owner: &str, wanted: &[Wanted]) -> Result<Vec<Bound>> {
        let mut taken = Vec::new();
        for each in wanted {
            let mut more = self.take_one(each, &taken)?;
            more.extend(each.opened.iter().map(|host| Held { bound: each.bound(*host, 0), socket: None }));
            more.sort_by_key(|h| h.bound.host_ip.is_ipv6());
            taken.extend(more);
        }
        let bound = taken.iter().map(|h| h.bound.clone()).collect();
        self.held.entry(owner.into()).or_default().extend(taken);
        Ok(bound)
    }

    /// Makes an owner's ports those that are wanted now: what it has of them stays as it is, with the port of the host that
    /// was found for it, and the rest is given back first. All or none; `relayed` as in [`Ports::retake`]. Those on
    /// interfaces stay: see [`Ports::follow`].
    pub fn renew(
        &mut self,
        owner: &str,
        had: &[Bound],
        wanted: &[Wanted],
        relayed: bool,
    ) -> Result<Vec<Bound>> {
        let (followed, mut left): (Vec<_>, Vec<_>) = had.iter().cloned().partition(|b| b.interface.is_some());
        let (mut kept, mut fresh) = (Vec::new(), Vec::new());
        for each in wanted {
            let publish = &each.publish;
            let last = publish.host_port_end.max(publish.host_port);
            let fits = |port: u16| match publish.host_port {
                0 => port != 0,
                first => (first..=last).contains(&port),
            };
            let mut keep = |host: &IpAddr, good: &dyn Fn(u16) -> bool| {
                let same = |b: &Bound| {
                    (&b.protocol, b.container_port, b.host_ip)
                        == (&publish.protocol, publish.container_port, *host)
                        && good(b.host_port)
                };
                let at = left.iter().position(same)?;
                kept.push(left.remove(at));
                kept.last().map(|b| b.host_port)
            };
            let mut more = Wanted { hosts: Vec::new(), opened: Vec::new(), ..each.clone() };
            for host in &each.hosts {
                match keep(host, &fits) {
                    // The same for all addresses.
                    Some(port) => (more.publish.host_port, more.publish.host_port_end) = (port, 0),
                    None => more.hosts.push(*host),
                }
            }
            more.opened.extend(each.opened.iter().filter(|host| keep(host, &|port| port == 0).is_none()));
            if !more.hosts.is_empty() || !more.opened.is_empty() {
                fresh.push(more);
            }
        }
        if let Some(held) = self.held.get_mut(owner) {
            held.retain(|h| !left.contains(&h.bound));
        }
        let taken = match self.take(owner, &fresh) {
            Ok(taken) => taken,
            Err(error) => {
                let lost = self.retake(owner, &left, relayed);
                lost.iter()
                    .for_each(|error| tracing::warn!(owner, %error, "a port could not be taken again"));
                return Err(error);
            }
        };
        kept.extend(taken);
        kept.sort_by_key(|b| (b.container_port, b.host_ip.is_ipv6(), b.host_port));
        kept.extend(followed);
        Ok(kept)
    }

    /// Takes again what an owner had, after a restart; what cannot be taken is returned. `relayed` = its shim holds
    /// those of IPv6. Those on interfaces are left to be followed.
    pub fn retake(&mut self, owner: &str, ports: &[Bound], relayed: bool) -> Vec<Error> {
        let ports = ports.iter().filter(|p| p.interface.is_none());
        let (elsewhere, ours): (Vec<_>, Vec<_>) = ports.partition(|p| relayed && p.host_ip.is_ipv6());
        let held = elsewhere.into_iter().map(|bound| Held { bound: bound.clone(), socket: None });
        self.held.entry(owner.into()).or_default().extend(held);
        let wanted = ours.iter().map(|p| Wanted::new(&p.protocol, p.container_port, p.host_ip, p.host_port));
        wanted.filter_map(|wanted| self.take(owner, &[wanted]).err()).collect()
    }

    /// Makes an owner's ports on interfaces exactly these: those that are held now, and what went wrong with others. An
    /// address that has gone, or that the kernel does not let anybody use yet, is no matter: it will be told of again.
    /// `relayed` = its shim holds those of IPv6.
    pub fn follow(&mut self, owner: &str, wanted: &[Bound], relayed: bool) -> (Vec<Bound>, Vec<Error>) {
        let own = self.held.entry(owner.into()).or_default();
        own.retain(|h| h.bound.interface.is_none() || wanted.contains(&h.bound));
        let mut errors = Vec::new();
        for bound in wanted {
            if self.held[owner].iter().any(|h| h.bound == *bound) {
                continue;
            }
            match self.hold(bound.clone(), &bound.container_port.to_string(), &[]) {
                Ok(mut held) => {
                    if relayed && bound.is_relayed() {
                        held.socket = None;
                    }
                    self.held.entry(owner.into()).or_default().push(held);
                }
                Err(Error::PortHeld { source, .. })
                    if source.raw_os_error() == Some(Errno::EADDRNOTAVAIL as i32) => {}
                Err(error) => errors.push(error),
            }
        }
        let held = self.held[owner].iter().map(|h| &h.bound).filter(|b| b.interface.is_some());
        (held.cloned().collect(), errors)
    }

    /// Leaves an owner's ports of IPv6 to its shim, which takes them next.
    pub fn hand_over(&mut self, owner: &str) {
        let held = self.held.get_mut(owner).into_iter().flatten();
        held.filter(|h| h.bound.host_ip.is_ipv6()).for_each(|h| h.socket = None);
    }

    /// Gives back all ports of an owner.
    pub fn release(&mut self, owner: &str) {
        self.held.remove(owner);
    }

    /// Gives back all ports.
    pub fn release_all(&mut self) {
        self.held.clear();
    }

    /// Makes an owner's ports exactly these (protocol, address, port); returns the ones that another program has. An
    /// address that this host has not is no matter: nobody asks for it here.
    pub fn set(&mut self, owner: &str, wanted: &[(String, IpAddr, u16)]) -> Vec<(String, u16)> {
        let held = self.held.entry(owner.into()).or_default();
        let is = |h: &Held, (protocol, host, port): &(String, IpAddr, u16)| {
            h.bound.protocol == *protocol && h.bound.host_ip == *host && h.bound.host_port == *port
        };
        held.retain(|h| wanted.iter().any(|w| is(h, w)));
        let new: Vec<_> = wanted.iter().filter(|w| !held.iter().any(|h| is(h, w))).collect();
        let mut refused = Vec::new();
        for (protocol, host, port) in new {
            let publish = Wanted::new(protocol, *port, *host, *port);
            match self.take(owner, &[publish]) {
                Err(Error::PortHeld { source, .. })
                    if source.raw_os_error() == Some(Errno::EADDRNOTAVAIL as i32) => {}
                Err(_) => refused.push((protocol.clone(), *port)),
                Ok(_) => {}
            }
        }
        refused
    }

    fn take_one(&mut self, wanted: &Wanted, pending: &[Held]) -> Result<Vec<Held>> {
        let publish = &wanted.publish;
        let unpublishable = |reason: &str| Error::Unpublishable {
            port: publish.container_port,
            protocol: publish.protocol.clone(),
            reason: reason.into(),
        };
        if publish.container_port == 0 {
            return Err(unpublishable("port 0 is none"));
        }
        if !["tcp", "udp", "sctp"].contains(&publish.protocol.as_str()) {
            return Err(unpublishable("the protocol must be tcp, udp or sctp"));
        }
        if wanted.hosts.is_empty() {
            return Ok(Vec::new());
        }
        if publish.host_port != 0 {
            let last = publish.host_port_end.max(publish.host_port);
            let mut outcome = self.hold_all(wanted, publish.host_port, pending);
            for port in publish.host_port..last {
                match outcome {
                    Err(e) if e.is_port_in_use() => outcome = self.hold_all(wanted, port + 1, pending),
                    other => return other,
                }
            }
            return match outcome {
                Err(e) if e.is_port_in_use() && last > publish.host_port => {
                    let protocol = publish.protocol.clone();
                    Err(Error::PortsTaken { first: publish.host_port, last, protocol })
                }
                other => other,
            };
        }
        for _ in RANDOM_PORTS {
            let port = self.next.clamp(*RANDOM_PORTS.start(), *RANDOM_PORTS.end());
            self.next = if port == *RANDOM_PORTS.end() { *RANDOM_PORTS.start() } else { port + 1 };
            match self.hold_all(wanted, port, pending) {
                Err(e) if e.is_port_in_use() => {}
                other => return other,
            }
        }
        let host = wanted.hosts.first().copied().unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        Err(Error::NoPort { host, protocol: publish.protocol.clone() })
    }

    /// The port on all addresses asked for, or on none.
    fn hold_all(&self, wanted: &Wanted, host_port: u16, pending: &[Held]) -> Result<Vec<Held>> {
        let hold = |host: &IpAddr| self.hold(wanted.bound(*host, host_port), &wanted.target(*host), pending);
        wanted.hosts.iter().map(hold).collect()
    }

    fn hold(&self, bound: Bound, target: &str, pending: &[Held]) -> Result<Held> {
        let (host, port) = (bound.host_ip, bound.host_port);
        let clash = |other: &Held| {
            let other = &other.bound;
            other.protocol == bound.protocol
                && other.host_port == bound.host_port
                && other.host_ip.is_ipv4() == bound.host_ip.is_ipv4()
                && (other.host_ip == bound.host_ip
                    || other.host_ip.is_unspecified()
                    || bound.host_ip.is_unspecified())
        };
        if self.held.values().flatten().chain(pending).any(clash) {
            return Err(Error::PortTaken { host, port });
        }
        let socket = bind_only(&bound).map_err(|errno| Error::PortHeld {
            host,
            port,
            target: target.to_owned(),
            protocol: bound.protocol.clone(),
            source: errno.into(),
        })?;
        Ok(Held { bound, socket })
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
    let v4 = bound.host_ip.is_ipv4();
    let family = if v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if !v4 {
        setsockopt(&fd, Ipv6V6Only, &true)?;
    }
    let addr = SockaddrStorage::from(SocketAddr::new(bound.host_ip, bound.host_port));
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
