//! The rules: who may speak to whom, what is translated on the way, and what leaves the host.
//!
//! Our chains judge only packets that come from or go to interfaces of ours; `accept` there ends only
//! our own chain, so other firewalls of the host keep their say.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::desired::Cidr;
use crate::names::Names;
use crate::nft::{Chain, FORWARD, Field, Hook, OUTPUT, POSTROUTING, PREROUTING, Rule, Set, Table};
use crate::state::{Record, State};
use crate::vip::{self, SwarmMaps};

const RAW: i32 = -300;
const MANGLE: i32 = -150;
const DNAT: i32 = -100;
const FILTER: i32 = 0;
const SNAT: i32 = 100;

/// The whole table for this state; `maps` are those of its swarm part.
pub fn table(state: &State, names: &Names, maps: &SwarmMaps) -> Table {
    let published = state.containers.values().filter_map(|r| Some((r.target()?, r)));
    let (ports_any, ports_one) =
        vip::host_maps(published.flat_map(|(to, r)| r.ports.iter().map(move |p| (to, p))));
    let sets = [
        ("same_network", same_network(state)),
        ("egress", egress(state)),
        ("owned", owned(state)),
        ("bridged", bridged(state)),
        ("nodes", nodes(state)),
        ("hairpin", hairpin(state)),
        ("ports_any", ports_any),
        ("ports_one", ports_one),
    ];
    let chains = [
        ("antispoof", antispoof(names)),
        ("prerouting", prerouting()),
        ("output", output()),
        ("mss", mss(names)),
        ("forward", forward(names)),
        ("guard", guard(names)),
        ("postrouting", postrouting(state, names)),
    ];
    Table {
        sets: sets
            .into_iter()
            .map(|(n, s)| (n.to_owned(), s.into()))
            .chain(maps.maps.iter().map(|(n, s)| ((*n).to_owned(), s.clone())))
            .collect(),
        chains: chains.into_iter().map(|(n, c)| (n.to_owned(), c)).collect(),
    }
}

/// Networks in force: of the swarm, and of containers that outlive theirs. The way out is by subnet.
fn networks(state: &State) -> BTreeMap<Cidr, Kind> {
    let mut all = BTreeMap::new();
    for member in state.containers.values().flat_map(Record::members) {
        all.insert(member.subnet.network(), Kind { internal: member.internal, ingress: member.ingress });
    }
    for bridge in state.bridges.values() {
        all.insert(bridge.subnet, Kind { internal: bridge.internal, ingress: false });
    }
    for network in state.swarm.iter().flat_map(|s| s.desired.networks.values()) {
        let kind = Kind { internal: network.internal, ingress: network.ingress };
        all.insert(network.subnet.network(), kind);
    }
    // Overlapping ranges cannot be told apart: the first one counts, the rest is left unreachable.
    let mut kept: Vec<Cidr> = Vec::new();
    all.retain(|subnet, _| {
        let free = !kept.iter().any(|k| k.overlaps(subnet));
        if free {
            kept.push(*subnet);
        } else {
            tracing::warn!(%subnet, "network overlaps another one on this host and is left out");
        }
        free
    });
    all
}

struct Kind {
    internal: bool,
    ingress: bool,
}

/// Pairs of addresses of one network. Not of the ingress network: there only published ports are
/// reached, through translation.
fn same_network(state: &State) -> Set {
    let mut set = Set::ranges(&[Field::Addr, Field::Addr]);
    for (subnet, kind) in networks(state) {
        if !kind.ingress {
            let (first, last) = (subnet.first().octets(), subnet.last().octets());
            set.add_range(vip::key(&[&first, &first]), vip::key(&[&last, &last]));
        }
    }
    set
}

/// Who may leave the host, and to where. Plain interval sets refuse ranges that touch; those of several
/// fields do not.
fn egress(state: &State) -> Set {
    let mut set = Set::ranges(&[Field::Addr, Field::Addr]);
    for (subnet, kind) in networks(state) {
        if !kind.internal {
            let (first, last) = (subnet.first().octets(), subnet.last().octets());
            set.add_range(vip::key(&[&first, &[0; 4]]), vip::key(&[&last, &[255; 4]]));
        }
    }
    set
}

