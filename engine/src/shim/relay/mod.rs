//! Ports of the host that the shim itself serves: those of IPv6 of a container that has IPv4 only, between which the
//! kernel's nftables do not translate, and for clients with a link-local address, whose packets are routed nowhere. The listeners are the shim's, so they outlive the daemon and end with the
//! container; a shim without such ports has nothing of all this.
//!
//! One epoll(7) descriptor stands for all of it in the shim's own loop.

mod listener;
mod tcp;
mod udp;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit};

use self::listener::{Listener, Socket};
use self::tcp::{Pipes, Progress, Session};
use super::spec::Relay;
use crate::runtime::Error;

/// Rounds of events before the shim looks at what else there is.
const ROUNDS: usize = 16;
/// Events of a round.
const EVENTS: usize = 64;
/// Connections that one listener gives, or datagrams that one socket does, before others have their turn.
const TURNS: usize = 64;
/// TCP connections at a time, where the descriptors suffice; further ones wait to be accepted.
const MOST_CONNECTIONS: usize = 4096;
/// UDP clients at a time; the one that has been silent for longest gives way.
const MOST_CLIENTS: usize = 1024;
/// How long none is accepted after one could not be.
const BREATH: Duration = Duration::from_millis(100);
/// Descriptors left to all else that the shim does.
const RESERVED: usize = 64;
/// A connection has two sockets, and up to two pipes while its receivers lag behind.
const PER_CONNECTION: usize = 6;
/// What belongs to which: two bits of an event's number.
const LISTENER: u64 = 0;
const CONNECTION: u64 = 1;
const CLIENT: u64 = 2;

/// The ports served and what goes through them.
pub struct Relays {
    epoll: Epoll,
    listeners: BTreeMap<u64, Listener>,
    connections: BTreeMap<u64, Session>,
    /// Those with more to do than one turn gave them.
    ready: BTreeSet<u64>,
    pipes: Pipes,
    clients: udp::Clients,
    next: u64,
    most: usize,
    accepting: bool,
    /// When it is accepted again, where no connection's end may tell.
    again: Option<Instant>,
}

