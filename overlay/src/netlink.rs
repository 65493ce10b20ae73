//! Netlink as nftables and rtnetlink both speak it: messages made of attributes, and a blocking socket
//! that belongs to the network namespace it was opened in.
//!
//! The kernel answers within the call, so a blocking socket on a worker thread is the shortest way.

use std::os::fd::{AsRawFd, OwnedFd};
use std::{fmt, io};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

pub const NLM_F_REQUEST: u16 = 0x1;
pub const NLM_F_ACK: u16 = 0x4;
pub const NLM_F_DUMP: u16 = 0x300;
pub const NLM_F_REPLACE: u16 = 0x100;
pub const NLM_F_EXCL: u16 = 0x200;
pub const NLM_F_CREATE: u16 = 0x400;
pub const NLM_F_APPEND: u16 = 0x800;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;
/// Messages sent in one write: their acknowledgements must fit the socket's receive buffer.
const IN_FLIGHT: usize = 64;

/// A list of attributes under construction.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Attrs(Vec<u8>);

impl Attrs {
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Appends bytes that are no attribute (a family's fixed header).
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn put(mut self, kind: u16, value: &[u8]) -> Self {
        self.0.extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// A number in network order, as nftables wants them.
    pub fn be32(self, kind: u16, value: u32) -> Self {
        self.put(kind, &value.to_be_bytes())
    }

    /// A number in the machine's order, as rtnetlink wants them.
    pub fn u32(self, kind: u16, value: u32) -> Self {
        self.put(kind, &value.to_ne_bytes())
    }

    /// A text with its closing NUL.
    pub fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.put(kind, &bytes)
    }

    /// Writes over what is there.
    pub fn set(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.0.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    pub fn nest(self, kind: u16, inner: Attrs) -> Self {
        self.put(kind | NLA_F_NESTED, &inner.0)
    }
}

/// One request.
#[derive(Clone)]
pub struct Message {
    pub kind: u16,
    pub flags: u16,
    pub body: Attrs,
}

impl Message {
    /// A request that asks for an acknowledgement.
    pub fn new(kind: u16, flags: u16, body: Attrs) -> Self {
        Self { kind, flags: flags | NLM_F_REQUEST | NLM_F_ACK, body }
    }

    fn encode(&self, seq: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(&((HEADER + self.body.0.len()) as u32).to_ne_bytes());
        out.extend_from_slice(&self.kind.to_ne_bytes());
        out.extend_from_slice(&self.flags.to_ne_bytes());
        out.extend_from_slice(&seq.to_ne_bytes());
        out.extend_from_slice(&0u32.to_ne_bytes());
        out.extend_from_slice(&self.body.0);
        out.resize(out.len().next_multiple_of(4), 0);
    }
}

/// One answer: what follows the netlink header.
pub struct Reply {
    pub payload: Vec<u8>,
}

/// A netlink socket; all that goes through it concerns the namespace it was opened in.
pub struct Socket {
    fd: OwnedFd,
    seq: u32,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "netlink socket {}", self.fd.as_raw_fd())
    }
}

