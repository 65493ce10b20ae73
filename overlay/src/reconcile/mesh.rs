//! The ingress mesh in the kernel: its interface, whom that reaches, the routes and the rules that lead there; what
//! differs from the state, and how the differences are removed, all in few writes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use nix::errno::Errno;

use super::wire::{SETTINGS, ours};
use crate::error::{Error, Result};
use crate::link::policy::{self, Forward, Policy, VxLan};
use crate::link::{Link, Links, Mac, Route, Step, step};
use crate::mesh::OVERHEAD;
use crate::names::Names;
use crate::state::State;
use crate::sysctl;

/// All that differs.
#[derive(Clone, Debug, Default)]
pub struct Differences {
    name: String,
    /// The interface is to be made, or made anew.
    link: Option<(VxLan, u32)>,
    /// It is to be removed.
    gone: bool,
    /// It is down, of another size, or not set up.
    settings: Option<u32>,
    neighbours: Vec<(Ipv4Addr, Option<Mac>)>,
    forwards: Vec<(Forward, bool)>,
    routes: Vec<((Option<u32>, Route), bool)>,
    policies: Vec<(Policy, bool)>,
}

impl Differences {
    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.list().next().is_none()
    }

    /// Each, in words.
    fn list(&self) -> impl Iterator<Item = String> + '_ {
        let name = &self.name;
        let whether = |on: &bool| if *on { "is missing" } else { "is not wanted" };
        let link = self.link.as_ref().map(|_| format!("interface {name} is missing or another"));
        let gone = self.gone.then(|| format!("interface {name} is not wanted"));
        let settings = self.settings.map(|_| format!("settings of interface {name} differ"));
        let neighbours = self
            .neighbours
            .iter()
            .map(move |(addr, mac)| format!("neighbour {addr} on {name} {}", whether(&mac.is_some())));
        let forwards = self.forwards.iter();
        let forwards =
            forwards.map(move |(f, on)| format!("forwarding entry of {name} to {} {}", f.to, whether(on)));
        let routes = self.routes.iter().map(move |((table, route), on)| {
            let table = table.map_or_else(String::new, |t| format!(" in table {t:#x}"));
            format!("route {} on {name}{table} {}", route.to, whether(on))
        });
        let policies = self.policies.iter();
        let policies = policies.map(move |(p, on)| format!("routing rule {} {}", p.priority, whether(on)));
        let links = link.into_iter().chain(gone).chain(settings);
        links.chain(neighbours).chain(forwards).chain(routes).chain(policies)
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 5;
        let all: Vec<String> = self.list().collect();
        write!(f, "{}", all[..all.len().min(SHOWN)].join("; "))?;
        if all.len() > SHOWN {
            write!(f, "; and {} more", all.len() - SHOWN)?;
        }
        Ok(())
    }
}

/// Compares the kernel with the state.
pub fn plan(
    state: &State,
    names: &Names,
    host: &mut Links,
    links: &BTreeMap<String, Link>,
) -> Result<Differences> {
    let name = names.mesh();
    let mesh = state.mesh(names);
    let held = links.get(&name);
    let mut found = Differences { name, ..Differences::default() };
    let policies: BTreeSet<Policy> = mesh.iter().flat_map(|m| m.policies()).collect();
    let have: BTreeSet<Policy> = host.policies(names.priorities())?.into_iter().collect();
    // Removals first, and the last rule before those that lead to it.
    found.policies = both(&have, &policies);
    found.policies.sort_by_key(|(p, on)| (*on, Reverse(if *on { p.priority } else { 0 })));
    let Some(mesh) = mesh else {
        found.gone = held.is_some();
        return Ok(found);
    };
    let wanted = mesh.link();
    let mtu = u32::from(state.tunnel_mtu.unwrap_or(crate::routed::SAFE_MTU)) - OVERHEAD;
    let held = held.filter(|h| h.vxlan == Some(wanted));
    if held.is_none() {
        found.link = Some((wanted, mtu));
    } else if held.is_some_and(|h| !h.up || h.mtu != mtu) || !settled(&found.name) {
        found.settings = Some(mtu);
    }
    let (mut neighbours, mut forwards, mut routes) = Default::default();
    if let Some(held) = held {
        neighbours = host.neighbours(held.index)?;
        forwards = host.forwards(held.index)?.into_iter().collect::<BTreeSet<_>>();
        routes = host.routes_by(held.index)?.into_iter().collect::<BTreeSet<_>>();
    }
    let wanted = mesh.neighbours();
    let gone = neighbours.keys().filter(|a| !wanted.contains_key(a)).map(|a| (*a, None));
    let new =
        wanted.iter().filter(|(a, mac)| neighbours.get(a) != Some(mac)).map(|(a, mac)| (*a, Some(*mac)));
    found.neighbours = gone.chain(new).collect();
    found.forwards = both(&forwards, &mesh.forwards().into_iter().collect());
    found.routes = both(&routes, &mesh.routes().into_iter().collect());
    Ok(found)
}

