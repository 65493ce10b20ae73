//! The rules for IPv6: the same as for IPv4, and what it takes that ports are reached by `::1`.
//!
//! The kernel lets no packet with a loopback address in from another interface, and has no `route_localnet` for
//! IPv6. So what the host sends from `::1` to a published port gets the address of the host in the container's
//! network before anybody has looked at it (raw), and the answers get `::1` back last of all (input).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use super::{DNAT, FILTER, Links, MANGLE, RAW, SNAT, base, idle, interface_key, mesh, opened, places};
use crate::cidr::{Cidr, Cidr6, besides};
use crate::desired::PublishedPort;
use crate::mesh::Mesh;
use crate::names::Names;
use crate::nft::{
    Builder, Chain, FORWARD, Family, Field, INPUT, OUTPUT, POSTROUTING, PREROUTING, Rule, Set, Table,
};
use crate::state::{Bridge, Overlay6, Record, State};
use crate::vip::{self, SwarmMaps, key};

/// After the last translation of what is for the host.
const LAST: i32 = SNAT + 100;
const LINK_LOCAL: Cidr6 = Cidr { addr: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), len: 10 };
const MULTICAST: Cidr6 = Cidr { addr: Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), len: 8 };
const NOBODY: Cidr6 = Cidr { addr: Ipv6Addr::UNSPECIFIED, len: 128 };
const LOOPBACK: Cidr6 = Cidr { addr: Ipv6Addr::LOCALHOST, len: 128 };

/// The whole table for this state.
pub fn table(state: &State, names: &Names, maps: &SwarmMaps) -> Table {
    let published = state.containers.values().filter(|r| !opened::is_untranslated6(state, r));
    let published = published.filter_map(|r| Some((r.target6()?, r)));
    let (ports_any, ports_one) =
        vip::host_maps6(published.flat_map(|(to, r)| r.ports.iter().map(move |p| (to, p))));
    let overlays = overlays(state);
    let sets = [
        ("same_network", same_network(state, &overlays)),
        ("egress", egress(state, &overlays, |_| true)),
        ("masked", egress(state, &overlays, |b| !b.unmasked && !b.untranslated6)),
        ("owned", owned(state)),
        ("bridged", bridged(state, &overlays)),
        ("nodes", nodes(state)),
        ("confined", confined(state)),
        ("hairpin", hairpin(state)),
        ("opened", opened::ports6(state)),
        ("mesh_local", mesh_local(state)),
        ("ports_any", ports_any),
        ("ports_one", ports_one),
        ("loopback", loopback(state)),
    ];
    let links = Links::of(state, names);
    let mesh = maps.mesh.as_ref().filter(|m| m.six.is_some());
    let chains = [
        ("antispoof", antispoof(&links)),
        ("raw", raw()),
        ("prerouting", base("nat", PREROUTING, DNAT, translated(true))),
        ("output", base("nat", OUTPUT, DNAT, translated(false))),
        ("mss", base("filter", FORWARD, MANGLE, mss(&links))),
        ("forward", forward(&links)),
        ("guard", guard(state, maps, mesh, &links)),
        ("input", input(&links)),
        ("postrouting", postrouting(state, mesh, &links)),
    ];
    let chains = chains.into_iter().chain(mesh::carried(Family::V6, mesh, &links));
    let chains = chains.chain(idle::chains(Family::V6, maps));
    Table {
        timeouts: maps.timeouts[1].clone(),
        sets: sets
            .into_iter()
            .map(|(n, s)| (n.to_owned(), s.into()))
            .chain(maps.maps6.iter().map(|(n, s)| ((*n).to_owned(), s.clone())))
            .collect(),
        chains: chains.map(|(n, c)| (n.to_owned(), c)).collect(),
    }
}

fn networks(state: &State) -> impl Iterator<Item = (&Bridge, Cidr6)> {
    state.bridges.values().filter_map(|b| Some((b, b.v6.as_ref()?.subnet)))
}

/// The overlays that have it. As of IPv4, of ranges that overlap the first one counts, and bridges' come before.
fn overlays(state: &State) -> BTreeMap<Cidr6, Overlay6> {
    let mut kept: Vec<Cidr6> = networks(state).map(|(_, range)| range).collect();
    let mut all = state.overlays6();
    all.retain(|range, _| {
        let free = !kept.iter().any(|k| k.overlaps(range));
        if free {
            kept.push(*range);
        } else {
            tracing::warn!(subnet = %range, "network overlaps another one on this host and is left out");
        }
        free
    });
    all
}

