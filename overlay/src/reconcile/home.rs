//! Datagrams to a task's address in the ingress network. A server that listens on all addresses answers from the one
//! that its way out prefers, which is another where the task has a network of its own; its client would not know it. So
//! inside the container they are translated to that one, and the answers back.

use nix::sys::socket::SockProtocol;

use crate::cidr::Address;
use crate::error::{Error, Result};
use crate::isolation::DNAT;
use crate::netlink::Socket;
use crate::netns::Namespace;
use crate::nft::{self, Chain, Family, Field, Hook, PREROUTING, Rule, Set, Table};
use crate::routed;
use crate::state::{Membership, Record};
use crate::sysctl;

const TABLE: &str = "skep_ingress";
const MAP: &str = "home";

/// Brings the container's tables in line, of both families. `fresh` is a namespace that nothing was done to yet.
pub fn settle(namespace: &Namespace, record: &Record, fresh: bool) -> Result<()> {
    let four = table(Family::V4, routed::answers_from(record), |m| m.endpoint.addr, record);
    let six = |m: &Membership| m.endpoint.v6.as_ref().map(|v6| v6.addr);
    let six = table(Family::V6, routed::answers_from6(record), six, record);
    let wanted = [(Family::V4, four), (Family::V6, six)];
    if fresh && wanted.iter().all(|(_, table)| table.is_none()) {
        return Ok(());
    }
    namespace.within(|| {
        let mut socket = Socket::open(SockProtocol::NetlinkNetFilter)
            .map_err(Error::io("open the nftables socket of", &record.container_id))?;
        for (family, wanted) in &wanted {
            if *family == Family::V6 && !sysctl::knows_ipv6() {
                continue;
            }
            let held = nft::read(&mut socket, *family, TABLE)?;
            let changes = nft::changes(held.as_ref(), wanted.as_ref());
            nft::apply(&mut socket, *family, TABLE, &changes)?;
        }
        Ok(())
    })
}

/// The table of a family, whose datagrams leave from `home`.
fn table<A: Address>(
    family: Family,
    home: Option<A>,
    addr: impl Fn(&Membership) -> Option<A>,
    record: &Record,
) -> Option<Table> {
    let home = home?;
    let field = if family == Family::V4 { Field::Addr } else { Field::Addr6 };
    let mut map = Set::map(&[field], &[field]);
    for addr in record.members().filter(|m| m.ingress).filter_map(addr).filter(|a| *a != home) {
        map.set(addr.bytes(), home.bytes());
    }
    if map.elements.is_empty() {
        return None;
    }
    let hook = Some(Hook::new("nat", PREROUTING, DNAT));
    let rules = vec![Rule::about(family, "datagrams of the ingress network").dnat_udp_by_addr(MAP)];
    Some(Table {
        timeouts: Default::default(),
        chains: [("prerouting".to_owned(), Chain { hook, rules })].into(),
        sets: [(MAP.to_owned(), map.into())].into(),
    })
}