/// What is held and not wanted, then what is wanted and not held.
fn both<T: Ord + Clone>(held: &BTreeSet<T>, wanted: &BTreeSet<T>) -> Vec<(T, bool)> {
    let gone = held.difference(wanted).map(|t| (t.clone(), false));
    gone.chain(wanted.difference(held).map(|t| (t.clone(), true))).collect()
}

/// The reverse path of what arrives is looked up with its mark; IPv6 has no part in it.
const OWN: [(&str, &str); 2] = [("ipv4", "src_valid_mark"), ("ipv6", "disable_ipv6")];

fn settled(link: &str) -> bool {
    let own = OWN.iter().map(|(family, key)| (*family, *key, "1"));
    let shared = SETTINGS.iter().map(|(key, value)| ("ipv4", *key, *value));
    own.chain(shared).all(|(family, key, value)| {
        // A host may be without IPv6.
        sysctl::read(&format!("{family}/conf/{link}/{key}")).is_none_or(|now| now == value)
    })
}

/// Removes the differences.
pub fn repair(found: &Differences) -> Result<()> {
    let mut host = Links::open()?;
    let name = &found.name;
    if let Some((link, mtu)) = &found.link {
        host.delete(name)?;
        host.run(vec![policy::vxlan(name, link, *mtu)], &[])?;
    }
    if let Some(mtu) = found.settings.or(found.link.map(|(_, mtu)| mtu)) {
        for (family, key) in OWN {
            let key = format!("{family}/conf/{name}/{key}");
            if sysctl::read(&key).is_some() {
                sysctl::write(&key, "1")?;
            }
        }
        ours(name)?;
        let index = host.index(name)?;
        host.run(vec![step::set(index, Some(mtu), None)], &[])?;
    }
    let mut steps: Vec<Step> = Vec::new();
    if !found.gone && (!found.neighbours.is_empty() || !found.forwards.is_empty() || !found.routes.is_empty())
    {
        let index = host.index(name)?;
        steps.extend(found.neighbours.iter().map(|(addr, mac)| match mac {
            Some(mac) => step::neighbour(index, *addr, *mac),
            None => policy::drop_neighbour(index, *addr),
        }));
        steps.extend(found.forwards.iter().map(|(f, on)| policy::forward(index, f, *on)));
        steps.extend(
            found.routes.iter().map(|((table, route), on)| policy::route_in(index, *table, route, *on)),
        );
    }
    steps.extend(found.policies.iter().map(|(p, on)| policy::policy(p, *on)));
    let led = host.run(steps, &[Errno::ESRCH, Errno::ENOENT, Errno::EEXIST]);
    let deleted = if found.gone { host.delete(name) } else { Ok(()) };
    Error::gather([led, deleted].into_iter().filter_map(Result::err).collect())
}

/// Whether this kernel has VXLAN: an interface is made to see, and removed.
pub fn probe(names: &Names) -> bool {
    let Ok(mut host) = Links::open() else { return false };
    let name = names.mesh();
    if matches!(host.find(&name), Ok(Some(_))) {
        return true;
    }
    let local = Ipv4Addr::LOCALHOST;
    let link = VxLan { vni: 1, local, port: crate::mesh::PORT, mac: crate::mesh::mac_of(local) };
    let made = host.run(vec![policy::vxlan(&name, &link, 1280)], &[]);
    match made.and_then(|()| host.delete(&name)) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%error, "this kernel has no VXLAN: ports published by the swarm do not keep the client's address between this node and others");
            false
        }
    }
}