fn add_pair(set: &mut Set, from: Cidr6, to: Cidr6) {
    let octets = |a: Ipv6Addr| a.octets();
    let first = key(&[&octets(from.first()), &octets(to.first())]);
    set.add_range(first, key(&[&octets(from.last()), &octets(to.last())]));
}

/// Pairs of addresses of one network, and what it takes to find one another: where the kernel shows bridged packets to
/// our rules, they judge that as well. Nothing of this kind is ever routed.
fn same_network(state: &State, overlays: &BTreeMap<Cidr6, Overlay6>) -> Set {
    let mut set = Set::ranges(&[Field::Addr6, Field::Addr6]);
    for range in overlays.iter().filter(|(_, o)| !o.ingress).map(|(range, _)| *range) {
        add_pair(&mut set, range, range);
    }
    for (_, subnet) in networks(state).filter(|(b, _)| !b.isolated) {
        for (from, to) in [
            (subnet, subnet),
            (subnet, LINK_LOCAL),
            (LINK_LOCAL, subnet),
            (LINK_LOCAL, LINK_LOCAL),
            (subnet, MULTICAST),
            (LINK_LOCAL, MULTICAST),
            (NOBODY, MULTICAST),
        ] {
            add_pair(&mut set, from, to);
        }
    }
    set
}

/// Who may leave the host.
fn egress(state: &State, overlays: &BTreeMap<Cidr6, Overlay6>, which: impl Fn(&Bridge) -> bool) -> Set {
    let mut set = Set::ranges(&[Field::Addr6, Field::Addr6]);
    for range in overlays.iter().filter(|(_, o)| !o.internal).map(|(range, _)| *range) {
        add_pair(&mut set, range, Cidr6::all());
    }
    for (_, subnet) in networks(state).filter(|(b, _)| !b.internal && which(b)) {
        add_pair(&mut set, subnet, Cidr6::all());
    }
    set
}

/// Which bridge may send from which range. Those without IPv6 send none at all.
fn bridged(state: &State, overlays: &BTreeMap<Cidr6, Overlay6>) -> Set {
    let mut set = Set::ranges(&[Field::Interface, Field::Addr6]);
    for (bridge, subnet) in networks(state) {
        let name = interface_key(&bridge.interface);
        // A bridge of the user's may lead further than to containers, but not to where those of other networks are.
        let from = match bridge.foreign {
            true => besides(others(state, overlays, subnet)),
            false => [subnet, LINK_LOCAL, NOBODY].map(|range| (range.first(), range.last())).into(),
        };
        for (first, last) in from {
            set.add_range(key(&[&name, &first.octets()]), key(&[&name, &last.octets()]));
        }
    }
    set
}

/// Which routed veth may send from which address: from its own, and not even from a link-local one, as nobody has to be
/// asked for a neighbour there.
fn owned(state: &State) -> Set {
    let mut set = Set::of(&[Field::Interface, Field::Addr6]);
    for interface in state.containers.values().filter_map(Record::routed) {
        for addr in crate::routed::addresses6(interface) {
            set.add(key(&[&interface_key(&interface.host), &addr.addr.octets()]));
        }
    }
    set
}

/// What is of the networks beside one, and of the swarm's hosts.
fn others(state: &State, overlays: &BTreeMap<Cidr6, Overlay6>, own: Cidr6) -> impl Iterator<Item = Cidr6> {
    let bridges = networks(state).map(|(_, range)| range).filter(move |range| *range != own);
    bridges.chain(overlays.keys().copied()).chain(node_addresses(state).map(Cidr6::host))
}

/// Overlay addresses of the swarm's hosts.
fn node_addresses(state: &State) -> impl Iterator<Item = Ipv6Addr> {
    state.swarm.iter().map(|s| &s.desired).flat_map(|desired| {
        let peers = desired.networks.values().flat_map(|n| &n.peers).filter_map(|p| p.overlay_addr6);
        peers.chain(desired.overlay_addr6)
    })
}

fn nodes(state: &State) -> Set {
    let mut set = Set::of(&[Field::Addr6]);
    node_addresses(state).for_each(|addr| set.add(addr.octets().to_vec()));
    set
}

