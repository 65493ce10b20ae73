//! The rules of the ingress mesh: its packets come from nodes only, connections remember the node they came by, and
//! answers go back there. See [`crate::mesh`].

use super::{FILTER, LOOPBACK, Links, MANGLE, RAW, base};
use crate::mesh::{MARK_MASK, Mesh};
use crate::nft::{Builder, Chain, Direction, Field, INPUT, OUTPUT, POSTROUTING, PREROUTING, Rule, Set};
use crate::state::State;
use crate::vip;

/// Chains of its own; without rules where there is no mesh.
pub fn chains(mesh: Option<&Mesh>, links: &Links) -> [(&'static str, Chain); 5] {
    let rules = |make: fn(&Mesh, &Links) -> Vec<Rule>| mesh.map_or_else(Vec::new, |m| make(m, links));
    [
        ("mesh_arrive", base("filter", PREROUTING, RAW, rules(arrive))),
        ("mesh_depart", base("filter", OUTPUT, RAW, rules(depart))),
        ("mesh_input", base("filter", INPUT, FILTER, rules(input))),
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
fn track(mesh: &Mesh, links: &Links) -> Vec<Rule> {
    let mark = (mesh.mark, MARK_MASK);
    let way = |rule: Builder, direction| rule.goes(direction).tracked_by(mark).mark_as_tracked();
    vec![
        Rule::to("connection by another node").iif(&links.mesh).starts().track_by_sender("mesh_nodes"),
        way(Rule::to("mesh, to a task").iif(&links.mesh), Direction::Original),
        way(Rule::to("mesh, back").iif(&links.routed), Direction::Reply),
    ]
}

/// The mark would choose the way of the packet around the packet, too.
fn unmark(_: &Mesh, links: &Links) -> Vec<Rule> {
    vec![Rule::to("mesh, on its way").oif(&links.mesh).unmark()]
}

/// Who may come by another node: what that translated, to a task.
pub fn admitted(mesh: Option<&Mesh>, links: &Links) -> Option<Rule> {
    let mesh = mesh?;
    let rule = Rule::to("port published by another node").iif(&links.mesh);
    Some(rule.tracked_by((mesh.mark, MARK_MASK)).pair_in("mesh_tasks").accept())
}

/// Clients keep their addresses, but for those that mean another one on another node.
pub fn sources(mesh: Option<&Mesh>, links: &Links) -> Vec<Rule> {
    let Some(mesh) = mesh else { return Vec::new() };
    let out = |purpose| Rule::to(purpose).oif(&links.mesh);
    vec![
        out("another node, to its own task").pair_in("mesh_home").snat(mesh.local),
        out("loopback into the mesh").from(LOOPBACK).snat(mesh.local),
        out("bridge into the mesh").pair_in("mesh_local").snat(mesh.local),
        out("clients keep their addresses").accept(),
    ]
}

/// Addresses that other hosts may have too.
pub fn local(state: &State) -> Set {
    let mut set = Set::ranges(&[Field::Addr, Field::Addr]);
    for (_, subnet) in super::bridges(state) {
        let (first, last) = (subnet.first().octets(), subnet.last().octets());
        set.add_range(vip::key(&[&first, &[0; 4]]), vip::key(&[&last, &[255; 4]]));
    }
    set
}