impl Socket {
    /// Opens a socket in the calling thread's namespace.
    pub fn open(protocol: SockProtocol) -> io::Result<Self> {
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        // A lost answer must become an error, never a thread that hangs.
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::new(10, 0))?;
        Ok(Self { fd, seq: 0 })
    }

    /// Gives room for a transaction of `bytes`.
    pub fn reserve(&self, bytes: usize) -> io::Result<()> {
        let wanted = bytes * 2 + 65_536;
        if setsockopt(&self.fd, sockopt::SndBufForce, &wanted).is_err() {
            setsockopt(&self.fd, sockopt::SndBuf, &wanted)?;
        }
        Ok(())
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        sendto(self.fd.as_raw_fd(), bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        Ok(())
    }

    fn receive(&self, buffer: &mut Vec<u8>, flags: MsgFlags) -> io::Result<usize> {
        loop {
            buffer.resize(buffer.len().max(65_536), 0);
            match recv(self.fd.as_raw_fd(), buffer, flags) {
                Err(Errno::EINTR) => continue,
                other => return Ok(other?),
            }
        }
    }

    /// Runs the requests in order and returns the kernel's answer to each; one failing does not stop
    /// the rest.
    pub fn execute(&mut self, messages: &[Message]) -> io::Result<Vec<Result<(), Errno>>> {
        let mut results = Vec::with_capacity(messages.len());
        for chunk in messages.chunks(IN_FLIGHT) {
            let first = self.seq.wrapping_add(1);
            let mut bytes = Vec::new();
            for message in chunk {
                self.seq = self.seq.wrapping_add(1);
                message.encode(self.seq, &mut bytes);
            }
            self.send(&bytes)?;
            let mut answers: Vec<Option<Result<(), Errno>>> = vec![None; chunk.len()];
            let mut buffer = Vec::new();
            while answers.iter().any(Option::is_none) {
                let n = self.receive(&mut buffer, MsgFlags::empty())?;
                for (header, payload) in messages_in(&buffer[..n]) {
                    let slot = header.seq.wrapping_sub(first) as usize;
                    if header.kind == NLMSG_ERROR && slot < answers.len() {
                        answers[slot] = Some(error_of(payload));
                    }
                }
            }
            results.extend(answers.into_iter().flatten());
        }
        Ok(results)
    }

    /// Sends a transaction whose last message asks for an acknowledgement; returns the first error and
    /// the position of the message it is about.
    pub fn transact(&mut self, messages: &[Message]) -> io::Result<Result<(), (usize, Errno)>> {
        let first = self.seq.wrapping_add(1);
        let mut bytes = Vec::new();
        for message in messages {
            self.seq = self.seq.wrapping_add(1);
            message.encode(self.seq, &mut bytes);
        }
        self.reserve(bytes.len())?;
        self.send(&bytes)?;
        let mut buffer = Vec::new();
        let mut flags = MsgFlags::empty();
        let mut failed = None;
        // The first answer is waited for; all others are queued by then.
        loop {
            let n = match self.receive(&mut buffer, flags) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && !flags.is_empty() => break,
                Err(e) => return Err(e),
            };
            flags = MsgFlags::MSG_DONTWAIT;
            for (header, payload) in messages_in(&buffer[..n]) {
                if header.kind == NLMSG_ERROR
                    && let Err(errno) = error_of(payload)
                    && failed.is_none()
                {
                    failed = Some((header.seq.wrapping_sub(first) as usize, errno));
                }
            }
        }
        Ok(failed.map_or(Ok(()), Err))
    }

    /// Asks for one object.
    pub fn get(&mut self, kind: u16, body: Attrs) -> io::Result<Reply> {
        let (mut replies, _) = self.ask(kind, 0, body)?;
        replies.pop().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Asks for all objects; again when they changed meanwhile.
    pub fn dump(&mut self, kind: u16, body: Attrs) -> io::Result<Vec<Reply>> {
        for _ in 0..16 {
            match self.ask(kind, NLM_F_DUMP, body.clone())? {
                (replies, false) => return Ok(replies),
                (_, true) => continue,
            }
        }
        Err(io::Error::new(io::ErrorKind::ResourceBusy, "the kernel's tables keep changing"))
    }

    fn ask(&mut self, kind: u16, flags: u16, body: Attrs) -> io::Result<(Vec<Reply>, bool)> {
        self.seq = self.seq.wrapping_add(1);
        let mut bytes = Vec::new();
        let flags = flags | NLM_F_REQUEST;
        Message { kind, flags, body }.encode(self.seq, &mut bytes);
        self.send(&bytes)?;
        let (mut replies, mut torn) = (Vec::new(), false);
        let mut buffer = Vec::new();
        loop {
            let n = self.receive(&mut buffer, MsgFlags::empty())?;
            for (header, payload) in messages_in(&buffer[..n]) {
                if header.seq != self.seq {
                    continue;
                }
                torn |= header.flags & NLM_F_DUMP_INTR != 0;
                match header.kind {
                    NLMSG_DONE => return Ok((replies, torn)),
                    NLMSG_ERROR => {
                        error_of(payload)?;
                        return Ok((replies, torn));
                    }
                    _ => {
                        replies.push(Reply { payload: payload.to_vec() });
                        if flags & NLM_F_DUMP == 0 {
                            return Ok((replies, torn));
                        }
                    }
                }
            }
        }
    }
}

struct Header {
    kind: u16,
    flags: u16,
    seq: u32,
}

fn messages_in(mut bytes: &[u8]) -> impl Iterator<Item = (Header, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.get(..HEADER)?;
        let len = u32_at(header, 0)? as usize;
        let payload = bytes.get(HEADER..len)?;
        let parsed = Header { kind: u16_at(header, 4)?, flags: u16_at(header, 6)?, seq: u32_at(header, 8)? };
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((parsed, payload))
    })
}

fn error_of(payload: &[u8]) -> Result<(), Errno> {
    match u32_at(payload, 0).map(|n| n as i32) {
        Some(0) => Ok(()),
        Some(n) => Err(Errno::from_raw(n.wrapping_neg())),
        None => Err(Errno::EBADMSG),
    }
}

/// The attributes in `bytes`: type and value.
pub fn attrs(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = u16_at(bytes, 0)? as usize;
        let kind = u16_at(bytes, 2)? & NLA_TYPE_MASK;
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the attribute of this type.
pub fn attr(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attrs(bytes).find_map(|(k, value)| (k == kind).then_some(value))
}

/// A text attribute's value without the NUL.
pub fn text_of(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
}

pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub fn be32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}
