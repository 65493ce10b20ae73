//! The rules of the ingress mesh: its packets come from nodes only, connections remember the node they came by, and
//! answers go back there. See [`crate::mesh`].

use super::{FILTER, LOOPBACK, Links, MANGLE, RAW, base, places};
use crate::cidr::{Address, Cidr};
use crate::mesh::{MARK_MASK, Mesh};
use crate::nft::{
    Builder, Chain, Direction, Family, Field, INPUT, OUTPUT, POSTROUTING, PREROUTING, Rule, Set,
};
use crate::state::State;
use crate::vip;

/// Chains of its own; without rules where there is no mesh.
pub fn chains(mesh: Option<&Mesh>, links: &Links) -> [(&'static str, Chain); 5] {
    let rules = |make: fn(&Mesh, &Links) -> Vec<Rule>| mesh.map_or_else(Vec::new, |m| make(m, links));
    let [track, unmark] = carried(Family::V4, mesh, links);
    [
        ("mesh_arrive", base("filter", PREROUTING, RAW, rules(arrive))),
        ("mesh_depart", base("filter", OUTPUT, RAW, rules(depart))),
        ("mesh_input", base("filter", INPUT, FILTER, rules(input))),
        track,
        unmark,
    ]
}

/// Those of the packets that are carried, of a family. The packets around them are of IPv4.
pub fn carried(family: Family, mesh: Option<&Mesh>, links: &Links) -> [(&'static str, Chain); 2] {
    let rules =
        |make: fn(Family, &Mesh, &Links) -> Vec<Rule>| mesh.map_or_else(Vec::new, |m| make(family, m, links));
    [
        ("mesh_track", base("filter", PREROUTING, MANGLE, rules(track))),
        ("mesh_unmark", base("filter", POSTROUTING, MANGLE, rules(unmark))),
    ]
}

/// The packets around the packets are nobody's connection.
fn arrive(mesh: &Mesh, links: &Links) -> Vec<Rule> {
    vec![Rule::to("mesh, arriving").iif(&links.tunnel).udp_to(mesh.port).untracked()]
}

fn depart(mesh: &Mesh, links: &Links) -> Vec<Rule> {
    vec![Rule::to("mesh, departing").oif(&links.tunnel).udp_to(mesh.port).untracked()]
}

/// The kernel takes VXLAN from whoever sends it: a container, the underlay. What is within would be anything.
fn input(mesh: &Mesh, links: &Links) -> Vec<Rule> {
    let ours = |rule: Builder| rule.vxlan(mesh.port, mesh.vni);
    vec![
        ours(Rule::to("mesh, from a host of the swarm").iif(&links.tunnel).source_in("nodes")).accept(),
        ours(Rule::to("mesh, from anybody else")).drop(),
    ]
}

/// What arrives is marked too, so that a strict check of its source looks for the way back through the node.
fn track(family: Family, mesh: &Mesh, links: &Links) -> Vec<Rule> {
    let mark = (mesh.mark, MARK_MASK);
    let to = |purpose| Rule::about(family, purpose);
    let way = |rule: Builder, direction| rule.goes(direction).tracked_by(mark).mark_as_tracked();
    vec![
        to("connection by another node").iif(&links.mesh).starts().track_by_sender("mesh_nodes"),
        way(to("mesh, to a task").iif(&links.mesh), Direction::Original),
        way(to("mesh, back").iif(&links.routed), Direction::Reply),
    ]
}

/// The mark would choose the way of the packet around the packet, too.
fn unmark(family: Family, _: &Mesh, links: &Links) -> Vec<Rule> {
    vec![Rule::about(family, "mesh, on its way").oif(&links.mesh).unmark()]
}

/// Who may come by another node: what that translated, to a task.
pub fn admitted(family: Family, mesh: Option<&Mesh>, links: &Links) -> Option<Rule> {
    let mesh = mesh?;
    let rule = Rule::about(family, "port published by another node").iif(&links.mesh);
    Some(rule.tracked_by((mesh.mark, MARK_MASK)).pair_in("mesh_tasks").accept())
}

/// Clients keep their addresses, but for those that mean another one on another node.
pub fn sources(mesh: Option<&Mesh>, links: &Links) -> Vec<Rule> {
    let Some(mesh) = mesh else { return Vec::new() };
    let [home, bridge, others] = shared_sources(Family::V4, mesh.local, links);
    let loopback = Rule::to("loopback into the mesh").oif(&links.mesh).from(LOOPBACK).snat(mesh.local);
    vec![home, loopback, bridge, others]
}

/// The same of IPv6, where what comes from the loopback has another source already.
pub fn sources6(mesh: Option<&Mesh>, links: &Links) -> Vec<Rule> {
    let six = mesh.and_then(|m| m.six);
    six.map_or_else(Vec::new, |six| shared_sources(Family::V6, six.local, links).into())
}

fn shared_sources<A: Address>(family: Family, local: A, links: &Links) -> [Rule; 3] {
    let out = |purpose| Rule::about(family, purpose).oif(&links.mesh);
    [
        out("another node, to its own task").pair_in("mesh_home").snat(local),
        out("bridge into the mesh").pair_in("mesh_local").snat(local),
        out("clients keep their addresses").accept(),
    ]
}

/// Addresses that other hosts may have too: those of bridges. Of one of the user's only containers' own: who else is
/// on it is a client like those of any interface.
pub fn local(state: &State) -> Set {
    let mut set = Set::ranges(&[Field::Addr, Field::Addr]);
    for (bridge, subnet) in super::bridges(state) {
        let ranges = match bridge.foreign {
            true => places(state, bridge).filter_map(|e| e.addr).map(Cidr::host).collect(),
            false => vec![subnet],
        };
        for range in ranges {
            let (first, last) = (range.first().octets(), range.last().octets());
            set.add_range(vip::key(&[&first, &[0; 4]]), vip::key(&[&last, &[255; 4]]));
        }
    }
    set
}