/// Addresses in the ingress network of containers that are in internal networks otherwise: nothing new leaves by them.
fn confined(state: &State) -> Set {
    let mut set = Set::of(&[Field::Addr6]);
    let members = state.containers.values().flat_map(Record::confined);
    for v6 in members.filter_map(|m| m.endpoint.v6.as_ref()) {
        set.add(v6.addr.octets().to_vec());
    }
    set
}

/// Pairs of addresses of one container: one that reached itself.
fn hairpin(state: &State) -> Set {
    let mut set = Set::of(&[Field::Addr6, Field::Addr6]);
    for record in state.containers.values().filter(|r| r.has_rules()) {
        let own = || record.judged().filter_map(|m| m.endpoint.v6.as_ref()).map(|e| e.addr.octets());
        for from in own() {
            for to in own() {
                set.add(key(&[&from, &to]));
            }
        }
    }
    set
}

/// Addresses that other hosts may have too: as of IPv4 ([`mesh::local`]).
fn mesh_local(state: &State) -> Set {
    let mut set = Set::ranges(&[Field::Addr6, Field::Addr6]);
    for (bridge, subnet) in networks(state) {
        let own = || places(state, bridge).filter_map(|e| e.v6.as_ref()).map(|v6| Cidr6::host(v6.addr));
        let ranges = if bridge.foreign { own().collect() } else { vec![subnet] };
        ranges.into_iter().for_each(|range| add_pair(&mut set, range, Cidr6::all()));
    }
    set
}

/// By which address of the host a port that is published on `::1` is reached.
fn loopback(state: &State) -> Set {
    let mut map = Set::map(&[Field::Protocol, Field::Port], &[Field::Addr6]);
    let gateway = |record: &Record| {
        let place = record.way6()?;
        let bridge = state.bridges.values().find(|b| b.id == place.endpoint.network_id)?;
        Some(bridge.v6.as_ref()?.gateway).filter(|_| !bridge.untranslated6)
    };
    for desired in state.swarm.iter().map(|s| &s.desired) {
        let Some(own) = desired.overlay_addr6 else { continue };
        let by_loopback = |p: &&PublishedPort| {
            let at = state.open_at(&p.host);
            at.is_none_or(|at| at.contains(&IpAddr::V6(Ipv6Addr::LOCALHOST)))
        };
        for port in desired.ports.iter().filter(|_| desired.has_ports6()).filter(by_loopback) {
            let Some(protocol) = vip::protocol_number(&port.protocol) else { continue };
            map.set(key(&[&[protocol], &port.published.to_be_bytes()]), own.octets().into());
        }
    }
    for record in state.containers.values() {
        let Some(gateway) = gateway(record) else { continue };
        for bound in &record.ports {
            let IpAddr::V6(addr) = bound.host_ip else { continue };
            let Some(protocol) = vip::protocol_number(&bound.protocol) else { continue };
            if addr.is_unspecified() || addr.is_loopback() {
                let port = key(&[&[protocol], &bound.host_port.to_be_bytes()]);
                map.set(port, gateway.octets().into());
            }
        }
    }
    map
}

fn antispoof(links: &Links) -> Chain {
    let mut rules =
        vec![Rule::to6("foreign source on a routed veth").iif(&links.routed).spoofed("owned").drop()];
    for bridge in &links.bridges {
        rules.push(Rule::to6("foreign source on a bridge").iif(bridge).spoofed("bridged").drop());
    }
    base("filter", PREROUTING, RAW, rules)
}

fn raw() -> Chain {
    let own = Rule::to6("published port by loopback").from(LOOPBACK).bound_for(LOOPBACK);
    base("filter", OUTPUT, RAW, vec![own.source_by_port("loopback")])
}

/// Whose destination is translated. From containers (`judged`) virtual addresses are reached in their own network only.
fn translated(judged: bool) -> Vec<Rule> {
    let vip = |purpose| {
        let rule = Rule::to6(purpose);
        if judged { rule.pair_in("same_network") } else { rule }
    };
    vec![
        vip("virtual address").dnat_addr_by_slot("vip_few", vip::FEW),
        vip("virtual address, many tasks").dnat_addr_by_slot("vip_many", vip::MANY),
        // Clients with a link-local address are not routed to anybody: the container's shim serves them.
        Rule::to6("port of one address").not_from(LINK_LOCAL).for_this_host().dnat_addr_port("ports_one"),
        Rule::to6("port of all addresses").not_from(LINK_LOCAL).for_this_host().dnat_port("ports_any"),
        Rule::to6("swarm port of one address")
            .for_this_host()
            .dnat_addr_port_by_slot("ingress_one_few", vip::FEW),
        Rule::to6("swarm port of one address, many tasks")
            .for_this_host()
            .dnat_addr_port_by_slot("ingress_one_many", vip::MANY),
        Rule::to6("swarm port").for_this_host().dnat_port_by_slot("ingress_few", vip::FEW),
        Rule::to6("swarm port, many tasks").for_this_host().dnat_port_by_slot("ingress_many", vip::MANY),
    ]
}

