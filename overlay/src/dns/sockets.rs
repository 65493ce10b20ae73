//! Sockets opened inside a container's network namespace and used from outside it.
//!
//! They listen on a port of the kernel's choice, and port 53 is translated to it: a container that runs
//! a name server of its own can so have port 53 on all its addresses.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::SockProtocol;

use super::Error;
use crate::netlink::Socket;
use crate::nft::{self, Chain, Family, Field, Hook, Rule, Set, Table};

/// Where a container finds its name server.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
pub(super) const PORT: u16 = 53;

/// The table in the container's namespace, and the one map and chain in it.
const TABLE: &str = "skep_dns";
const MAP: &str = "servers";
const CHAIN: &str = "output";
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Where destinations are translated for what a host itself sends.
const OUTPUT_NAT: i32 = -100;

/// Both ways in.
pub(super) struct Sockets {
    pub udp: UdpSocket,
    pub tcp: TcpListener,
}

/// Opens them on a thread of its own, which enters the namespace and ends there: no thread of the
/// runtime ever leaves the host's.
pub(super) async fn open(netns: &Path, container: &str) -> Result<Sockets, Error> {
    let (netns, container): (PathBuf, String) = (netns.into(), container.into());
    let (result, opened) = tokio::sync::oneshot::channel();
    let (place, name) = (netns.clone(), container.clone());
    let enter = move |source| Error::Enter { container: container.clone(), netns: netns.clone(), source };
    let thread = std::thread::Builder::new().name("dns-netns".into());
    thread
        .spawn(move || {
            // Whoever asked may have been cancelled: then the sockets close again.
            let _ = result.send(open_inside(&place, &name));
        })
        .map_err(&enter)?;
    opened.await.map_err(|_| enter(io::Error::other("the thread died")))?
}

fn open_inside(netns: &Path, container: &str) -> Result<Sockets, Error> {
    let enter = |source| Error::Enter { container: container.to_owned(), netns: netns.to_owned(), source };
    let file = std::fs::File::open(netns).map_err(enter)?;
    setns(file, CloneFlags::CLONE_NEWNET).map_err(|e| enter(e.into()))?;
    let redirect = |source| Error::Redirect { container: container.to_owned(), source };
    let mut netlink = Socket::open(SockProtocol::NetlinkNetFilter)
        .map_err(|source| redirect(nft::Error::Socket { table: TABLE.into(), source }))?;
    let held = nft::read(&mut netlink, Family::V4, TABLE).map_err(redirect)?;
    let listen = |protocol, address| {
        let container = container.to_owned();
        move |source| Error::Listen { container, address, protocol, source }
    };
    let (udp, udp_port) = on_port(port_of(held.as_ref(), UDP), |address| {
        let socket = UdpSocket::bind(address).and_then(|s| s.set_nonblocking(true).map(|()| s));
        socket.and_then(|s| Ok((s.local_addr()?.port(), s))).map_err(listen("udp", address))
    })?;
    // The standard library sets SO_REUSEADDR: connections of a daemon before us do not block the port.
    let (tcp, tcp_port) = on_port(port_of(held.as_ref(), TCP), |address| {
        let socket = TcpListener::bind(address).and_then(|s| s.set_nonblocking(true).map(|()| s));
        socket.and_then(|s| Ok((s.local_addr()?.port(), s))).map_err(listen("tcp", address))
    })?;
    let wanted = table(udp_port, tcp_port);
    nft::apply(&mut netlink, Family::V4, TABLE, &nft::diff(held.as_ref(), &wanted)).map_err(redirect)?;
    Ok(Sockets { udp, tcp })
}

/// Listens where the server before us did, because clients may have conversations with that port that
/// the kernel goes on translating; anywhere else if it is taken.
fn on_port<T>(
    before: Option<u16>,
    bind: impl Fn(SocketAddr) -> Result<(u16, T), Error>,
) -> Result<(T, u16), Error> {
    let again = before.and_then(|port| bind(SocketAddr::from((ADDRESS, port))).ok());
    let (port, socket) = match again {
        Some(bound) => bound,
        None => bind(SocketAddr::from((ADDRESS, 0)))?,
    };
    Ok((socket, port))
}

/// Port 53 of the server's address to its real ports.
fn table(udp: u16, tcp: u16) -> Table {
    let mut servers = Set::map(&[Field::Protocol, Field::Addr, Field::Port], &[Field::Addr, Field::Port]);
    for (protocol, port) in [(UDP, udp), (TCP, tcp)] {
        servers.set(key(protocol), address_and_port(port));
    }
    let hook = Some(Hook::new("nat", nft::OUTPUT, OUTPUT_NAT));
    let rules = vec![Rule::to("name server").dnat_addr_port(MAP)];
    Table {
        timeouts: BTreeMap::new(),
        chains: [(CHAIN.to_owned(), Chain { hook, rules })].into(),
        sets: BTreeMap::from([(MAP.to_owned(), servers.into())]),
    }
}

/// Each field of a key takes a multiple of four bytes.
fn key(protocol: u8) -> Vec<u8> {
    [vec![protocol, 0, 0, 0], address_and_port(PORT)].concat()
}

fn address_and_port(port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    [ADDRESS.octets(), [high, low, 0, 0]].concat()
}

/// The port that the table of a server before us leads to.
fn port_of(held: Option<&Table>, protocol: u8) -> Option<u16> {
    let key = key(protocol);
    let element = held?.sets.get(MAP)?.elements.iter().find(|e| e.key == key)?;
    let bytes = element.data.get(4..6)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]])).filter(|port| *port != 0)
}
