//! What `--link` opens in the default bridge network where its containers are kept from each other (`icc=false`): the ports
//! that the other one exposes, by IPv4. Frames do not pass between two ports of the bridge then: the host answers when they
//! ask for one another (proxy_arp_pvlan, RFC 3069), and passes on what is in this set.

use std::net::Ipv4Addr;

use crate::nft::{Builder, Field, Rule, Set};
use crate::state::{DEFAULT_BRIDGE, Record, State};
use crate::vip::{self, key};

/// Which port of which address may be reached from which.
pub fn ports(state: &State) -> Set {
    let mut set = Set::of(&[Field::Protocol, Field::Addr, Field::Addr, Field::Port]);
    if !applies(state) {
        return set;
    }
    let mut all = Vec::new();
    for record in state.containers.values() {
        let Some(from) = place(record) else { continue };
        for linked in &record.linked {
            let Some(to) = state.containers.get(&linked.container_id).and_then(place) else { continue };
            for (protocol, port) in &linked.ports {
                let Some(protocol) = vip::protocol_number(protocol) else { continue };
                all.push(key(&[&[protocol], &from.octets(), &to.octets(), &port.to_be_bytes()]));
            }
        }
    }
    // One may be linked to by several names.
    all.sort_unstable();
    all.dedup();
    all.into_iter().for_each(|each| set.add(each));
    set
}

/// What lets them pass.
pub fn admitted(state: &State, to: fn(&'static str) -> Builder) -> Option<Rule> {
    applies(state).then(|| to("port of a linked container").link_in("linked").accept())
}

fn applies(state: &State) -> bool {
    state.bridges.get(DEFAULT_BRIDGE).is_some_and(|b| b.answers_for_others())
}

fn place(record: &Record) -> Option<Ipv4Addr> {
    record.bridged().find(|m| m.endpoint.network == DEFAULT_BRIDGE)?.endpoint.addr
}
