//! Published ports that are open at the container's own address: in networks of gateway mode `routed` for everybody
//! outside, and by the interfaces of the host that a network trusts. Nothing is translated there.

use std::net::IpAddr;

use super::Links;
use crate::model::Bound;
use crate::nft::{Builder, Field, Rule, Set};
use crate::state::{Bridge, Membership, Record, State};
use crate::vip::{self, key};

/// The bridge that a place is in.
fn bridge<'a>(state: &'a State, place: &Membership) -> Option<&'a Bridge> {
    state.bridges.values().find(|b| b.id == place.endpoint.network_id)
}

/// Whether a container's ports of IPv4 are its own, and not the host's.
pub fn is_untranslated(state: &State, record: &Record) -> bool {
    record.way().and_then(|place| bridge(state, place)).is_some_and(|b| b.untranslated)
}

/// The same of IPv6.
pub fn is_untranslated6(state: &State, record: &Record) -> bool {
    record.way6().and_then(|place| bridge(state, place)).is_some_and(|b| b.untranslated6)
}

/// Which ports of which addresses of IPv4.
pub fn ports(state: &State) -> Set {
    let mut set = Set::of(&[Field::Protocol, Field::Addr, Field::Port]);
    for record in state.containers.values() {
        let Some(place) = record.way() else { continue };
        let concerned = bridge(state, place).is_some_and(|b| b.untranslated || !b.trusted.is_empty());
        let Some(addr) = place.endpoint.addr.filter(|_| concerned) else { continue };
        add(&mut set, &addr.octets(), record.ports.iter().filter(|p| p.host_ip.is_ipv4()));
    }
    set
}

/// The same of IPv6.
pub fn ports6(state: &State) -> Set {
    let mut set = Set::of(&[Field::Protocol, Field::Addr6, Field::Port]);
    for record in state.containers.values() {
        let Some(place) = record.way6() else { continue };
        let concerned = bridge(state, place).is_some_and(|b| b.untranslated6 || !b.trusted.is_empty());
        let Some(v6) = place.endpoint.v6.as_ref().filter(|_| concerned) else { continue };
        add(&mut set, &v6.addr.octets(), record.ports.iter().filter(|p| matches!(p.host_ip, IpAddr::V6(_))));
    }
    set
}

fn add<'a>(set: &mut Set, addr: &[u8], ports: impl Iterator<Item = &'a Bound>) {
    let mut all: Vec<_> = ports
        .filter_map(|p| {
            let protocol = vip::protocol_number(&p.protocol)?;
            Some(key(&[&[protocol], addr, &p.container_port.to_be_bytes()]))
        })
        .collect();
    // One port of the container may have several of the host.
    all.sort_unstable();
    all.dedup();
    all.into_iter().for_each(|each| set.add(each));
}

/// What lets packets to them pass: from everybody but internal networks where nothing is `untranslated`, else from the
/// interfaces that the network trusts. `to` starts a rule of the family.
pub fn admitted(
    to: fn(&'static str) -> Builder,
    bridge: &Bridge,
    untranslated: bool,
    links: &Links,
) -> Vec<Rule> {
    let mut rules = Vec::new();
    let port = |rule: Builder| rule.oif(&bridge.interface).port_in("opened").accept();
    if untranslated {
        rules.push(port(links.not_in(to("port of its own address"))));
        let neighbours = to("port of its own address, from another network").iif_not(&bridge.interface);
        rules.push(port(neighbours.pair_in("egress")));
    } else {
        rules
            .extend(bridge.trusted.iter().map(|name| port(to("port of its own address, trusted").iif(name))));
    }
    rules
}
