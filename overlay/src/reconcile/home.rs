//! Datagrams to a task's address in the ingress network. A server that listens on all addresses answers from the one
//! that its way out prefers, which is another where the task has a network of its own; its client would not know it. So
//! inside the container they are translated to that one, and the answers back.

use nix::sys::socket::SockProtocol;

use crate::error::{Error, Result};
use crate::isolation::DNAT;
use crate::netlink::Socket;
use crate::netns::Namespace;
use crate::nft::{self, Chain, Family, Field, Hook, PREROUTING, Rule, Set, Table};
use crate::routed;
use crate::state::Record;

const TABLE: &str = "skep_ingress";
const MAP: &str = "home";

/// Brings the container's table in line. `fresh` is a namespace that nothing was done to yet.
pub fn settle(namespace: &Namespace, record: &Record, fresh: bool) -> Result<()> {
    let wanted = table(record);
    if wanted.is_none() && fresh {
        return Ok(());
    }
    namespace.within(|| {
        let mut socket = Socket::open(SockProtocol::NetlinkNetFilter)
            .map_err(Error::io("open the nftables socket of", &record.container_id))?;
        let held = nft::read(&mut socket, Family::V4, TABLE)?;
        let changes = nft::changes(held.as_ref(), wanted.as_ref());
        Ok(nft::apply(&mut socket, Family::V4, TABLE, &changes)?)
    })
}

fn table(record: &Record) -> Option<Table> {
    let home = routed::answers_from(record)?;
    let mut map = Set::map(&[Field::Addr], &[Field::Addr]);
    for member in record.members().filter(|m| m.ingress && m.endpoint.addr != home) {
        map.set(member.endpoint.addr.octets().to_vec(), home.octets().to_vec());
    }
    if map.elements.is_empty() {
        return None;
    }
    let hook = Some(Hook::new("nat", PREROUTING, DNAT));
    let rules = vec![Rule::to("datagrams of the ingress network").dnat_udp_by_addr(MAP)];
    Some(Table {
        chains: [("prerouting".to_owned(), Chain { hook, rules })].into(),
        sets: [(MAP.to_owned(), map.into())].into(),
    })
}