fn mss(links: &Links) -> Vec<Rule> {
    vec![
        Rule::to6("segment size into the tunnel").oif(&links.tunnel).clamp_mss(),
        Rule::to6("segment size out of the tunnel").iif(&links.tunnel).clamp_mss(),
        Rule::to6("segment size into the mesh").oif(&links.mesh).clamp_mss(),
        Rule::to6("segment size to a routed container").oif(&links.routed).clamp_mss(),
    ]
}

fn forward(links: &Links) -> Chain {
    let mut rules = Vec::new();
    for link in links.all.iter().chain([&links.tunnel, &links.mesh]) {
        rules.push(Rule::to6("from a container").iif(link).goto("guard"));
        rules.push(Rule::to6("to a container").oif(link).goto("guard"));
    }
    base("filter", FORWARD, FILTER, rules)
}

fn guard(state: &State, maps: &SwarmMaps, mesh: Option<&Mesh>, links: &Links) -> Chain {
    let mut rules = vec![Rule::to6("known connection").established().accept()];
    rules.extend(idle::forgotten(Family::V6, maps));
    rules.extend([
        Rule::to6("published").translated().accept(),
        Rule::to6("same network").pair_in("same_network").accept(),
        Rule::to6("from a host of the swarm").iif(&links.tunnel).source_in("nodes").accept(),
    ]);
    rules.extend(mesh::admitted(Family::V6, mesh, links));
    rules.push(Rule::to6("internal networks only").source_in("confined").drop());
    for (bridge, subnet) in networks(state).filter(|(b, _)| !b.internal) {
        if bridge.open6 {
            let rule = links.not_in(Rule::to6("open network").oif(&bridge.interface));
            rules.push(rule.bound_for(subnet).accept());
        }
        rules.extend(opened::admitted(Rule::to6, bridge, bridge.untranslated6, links));
    }
    for link in &links.all {
        let out: Builder = links.not_out(Rule::to6("way out").iif(link));
        let out = out.oif_not(&links.tunnel).oif_not(&links.mesh);
        rules.push(out.pair_in("egress").accept());
    }
    rules.push(Rule::to6("anything else").drop());
    Chain { hook: None, rules }
}

fn input(links: &Links) -> Chain {
    let answer = |link: &String| {
        Rule::to6("answer to loopback").iif(link).from(LOOPBACK).set_destination(Ipv6Addr::LOCALHOST)
    };
    let all = links.bridges.iter().chain([&links.routed, &links.tunnel, &links.mesh]);
    base("filter", INPUT, LAST, all.map(answer).collect())
}

fn postrouting(state: &State, mesh: Option<&Mesh>, links: &Links) -> Chain {
    let mut rules =
        vec![Rule::to6("container that reached itself").pair_in("hairpin").translated().masquerade()];
    rules.extend(mesh::sources6(mesh, links));
    rules.extend([
        Rule::to6("overlay keeps its addresses").oif(&links.tunnel).pair_in("same_network").accept(),
        Rule::to6("others enter the overlay as this host").oif(&links.tunnel).masquerade(),
    ]);
    for (bridge, subnet) in networks(state) {
        rules.push(
            Rule::to6("published port from the same bridge")
                .oif(&bridge.interface)
                .from(subnet)
                .translated()
                .masquerade(),
        );
    }
    for (bridge, subnet) in networks(state).filter(|(b, _)| !b.unmasked && !b.untranslated6 && !b.internal) {
        let out = links.not_out(Rule::to6("way out, from an address of choice")).from(subnet);
        rules.extend(bridge.source6.map(|addr| out.snat(addr)));
    }
    rules.push(links.not_out(Rule::to6("way out")).pair_in("masked").masquerade());
    base("nat", POSTROUTING, SNAT, rules)
}
