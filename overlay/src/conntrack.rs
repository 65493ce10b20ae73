//! Flows of datagrams in the kernel's table of connections. Nothing ends them but silence: a client that goes on sending
//! from one port would be led to a task for as long as it does, also once the task is gone.

use std::collections::BTreeSet;

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use crate::cidr::{Address, address_of};
use crate::error::{Error, Result};
use crate::netlink::{Attrs, Message, Socket, attr};

const SUBSYS: u16 = 1 << 8;
const GET: u16 = SUBSYS | 1;
const DELETE: u16 = SUBSYS | 2;
const UDP: u8 = 17;
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const PROTO_NUMBER: u16 = 1;

/// Forgets the flows that these addresses answer; how many there were.
pub fn forget_datagrams<A: Address>(of: &BTreeSet<A>) -> Result<usize> {
    // CTA_IP_V4_SRC, CTA_IP_V6_SRC.
    let ip_src = if A::BITS == 32 { 1 } else { 3 };
    let header = || Attrs::default().raw(&[A::FAMILY, 0, 0, 0]);
    let io = |operation| Error::io(operation, "the kernel's connections");
    let mut socket = Socket::open(SockProtocol::NetlinkNetFilter).map_err(io("open a socket for"))?;
    let all = socket.dump(GET, header()).map_err(io("list"))?;
    let flows = all.iter().filter_map(|reply| {
        let body = reply.payload.get(4..)?;
        let (original, answer) = (attr(body, TUPLE_ORIG)?, attr(body, TUPLE_REPLY)?);
        let from: A = attr(answer, TUPLE_IP).and_then(|ip| attr(ip, ip_src)).and_then(address_of)?;
        let protocol = attr(answer, TUPLE_PROTO).and_then(|p| attr(p, PROTO_NUMBER))?;
        let ours = protocol.first() == Some(&UDP) && of.contains(&from);
        ours.then(|| Message::new(DELETE, 0, header().nest(TUPLE_ORIG, Attrs::default().raw(original))))
    });
    let flows: Vec<Message> = flows.collect();
    let answers = socket.execute(&flows).map_err(io("change"))?;
    // One that has ended since is as good.
    match answers.into_iter().find_map(|a| a.err().filter(|e| *e != Errno::ENOENT)) {
        Some(errno) => Err(io("change")(errno.into())),
        None => Ok(flows.len()),
    }
}
