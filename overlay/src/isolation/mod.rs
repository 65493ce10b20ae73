//! The rules: who may speak to whom, what is translated on the way, and what leaves the host.
//!
//! Our chains judge only packets that come from or go to interfaces of ours; `accept` there ends only
//! our own chain, so other firewalls of the host keep their say.

mod idle;
mod linked;
mod mesh;
mod opened;
mod v6;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

pub use v6::table as table6;

use crate::cidr::besides;
use crate::desired::Cidr;
use crate::mesh::Mesh;
use crate::model::Endpoint;
use crate::names::Names;
use crate::nft::{
    Builder, Chain, FORWARD, Family, Field, Gate, Hook, OUTPUT, POSTROUTING, PREROUTING, Rule, Set, Table,
};
use crate::state::{Bridge, Record, State};
use crate::vip::{self, SwarmMaps};

/// Link-local addresses of IPv4 (RFC 3927).
const LINK_LOCAL: Cidr = Cidr { addr: Ipv4Addr::new(169, 254, 0, 0), len: 16 };
const LOOPBACK: Cidr = Cidr { addr: Ipv4Addr::new(127, 0, 0, 0), len: 8 };

const RAW: i32 = -300;
const MANGLE: i32 = -150;
/// Where destinations are translated (NF_IP_PRI_NAT_DST).
pub const DNAT: i32 = -100;
const FILTER: i32 = 0;
const SNAT: i32 = 100;

/// The whole table for this state; `maps` are those of its swarm part.
pub fn table(state: &State, names: &Names, maps: &SwarmMaps) -> Table {
    let published = state.containers.values().filter(|r| !opened::is_untranslated(state, r));
    let published = published.filter_map(|r| Some((r.target()?, r)));
    let (ports_any, ports_one) =
        vip::host_maps(published.flat_map(|(to, r)| r.ports.iter().map(move |p| (to, p))));
    let sets = [
        ("same_network", same_network(state)),
        ("egress", egress(state, |_| true)),
        ("masked", egress(state, |kind| !kind.unmasked)),
        ("owned", owned(state)),
        ("bridged", bridged(state)),
        ("nodes", nodes(state)),
        ("confined", confined(state)),
        ("hairpin", hairpin(state)),
        ("opened", opened::ports(state)),
        ("linked", linked::ports(state)),
        ("mesh_local", mesh::local(state)),
        ("ports_any", ports_any),
        ("ports_one", ports_one),
    ];
    let links = Links::of(state, names);
    let mesh = maps.mesh.as_ref();
    let chains = [
        ("antispoof", antispoof(&links)),
        ("prerouting", prerouting()),
        ("output", output()),
        ("mss", mss(names)),
        ("forward", forward(&links)),
        ("guard", guard(state, maps, &links)),
        ("postrouting", postrouting(state, mesh, &links)),
    ];
    let chains = chains.into_iter().chain(mesh::chains(mesh, &links)).chain(idle::chains(Family::V4, maps));
    Table {
        timeouts: maps.timeouts[0].clone(),
        sets: sets
            .into_iter()
            .map(|(n, s)| (n.to_owned(), s.into()))
            .chain(maps.maps.iter().map(|(n, s)| ((*n).to_owned(), s.clone())))
            .collect(),
        chains: chains.map(|(n, c)| (n.to_owned(), c)).collect(),
    }
}

