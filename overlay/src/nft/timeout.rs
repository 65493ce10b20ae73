//! Timeouts of connections that a rule chooses instead of the kernel's own (`ct timeout` of nft(8)), as objects of a table
//! and as values of a map.

use std::collections::BTreeMap;
use std::io;

use super::transaction::{SUBSYS, commit, header, message};
use super::{Chain, Element, Error, FORWARD, Family, Field, Hook, Rule, Set, Table, diff};
use crate::netlink::{Attrs, Message, NLM_F_CREATE, Socket, attr, attrs, be32_at, text_of};

const NEWOBJ: u16 = SUBSYS | 18;
const GETOBJ: u16 = SUBSYS | 19;
const DELOBJ: u16 = SUBSYS | 20;
/// `NFT_OBJECT_CT_TIMEOUT`.
pub(super) const OBJECT: u32 = 7;
const NAME: u16 = 2;
const KIND: u16 = 3;
const DATA: u16 = 4;
const L4PROTO: u16 = 2;
const POLICY: u16 = 3;
/// `IPPROTO_TCP`.
pub const TCP: u8 = 6;
/// `IPPROTO_UDP`.
pub const UDP: u8 = 17;
/// `CTA_TIMEOUT_TCP_ESTABLISHED`.
const ESTABLISHED: u16 = 3;
/// `CTA_TIMEOUT_UDP_UNREPLIED` and `CTA_TIMEOUT_UDP_REPLIED`.
const DATAGRAMS: [u16; 2] = [1, 2];

/// How long connections of a protocol may be idle: of TCP those that are established, of UDP all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timeout {
    /// `IPPROTO_TCP` or `IPPROTO_UDP`.
    pub protocol: u8,
    /// Seconds.
    pub seconds: u32,
}

impl Timeout {
    /// What it is called in the table: the same for all services that ask the same.
    pub fn name(self) -> String {
        let protocol = if self.protocol == TCP { "tcp" } else { "udp" };
        format!("{protocol}_{}", self.seconds)
    }

    fn states(self) -> &'static [u16] {
        if self.protocol == TCP { &[ESTABLISHED] } else { &DATAGRAMS }
    }
}

/// Makes it.
pub(super) fn add(family: Family, table: &str, name: &str, timeout: Timeout) -> Message {
    let policy = timeout.states().iter().fold(Attrs::default(), |all, s| all.be32(*s, timeout.seconds));
    let data = Attrs::default().put(L4PROTO, &[timeout.protocol]).nest(POLICY, policy);
    let body = header(family).text(1, table).text(NAME, name).be32(KIND, OBJECT).nest(DATA, data);
    message(NEWOBJ, NLM_F_CREATE, body)
}

/// Removes it.
pub(super) fn delete(family: Family, table: &str, name: &str) -> Message {
    message(DELOBJ, 0, header(family).text(1, table).text(NAME, name).be32(KIND, OBJECT))
}

/// Those of a table. One whose states are not all as ours has no seconds, and so differs from all that is wanted.
pub(super) fn read(
    socket: &mut Socket,
    family: Family,
    table: &str,
) -> io::Result<BTreeMap<String, Timeout>> {
    let replies = socket.dump(GETOBJ, header(family).text(1, table))?;
    let ours = replies.iter().filter_map(|reply| {
        let body = reply.payload.get(4..)?;
        let here = attr(body, 1).map(text_of).as_deref() == Some(table);
        let kind = attr(body, KIND).and_then(|v| be32_at(v, 0));
        (here && kind == Some(OBJECT)).then_some(())?;
        let data = attr(body, DATA)?;
        let mut timeout = Timeout { protocol: *attr(data, L4PROTO)?.first()?, seconds: 0 };
        let held = |state: &u16| attr(data, POLICY).and_then(|p| attr(p, *state)).and_then(|v| be32_at(v, 0));
        let mut seconds = timeout.states().iter().map(held);
        let first = seconds.next().flatten();
        if seconds.all(|s| s == first) {
            timeout.seconds = first.unwrap_or(0);
        }
        Some((attr(body, NAME).map(text_of)?, timeout))
    });
    Ok(ours.collect())
}

/// Whether this kernel has them, and can reset what it does not know: a table is made to see, and removed.
pub fn probe(socket: &mut Socket, table: &str) -> Result<(), Error> {
    let timeout = Timeout { protocol: TCP, seconds: 60 };
    let key = [Field::Protocol, Field::Addr];
    let mut map = Set::timeouts(&key);
    map.elements.insert(Element { key: vec![0; 8], object: timeout.name(), ..Element::default() });
    let rules = vec![
        Rule::to("probe").opens_midway().keyed_in("idle").reset(),
        Rule::to("probe").starts().times_out_by("idle"),
    ];
    let chain = Chain { hook: Some(Hook::new("filter", FORWARD, 0)), rules };
    let trial = Table {
        chains: [("idle".to_owned(), chain)].into(),
        sets: [("idle".to_owned(), map.into())].into(),
        timeouts: [(timeout.name(), timeout)].into(),
    };
    let mut steps = super::transaction::steps(Family::V4, table, &diff(None, &trial));
    steps.extend(super::transaction::steps(Family::V4, table, &[super::Change::DeleteTable]));
    commit(socket, table, steps)
}

/// The name of an element's object.
pub(super) fn object_of(element: &[u8]) -> String {
    const OBJREF: u16 = 9;
    attrs(element).find(|(kind, _)| *kind == OBJREF).map(|(_, name)| text_of(name)).unwrap_or_default()
}
