//! Relayed datagrams: a socket to the container for each client, by which its answers are told from others'.

use std::collections::BTreeMap;
use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockType, SockaddrIn6, SockaddrStorage, connect, recvmsg,
    sendmsg,
};

use super::TURNS;
use super::listener::{Listener, towards};

/// How long a client is known that neither asks nor is answered.
const SILENCE: Duration = Duration::from_secs(90);
/// How often those are looked for.
const LOOK: Duration = Duration::from_secs(30);
/// The longest datagram.
const LONGEST: usize = 65_535;

/// Who sent a datagram, and to what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Peer {
    listener: u64,
    client: SocketAddrV6,
    /// The address of the host that was asked.
    asked: [u8; 16],
    interface: u32,
}

struct Client {
    peer: Peer,
    socket: UdpSocket,
    heard: Instant,
}

/// All clients.
pub struct Clients {
    known: BTreeMap<Peer, u64>,
    all: BTreeMap<u64, Client>,
    /// When silent ones are looked for next.
    look: Option<Instant>,
    buffer: Vec<u8>,
    most: usize,
}

impl Clients {
    /// At most so many at a time.
    pub fn new(most: usize) -> Self {
        Self { known: BTreeMap::new(), all: BTreeMap::new(), look: None, buffer: Vec::new(), most }
    }

    /// Passes one datagram on. False when there is none. `admit` has the answers told of, under a number.
    pub fn receive(
        &mut self,
        listener: u64,
        from: BorrowedFd<'_>,
        to: SocketAddr,
        admit: impl FnOnce(BorrowedFd<'_>) -> nix::Result<u64>,
    ) -> bool {
        self.buffer.resize(LONGEST, 0);
        let mut space = nix::cmsg_space!(libc::in6_pktinfo);
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let got = recvmsg::<SockaddrIn6>(from.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty());
        let got = got.map(|m| {
            let asked = m.cmsgs().ok().and_then(|mut all| {
                all.find_map(|c| match c {
                    ControlMessageOwned::Ipv6PacketInfo(info) => Some(info),
                    _ => None,
                })
            });
            (m.bytes, m.address, asked)
        });
        let there = match got {
            Ok((bytes, Some(client), Some(asked))) => {
                let peer = Peer {
                    listener,
                    client: client.into(),
                    asked: asked.ipi6_addr.s6_addr,
                    interface: asked.ipi6_ifindex,
                };
                // One that cannot be passed on is lost, as datagrams may be.
                if let Ok(client) = self.client(peer, to, admit) {
                    let _ = client.socket.send(&buffer[..bytes]);
                }
                true
            }
            Ok(_) | Err(nix::errno::Errno::EINTR) => true,
            // Of an earlier answer that reached nobody, for one.
            Err(nix::errno::Errno::EAGAIN) => false,
            Err(_) => true,
        };
        self.buffer = buffer;
        there
    }

    fn client(
        &mut self,
        peer: Peer,
        to: SocketAddr,
        admit: impl FnOnce(BorrowedFd<'_>) -> nix::Result<u64>,
    ) -> nix::Result<&mut Client> {
        let now = Instant::now();
        let id = match self.known.get(&peer) {
            Some(id) => *id,
            None => {
                if self.all.len() >= self.most
                    && let Some(oldest) = self.all.iter().min_by_key(|(_, c)| c.heard).map(|(id, _)| *id)
                {
                    self.forget(oldest);
                }
                let socket = towards(SockType::Datagram, to)?;
                connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
                let id = admit(socket.as_fd())?;
                self.known.insert(peer, id);
                self.all.insert(id, Client { peer, socket: socket.into(), heard: now });
                self.look.get_or_insert(now + LOOK);
                id
            }
        };
        let client = self.all.get_mut(&id).ok_or(nix::errno::Errno::ENOENT)?;
        client.heard = now;
        Ok(client)
    }

    /// Passes the container's answers to a client.
    pub fn answer(&mut self, id: u64, listeners: &BTreeMap<u64, Listener>) {
        let Some(client) = self.all.get_mut(&id) else { return };
        let Some(listener) = listeners.get(&client.peer.listener) else { return };
        client.heard = Instant::now();
        let Peer { client: to, asked, interface, .. } = client.peer;
        let scoped = to.scope_id() != 0;
        let info = libc::in6_pktinfo {
            ipi6_addr: libc::in6_addr { s6_addr: asked },
            // Where the client is only there; else as the routes are.
            ipi6_ifindex: if scoped { interface } else { 0 },
        };
        for _ in 0..TURNS {
            match client.socket.recv(&mut self.buffer) {
                Ok(bytes) => {
                    let parts = [IoSlice::new(&self.buffer[..bytes])];
                    let source = [ControlMessage::Ipv6PacketInfo(&info)];
                    let to = SockaddrIn6::from(to);
                    let _ = sendmsg(
                        listener.socket.as_fd().as_raw_fd(),
                        &parts,
                        &source,
                        MsgFlags::empty(),
                        Some(&to),
                    );
                }
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return,
                // The container does not listen: told by ICMP, and reported once.
                Err(_) => {}
            }
        }
    }

    /// Forgets those of a listener.
    pub fn cut(&mut self, listener: u64) {
        self.all.retain(|_, c| c.peer.listener != listener);
        self.known.retain(|p, _| p.listener != listener);
    }

    fn forget(&mut self, id: u64) {
        if let Some(client) = self.all.remove(&id) {
            self.known.remove(&client.peer);
        }
    }

    /// Until when there is nothing to look for.
    pub fn patience(&self) -> Option<Duration> {
        self.look.map(|t| t.saturating_duration_since(Instant::now()))
    }

    /// Forgets those that have been silent, when it is time to look.
    pub fn forget_silent(&mut self, now: Instant) {
        if self.look.is_none_or(|t| t > now) {
            return;
        }
        let silent = |c: &Client| now.saturating_duration_since(c.heard) > SILENCE;
        let gone: Vec<u64> = self.all.iter().filter(|(_, c)| silent(c)).map(|(id, _)| *id).collect();
        for id in gone {
            self.forget(id);
        }
        self.look = (!self.all.is_empty()).then(|| now + LOOK);
        if self.all.is_empty() {
            self.buffer = Vec::new();
        }
    }
}