impl Relays {
    /// Serves these ports; none when there are none.
    pub fn open(wanted: &[Relay]) -> Result<Option<Box<Self>>, Error> {
        if wanted.is_empty() {
            return Ok(None);
        }
        let epoll =
            Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|e| failed("make", "epoll")(e.into()))?;
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
        let free = usize::try_from(soft).unwrap_or(usize::MAX).saturating_sub(RESERVED);
        let mut relays = Box::new(Self {
            epoll,
            listeners: BTreeMap::new(),
            connections: BTreeMap::new(),
            ready: BTreeSet::new(),
            pipes: Pipes::default(),
            clients: udp::Clients::new((free / 4).clamp(1, MOST_CLIENTS)),
            next: 0,
            most: (free / 2 / PER_CONNECTION).clamp(1, MOST_CONNECTIONS),
            accepting: true,
            again: None,
        });
        relays.set(wanted)?;
        Ok(Some(relays))
    }

    /// Serves exactly these ports from now on. What goes through one that stays and leads elsewhere now is cut.
    pub fn set(&mut self, wanted: &[Relay]) -> Result<(), Error> {
        let of = |relays: &Self, from: &Relay| {
            let same = |l: &Listener| l.relay.from == from.from && l.relay.protocol == from.protocol;
            relays.listeners.iter().find(|(_, l)| same(l)).map(|(id, _)| *id)
        };
        let kept: Vec<u64> = wanted.iter().filter_map(|w| of(self, w)).collect();
        let gone: Vec<u64> = self.listeners.keys().filter(|id| !kept.contains(id)).copied().collect();
        for id in gone {
            self.end(id);
        }
        let mut fault = None;
        for relay in wanted {
            let subject = format!("{}/{}", relay.from, relay.protocol);
            let done = match of(self, relay) {
                Some(id) => self.lead(id, relay).inspect_err(|_| self.end(id)),
                None => self.add(relay),
            };
            if let Err(e) = done {
                fault.get_or_insert(match e.kind() {
                    io::ErrorKind::AddrInUse => {
                        Error::Refused(format!("Bind for {} failed: port is already allocated", relay.from))
                    }
                    _ => failed("serve", &subject)(e),
                });
            }
        }
        fault.map_or(Ok(()), Err)
    }

    fn add(&mut self, relay: &Relay) -> io::Result<()> {
        let held = Relay { to: None, ..relay.clone() };
        let id = self.number();
        self.listeners.insert(id, Listener { socket: Socket::bind(relay)?, relay: held });
        // What is not served after all is tried anew the next time.
        self.lead(id, relay).inspect_err(|_| self.end(id))
    }

    /// Has a port lead where `relay` says.
    fn lead(&mut self, id: u64, relay: &Relay) -> io::Result<()> {
        let Some(listener) = self.listeners.get_mut(&id) else { return Ok(()) };
        let before = std::mem::replace(&mut listener.relay, relay.clone());
        match (before.to, relay.to) {
            (before, now) if before == now => return Ok(()),
            (None, Some(_)) => {
                listener.socket.listen()?;
                let mut event = EpollEvent::new(EpollFlags::EPOLLIN, id << 2 | LISTENER);
                match self.epoll.add(listener.socket.as_fd(), event) {
                    Err(nix::errno::Errno::EEXIST) => {
                        self.epoll.modify(listener.socket.as_fd(), &mut event)?
                    }
                    other => other?,
                }
                if !self.accepting {
                    self.heed();
                }
            }
            (Some(_), None) => {
                self.epoll.delete(listener.socket.as_fd())?;
                listener.socket.hold()?;
            }
            _ => {}
        }
        self.cut(id);
        Ok(())
    }

    /// Gives a port up, and what came in by it.
    fn end(&mut self, listener: u64) {
        self.cut(listener);
        self.listeners.remove(&listener);
    }

    /// Ends what came in by this port.
    fn cut(&mut self, listener: u64) {
        self.connections.retain(|_, c| c.listener != listener);
        self.clients.cut(listener);
        self.resume();
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Readable when there is something to do.
    pub fn fd(&self) -> RawFd {
        self.epoll.0.as_raw_fd()
    }

    /// How long there is nothing to do but for what [`Relays::fd`] tells of; none = no end of it.
    pub fn patience(&self) -> Option<Duration> {
        if !self.ready.is_empty() {
            return Some(Duration::ZERO);
        }
        let again = self.again.map(|t| t.saturating_duration_since(Instant::now()));
        again.into_iter().chain(self.clients.patience()).min()
    }

    /// Does what there is to do, within bounds.
    pub fn turn(&mut self) {
        let now = Instant::now();
        if self.again.is_some_and(|t| t <= now) {
            self.resume();
        }
        for _ in 0..ROUNDS {
            if !self.round() {
                break;
            }
        }
        self.clients.forget_silent(now);
    }

    /// The container has ended: what it still said is passed on, then everything is cut.
    pub fn finish(mut self: Box<Self>) {
        // Nothing further comes in. Answers by datagram still go out by the sockets that were asked.
        for listener in self.listeners.values() {
            let _ = self.epoll.delete(listener.socket.as_fd());
        }
        for _ in 0..ROUNDS * EVENTS {
            if !self.round() {
                break;
            }
        }
    }

    /// False when there was nothing to do.
    fn round(&mut self) -> bool {
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        let again = std::mem::take(&mut self.ready);
        for event in &events[..count] {
            let id = event.data() >> 2;
            match event.data() & 3 {
                LISTENER => self.come(id),
                CLIENT => self.clients.answer(id, &self.listeners),
                _ if again.contains(&id) => {}
                _ => self.progress(id),
            }
        }
        for id in &again {
            self.progress(*id);
        }
        count > 0 || !again.is_empty()
    }

    fn progress(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        match connection.progress(&mut self.pipes) {
            Progress::Waits => {}
            Progress::Goes => drop(self.ready.insert(id)),
            Progress::Over => {
                self.connections.remove(&id);
                self.resume();
            }
        }
    }

    /// Connections or datagrams have come.
    fn come(&mut self, id: u64) {
        for _ in 0..TURNS {
            let Some(listener) = self.listeners.get(&id) else { return };
            let Some(to) = listener.relay.to else { return };
            match &listener.socket {
                Socket::Tcp(socket) => {
                    if self.connections.len() >= self.most {
                        return self.pause(None);
                    }
                    let client = match socket.accept() {
                        Ok((client, _)) => client,
                        Err(e)
                            if matches!(
                                e.kind(),
                                io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
                            ) =>
                        {
                            continue;
                        }
                        Err(e) => {
                            // Out of descriptors or memory, by whomever: there would be no end of this event.
                            if e.kind() != io::ErrorKind::WouldBlock {
                                self.pause(Some(Instant::now() + BREATH));
                            }
                            return;
                        }
                    };
                    // One that cannot be made is closed, as by a container that does not listen.
                    if let Ok(session) = Session::open(id, client, to) {
                        self.admit(session);
                    }
                }
                Socket::Udp(socket) => {
                    let next = &mut self.next;
                    let epoll = &self.epoll;
                    let known = |socket: BorrowedFd<'_>| {
                        *next += 1;
                        epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, *next << 2 | CLIENT))?;
                        Ok(*next)
                    };
                    if !self.clients.receive(id, socket.as_fd(), to, known) {
                        return;
                    }
                }
            }
        }
    }

    fn admit(&mut self, session: Session) {
        let id = self.number();
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        let added = session
            .sockets()
            .into_iter()
            .all(|socket| self.epoll.add(socket, EpollEvent::new(flags, id << 2 | CONNECTION)).is_ok());
        if added {
            self.connections.insert(id, session);
        }
    }

    /// Accepts nothing until a connection has ended, or until then.
    fn pause(&mut self, until: Option<Instant>) {
        self.accepting = false;
        self.again = until;
        self.heed();
    }

    /// Accepts again.
    fn resume(&mut self) {
        self.again = None;
        if !std::mem::replace(&mut self.accepting, true) {
            self.heed();
        }
    }

    /// Listens for further connections, or not for now.
    fn heed(&mut self) {
        let flags = if self.accepting { EpollFlags::EPOLLIN } else { EpollFlags::empty() };
        for (id, listener) in &self.listeners {
            if matches!(listener.socket, Socket::Tcp(_)) && listener.relay.to.is_some() {
                let _ = self
                    .epoll
                    .modify(listener.socket.as_fd(), &mut EpollEvent::new(flags, id << 2 | LISTENER));
            }
        }
    }
}

fn failed(operation: &'static str, subject: &str) -> impl FnOnce(io::Error) -> Error {
    let subject = subject.to_owned();
    move |source| Error::System { operation, subject, source }
}