/// Networks in force: of the swarm, and of containers that outlive theirs. The way out is by subnet.
fn networks(state: &State) -> BTreeMap<Cidr, Kind> {
    let mut all = BTreeMap::new();
    for member in state.containers.values().flat_map(Record::judged) {
        let Some(subnet) = member.subnet else { continue };
        let kind = Kind { internal: member.internal, ingress: member.ingress, ..Kind::default() };
        all.insert(subnet.network(), kind);
    }
    for (bridge, subnet) in bridges(state) {
        let Bridge { internal, isolated, .. } = *bridge;
        let unmasked = bridge.unmasked || bridge.untranslated;
        all.insert(subnet, Kind { internal, ingress: false, isolated, unmasked });
    }
    for network in state.swarm.iter().flat_map(|s| s.desired.networks.values()) {
        let kind = Kind { internal: network.internal, ingress: network.ingress, ..Kind::default() };
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

/// The bridges that have IPv4, with their ranges.
fn bridges(state: &State) -> impl Iterator<Item = (&Bridge, Cidr)> {
    state.bridges.values().filter_map(|b| Some((b, b.subnet?)))
}

#[derive(Default)]
struct Kind {
    internal: bool,
    ingress: bool,
    /// Its containers may not speak to each other.
    isolated: bool,
    /// What leaves the host keeps its source.
    unmasked: bool,
}

/// Patterns of the names of our interfaces on the host: those that begin as ours do, and bridges that the user
/// named.
struct Links {
    /// Bridges and veths.
    all: Vec<String>,
    bridges: Vec<String>,
    routed: String,
    tunnel: String,
    /// That of the ingress mesh.
    mesh: String,
}

impl Links {
    fn of(state: &State, names: &Names) -> Self {
        let prefix = names.links();
        let named = state.bridges.values().map(|b| b.interface.clone()).filter(|n| !n.starts_with(&prefix));
        let named: Vec<String> = named.collect();
        Self {
            all: [any(prefix)].into_iter().chain(named.iter().cloned()).collect(),
            bridges: [any(names.bridges())].into_iter().chain(named).collect(),
            routed: any(names.routed()),
            tunnel: names.wireguard(),
            mesh: names.mesh(),
        }
    }

    /// Came by none of them, nor from the swarm.
    fn not_in(&self, rule: Builder) -> Builder {
        self.all.iter().chain([&self.tunnel, &self.mesh]).fold(rule, |rule, name| rule.iif_not(name))
    }

    /// Leaves by none of them.
    fn not_out(&self, rule: Builder) -> Builder {
        self.all.iter().fold(rule, |rule, name| rule.oif_not(name))
    }
}

/// Pairs of addresses of one network. Not of the ingress network, nor of one whose containers are kept apart:
/// there only published ports are reached, through translation.
fn same_network(state: &State) -> Set {
    let mut set = Set::ranges(&[Field::Addr, Field::Addr]);
    for (subnet, kind) in networks(state) {
        if !kind.ingress && !kind.isolated {
            let (first, last) = (subnet.first().octets(), subnet.last().octets());
            set.add_range(vip::key(&[&first, &first]), vip::key(&[&last, &last]));
        }
    }
    // No route leads to them: this is about hosts where bridged packets are shown to our rules.
    if link_local(state).next().is_some() {
        let (first, last) = (LINK_LOCAL.first().octets(), LINK_LOCAL.last().octets());
        set.add_range(vip::key(&[&first, &first]), vip::key(&[&last, &last]));
    }
    set
}

/// Link-local addresses that containers were given, with the interface of the bridge.
fn link_local(state: &State) -> impl Iterator<Item = (&String, Ipv4Addr)> {
    let interfaces = state.containers.values().flat_map(|r| &r.interfaces);
    interfaces.filter_map(|i| Some((i.bridge.as_ref()?, &i.members))).flat_map(|(bridge, members)| {
        let addresses = members.iter().flat_map(|m| &m.endpoint.link_local);
        addresses.filter_map(move |a| match a {
            IpAddr::V4(addr) => Some((bridge, *addr)),
            IpAddr::V6(_) => None,
        })
    })
}

/// Who may leave the host, and to where. Plain interval sets refuse ranges that touch; those of several
/// fields do not.
fn egress(state: &State, which: impl Fn(&Kind) -> bool) -> Set {
    let mut set = Set::ranges(&[Field::Addr, Field::Addr]);
    for (subnet, kind) in networks(state) {
        if !kind.internal && which(&kind) {
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
        for addr in interface.members.iter().filter_map(|m| m.endpoint.addr) {
            set.add(vip::key(&[&interface_key(&interface.host), &addr.octets()]));
        }
    }
    set
}

/// Which bridge may send from which range.
fn bridged(state: &State) -> Set {
    let mut set = Set::ranges(&[Field::Interface, Field::Addr]);
    for (bridge, subnet) in bridges(state) {
        let name = interface_key(&bridge.interface);
        // A bridge of the user's may lead further than to containers, but not to where those of other networks are.
        let from = match bridge.foreign {
            true => besides(others(state, subnet)),
            false => vec![(subnet.first(), subnet.last())],
        };
        for (first, last) in from {
            set.add_range(vip::key(&[&name, &first.octets()]), vip::key(&[&name, &last.octets()]));
        }
    }
    for (bridge, addr) in link_local(state) {
        let key = vip::key(&[&interface_key(bridge), &addr.octets()]);
        set.add_range(key.clone(), key);
    }
    set
}

/// What is of the networks beside one, and of the swarm's hosts.
fn others(state: &State, own: Cidr) -> impl Iterator<Item = Cidr> {
    let networks = networks(state).into_keys().filter(move |range| *range != own);
    networks.chain(node_addresses(state).map(Cidr::host))
}

/// Overlay addresses of the swarm's hosts.
fn node_addresses(state: &State) -> impl Iterator<Item = Ipv4Addr> {
    state.swarm.iter().map(|s| &s.desired).flat_map(|desired| {
        let peers = desired.networks.values().flat_map(|n| &n.peers).map(|p| p.overlay_addr);
        peers.chain(desired.overlay_addr)
    })
}

fn nodes(state: &State) -> Set {
    let mut set = Set::of(&[Field::Addr]);
    node_addresses(state).for_each(|addr| set.add(addr.octets().to_vec()));
    set
}

/// The places of containers in a network of this host.
fn places<'a>(state: &'a State, bridge: &'a Bridge) -> impl Iterator<Item = &'a Endpoint> {
    let all = state.containers.values().flat_map(Record::members).map(|m| &m.endpoint);
    all.filter(|e| e.network_id == bridge.id)
}

/// Addresses in the ingress network of containers that are in internal networks otherwise: nothing new leaves by them.
fn confined(state: &State) -> Set {
    let mut set = Set::of(&[Field::Addr]);
    for addr in state.containers.values().flat_map(Record::confined).filter_map(|m| m.endpoint.addr) {
        set.add(addr.octets().to_vec());
    }
    set
}

/// Pairs of addresses of one container: a backend that reached itself.
fn hairpin(state: &State) -> Set {
    let mut set = Set::of(&[Field::Addr, Field::Addr]);
    for record in state.containers.values().filter(|r| r.has_rules()) {
        let own = || record.members().filter_map(|m| m.endpoint.addr).map(|addr| addr.octets());
        for from in own() {
            for to in own() {
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

fn antispoof(links: &Links) -> Chain {
    let mut rules =
        vec![Rule::to("foreign source on a routed veth").iif(&links.routed).spoofed("owned").drop()];
    for bridge in &links.bridges {
        rules.push(Rule::to("foreign source on a bridge").iif(bridge).spoofed("bridged").drop());
    }
    // route_localnet must not open the host's loopback to containers.
    for link in &links.all {
        rules.push(Rule::to("loopback from a container").iif(link).bound_for(LOOPBACK).drop());
    }
    rules.push(Rule::to("loopback from the tunnel").iif(&links.tunnel).bound_for(LOOPBACK).drop());
    base("filter", PREROUTING, RAW, rules)
}

fn published() -> [Rule; 6] {
    [
        Rule::to("port of one address").for_this_host().dnat_addr_port("ports_one"),
        Rule::to("port of all addresses").for_this_host().dnat_port("ports_any"),
        Rule::to("swarm port of one address")
            .for_this_host()
            .dnat_addr_port_by_slot("ingress_one_few", vip::FEW),
        Rule::to("swarm port of one address, many tasks")
            .for_this_host()
            .dnat_addr_port_by_slot("ingress_one_many", vip::MANY),
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
        Rule::to("segment size into the mesh").oif(&names.mesh()).clamp_mss(),
        Rule::to("segment size to a routed container").oif(&any(names.routed())).clamp_mss(),
    ];
    base("filter", FORWARD, MANGLE, rules)
}

fn forward(links: &Links) -> Chain {
    let mut rules = Vec::new();
    for link in &links.all {
        rules.push(Rule::to("from a container").iif(link).goto("guard"));
        rules.push(Rule::to("to a container").oif(link).goto("guard"));
    }
    rules.push(Rule::to("from the tunnel").iif(&links.tunnel).goto("guard"));
    rules.push(Rule::to("to the tunnel").oif(&links.tunnel).goto("guard"));
    rules.push(Rule::to("from the mesh").iif(&links.mesh).goto("guard"));
    rules.push(Rule::to("to the mesh").oif(&links.mesh).goto("guard"));
    base("filter", FORWARD, FILTER, rules)
}

/// What a firewall that drops by policy must let pass; our own table then judges it.
pub fn passage(family: Family, gate: Gate, state: &State, names: &Names) -> Vec<Rule> {
    let to = |purpose| Rule::about(family, purpose);
    let links = Links::of(state, names);
    let mut rules = Vec::new();
    if gate == Gate::Input {
        let mesh = to("skep: from the tunnel, the mesh").iif(&links.tunnel).udp_to(crate::mesh::PORT);
        rules.extend((family == Family::V4).then(|| mesh.accept()));
        return rules;
    }
    for link in &links.all {
        rules.push(to("skep: from a container").iif(link).accept());
        rules.push(to("skep: to a container").oif(link).accept());
    }
    rules.push(to("skep: from the tunnel").iif(&links.tunnel).accept());
    rules.push(to("skep: to the tunnel").oif(&links.tunnel).accept());
    rules.push(to("skep: from the mesh").iif(&links.mesh).accept());
    rules.push(to("skep: to the mesh").oif(&links.mesh).accept());
    rules
}

fn guard(state: &State, maps: &SwarmMaps, links: &Links) -> Chain {
    let mesh = maps.mesh.as_ref();
    let mut rules = vec![Rule::to("known connection").established().accept()];
    rules.extend(idle::forgotten(Family::V4, maps));
    rules.extend([
        Rule::to("published or virtual").translated().accept(),
        Rule::to("same network").pair_in("same_network").accept(),
        Rule::to("from a host of the swarm").iif(&links.tunnel).source_in("nodes").accept(),
    ]);
    rules.extend(linked::admitted(state, Rule::to));
    rules.extend(mesh::admitted(Family::V4, mesh, links));
    for (bridge, subnet) in bridges(state).filter(|(b, _)| !b.internal) {
        if bridge.open {
            let rule = links.not_in(Rule::to("open network").oif(&bridge.interface));
            rules.push(rule.bound_for(subnet).accept());
        }
        rules.extend(opened::admitted(Rule::to, bridge, bridge.untranslated, links));
    }
    rules.push(Rule::to("internal networks only").source_in("confined").drop());
    for link in &links.all {
        let out = links.not_out(Rule::to("way out").iif(link)).oif_not(&links.tunnel).oif_not(&links.mesh);
        rules.push(out.pair_in("egress").accept());
    }
    rules.push(Rule::to("anything else").drop());
    Chain { hook: None, rules }
}

fn postrouting(state: &State, mesh: Option<&Mesh>, links: &Links) -> Chain {
    let mut rules =
        vec![Rule::to("backend that reached itself").pair_in("hairpin").translated().masquerade()];
    rules.extend(mesh::sources(mesh, links));
    rules.extend([
        Rule::to("overlay keeps its addresses").oif(&links.tunnel).pair_in("same_network").accept(),
        Rule::to("others enter the overlay as this host").oif(&links.tunnel).masquerade(),
    ]);
    for link in &links.all {
        let to = Rule::to("loopback to a container").oif(link);
        rules.push(to.from(LOOPBACK).masquerade());
    }
    for (bridge, subnet) in bridges(state) {
        rules.push(
            Rule::to("published port from the same bridge")
                .oif(&bridge.interface)
                .from(subnet)
                .translated()
                .masquerade(),
        );
    }
    for (bridge, subnet) in bridges(state).filter(|(b, _)| !b.unmasked && !b.untranslated && !b.internal) {
        let out = links.not_out(Rule::to("way out, from an address of choice")).from(subnet);
        rules.extend(bridge.source.map(|addr| out.snat(addr)));
    }
    rules.push(links.not_out(Rule::to("way out")).pair_in("masked").masquerade());
    base("nat", POSTROUTING, SNAT, rules)
}