fn interface_key(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

/// Which routed veth may send from which address.
fn owned(state: &State) -> Set {
    let mut set = Set::of(&[Field::Interface, Field::Addr]);
    for interface in state.containers.values().filter_map(Record::routed) {
        for member in &interface.members {
            let addr = member.endpoint.addr.octets();
            set.add(vip::key(&[&interface_key(&interface.host), &addr]));
        }
    }
    set
}

/// Which bridge may send from which range.
fn bridged(state: &State) -> Set {
    let mut set = Set::ranges(&[Field::Interface, Field::Addr]);
    for bridge in state.bridges.values() {
        let name = interface_key(&bridge.interface);
        let (first, last) = (bridge.subnet.first().octets(), bridge.subnet.last().octets());
        set.add_range(vip::key(&[&name, &first]), vip::key(&[&name, &last]));
    }
    set
}

/// Overlay addresses of the swarm's hosts.
fn nodes(state: &State) -> Set {
    let mut set = Set::of(&[Field::Addr]);
    for desired in state.swarm.iter().map(|s| &s.desired) {
        let peers = desired.networks.values().flat_map(|n| &n.peers).map(|p| p.overlay_addr);
        for addr in peers.chain(desired.overlay_addr) {
            set.add(addr.octets().to_vec());
        }
    }
    set
}

/// Pairs of addresses of one container: a backend that reached itself.
fn hairpin(state: &State) -> Set {
    let mut set = Set::of(&[Field::Addr, Field::Addr]);
    for record in state.containers.values().filter(|r| r.has_rules()) {
        for from in record.members() {
            for to in record.members() {
                let (from, to) = (from.endpoint.addr.octets(), to.endpoint.addr.octets());
                set.add(vip::key(&[&from, &to]));
            }
        }
    }
    set
}

fn base(kind: &str, number: u32, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain { hook: Some(Hook::new(kind, number, priority)), rules }
}

fn any(prefix: String) -> String {
    prefix + "*"
}

fn antispoof(names: &Names) -> Chain {
    let links = any(names.links());
    let rules = vec![
        Rule::to("foreign source on a routed veth").iif(&any(names.routed())).spoofed("owned").drop(),
        Rule::to("foreign source on a bridge").iif(&any(names.bridges())).spoofed("bridged").drop(),
        // route_localnet must not open the host's loopback to containers.
        Rule::to("loopback from a container").iif(&links).bound_for(Ipv4Addr::new(127, 0, 0, 0), 8).drop(),
        Rule::to("loopback from the tunnel")
            .iif(&names.wireguard())
            .bound_for(Ipv4Addr::new(127, 0, 0, 0), 8)
            .drop(),
    ];
    base("filter", PREROUTING, RAW, rules)
}

fn published() -> [Rule; 4] {
    [
        Rule::to("port of one address").for_this_host().dnat_addr_port("ports_one"),
        Rule::to("port of all addresses").for_this_host().dnat_port("ports_any"),
        Rule::to("swarm port").for_this_host().dnat_port_by_slot("ingress_few", vip::FEW),
        Rule::to("swarm port, many tasks").for_this_host().dnat_port_by_slot("ingress_many", vip::MANY),
    ]
}

fn prerouting() -> Chain {
    let mut rules = vec![
        Rule::to("virtual address").pair_in("same_network").dnat_addr_by_slot("vip_few", vip::FEW),
        Rule::to("virtual address, many tasks")
            .pair_in("same_network")
            .dnat_addr_by_slot("vip_many", vip::MANY),
    ];
    rules.extend(published());
    base("nat", PREROUTING, DNAT, rules)
}

fn output() -> Chain {
    let mut rules = vec![
        Rule::to("virtual address from the host").dnat_addr_by_slot("vip_few", vip::FEW),
        Rule::to("virtual address from the host, many tasks").dnat_addr_by_slot("vip_many", vip::MANY),
    ];
    rules.extend(published());
    base("nat", OUTPUT, DNAT, rules)
}

fn mss(names: &Names) -> Chain {
    let rules = vec![
        Rule::to("segment size into the tunnel").oif(&names.wireguard()).clamp_mss(),
        Rule::to("segment size out of the tunnel").iif(&names.wireguard()).clamp_mss(),
        Rule::to("segment size to a routed container").oif(&any(names.routed())).clamp_mss(),
    ];
    base("filter", FORWARD, MANGLE, rules)
}

fn forward(names: &Names) -> Chain {
    let (links, tunnel) = (any(names.links()), names.wireguard());
    let rules = vec![
        Rule::to("from a container").iif(&links).goto("guard"),
        Rule::to("to a container").oif(&links).goto("guard"),
        Rule::to("from the tunnel").iif(&tunnel).goto("guard"),
        Rule::to("to the tunnel").oif(&tunnel).goto("guard"),
    ];
    base("filter", FORWARD, FILTER, rules)
}

/// What a firewall that drops by policy must let pass; our own table then judges it.
pub fn passage(names: &Names) -> Vec<Rule> {
    let (links, tunnel) = (any(names.links()), names.wireguard());
    vec![
        Rule::to("skep: from a container").iif(&links).accept(),
        Rule::to("skep: to a container").oif(&links).accept(),
        Rule::to("skep: from the tunnel").iif(&tunnel).accept(),
        Rule::to("skep: to the tunnel").oif(&tunnel).accept(),
    ]
}

fn guard(names: &Names) -> Chain {
    let (links, tunnel) = (any(names.links()), names.wireguard());
    let rules = vec![
        Rule::to("known connection").established().accept(),
        Rule::to("published or virtual").translated().accept(),
        Rule::to("same network").pair_in("same_network").accept(),
        Rule::to("from a host of the swarm").iif(&tunnel).source_in("nodes").accept(),
        Rule::to("way out").iif(&links).oif_not(&links).oif_not(&tunnel).pair_in("egress").accept(),
        Rule::to("anything else").drop(),
    ];
    Chain { hook: None, rules }
}

fn postrouting(state: &State, names: &Names) -> Chain {
    let (links, tunnel) = (any(names.links()), names.wireguard());
    let mut rules = vec![
        Rule::to("backend that reached itself").pair_in("hairpin").translated().masquerade(),
        Rule::to("overlay keeps its addresses").oif(&tunnel).pair_in("same_network").accept(),
        Rule::to("others enter the overlay as this host").oif(&tunnel).masquerade(),
        Rule::to("loopback to a container").oif(&links).from(Ipv4Addr::new(127, 0, 0, 0), 8).masquerade(),
    ];
    for bridge in state.bridges.values() {
        rules.push(
            Rule::to("published port from the same bridge")
                .oif(&bridge.interface)
                .from(bridge.subnet.addr, bridge.subnet.len)
                .translated()
                .masquerade(),
        );
    }
    rules.push(Rule::to("way out").oif_not(&links).pair_in("egress").masquerade());
    base("nat", POSTROUTING, SNAT, rules)
}
