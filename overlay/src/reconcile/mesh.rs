//! The ingress mesh in the kernel: its interface, whom that reaches, the routes and the rules that lead there; what
//! differs from the state, and how the differences are removed, all in few writes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use nix::errno::Errno;

use super::wire::{SETTINGS, SETTINGS6};
use crate::cidr::Address;
use crate::error::{Error, Result};
use crate::link::policy::{self, Forward, Policy, VxLan};
use crate::link::{Link, Links, Mac, Route, Step, step};
use crate::mesh::{Mesh, Ways};
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
    settings: Option<Settings>,
    forwards: Vec<(Forward, bool)>,
    four: Differing<Ipv4Addr>,
    six: Differing<Ipv6Addr>,
}

/// How the interface is to be.
#[derive(Clone, Copy, Debug)]
struct Settings {
    mtu: u32,
    six: bool,
}

/// What differs of a family: what is to be removed, and what is to be made.
#[derive(Clone, Debug)]
struct Differing<A> {
    neighbours: Vec<(A, Option<Mac>)>,
    routes: Vec<((Option<u32>, Route<A>), bool)>,
    policies: Vec<(Policy<A>, bool)>,
}

impl<A> Default for Differing<A> {
    fn default() -> Self {
        Self { neighbours: Vec::new(), routes: Vec::new(), policies: Vec::new() }
    }
}

impl<A: Address> Differing<A> {
    /// Compares a family with what is wanted of it; `link` is the interface's index, where it is there.
    fn of(host: &mut Links, names: &Names, link: Option<u32>, wanted: &Ways<A>) -> Result<Self> {
        let held: BTreeSet<Policy<A>> = host.policies(names.priorities())?.into_iter().collect();
        // Removals first, and the last rule before those that lead to it.
        let mut policies = both(&held, &wanted.policies);
        policies.sort_by_key(|(p, on)| (*on, Reverse(if *on { p.priority } else { 0 })));
        let (mut neighbours, mut routes) = (BTreeMap::new(), BTreeSet::new());
        if let Some(index) = link {
            neighbours = host.neighbours(index)?;
            routes = host.routes_by(index)?.into_iter().collect();
        }
        let gone = neighbours.keys().filter(|a| !wanted.neighbours.contains_key(a)).map(|a| (*a, None));
        let new = wanted.neighbours.iter().filter(|(a, mac)| neighbours.get(a) != Some(mac));
        let neighbours = gone.chain(new.map(|(a, mac)| (*a, Some(*mac)))).collect();
        Ok(Self { neighbours, routes: both(&routes, &wanted.routes), policies })
    }

    /// Each, in words.
    fn list<'a>(&'a self, link: &'a str) -> impl Iterator<Item = String> + 'a {
        let neighbours = self.neighbours.iter();
        let neighbours = neighbours
            .map(move |(addr, mac)| format!("neighbour {addr} on {link} {}", whether(mac.is_some())));
        let routes = self.routes.iter().map(move |((table, route), on)| {
            let table = table.map_or_else(String::new, |t| format!(" in table {t:#x}"));
            format!("route {} on {link}{table} {}", route.to, whether(*on))
        });
        let family = if A::FAMILY == Ipv4Addr::FAMILY { "IPv4" } else { "IPv6" };
        let policies = self.policies.iter();
        let policies =
            policies.map(move |(p, on)| format!("routing rule {} of {family} {}", p.priority, whether(*on)));
        neighbours.chain(routes).chain(policies)
    }

    fn is_by_link(&self) -> bool {
        !self.neighbours.is_empty() || !self.routes.is_empty()
    }

    /// What is to be done by the interface.
    fn by_link(&self, index: u32) -> impl Iterator<Item = Step> {
        let neighbours = self.neighbours.iter().map(move |(addr, mac)| match mac {
            Some(mac) => step::neighbour(index, *addr, *mac),
            None => policy::drop_neighbour(index, *addr),
        });
        let routes = self.routes.iter();
        neighbours.chain(routes.map(move |((table, route), on)| policy::route_in(index, *table, route, *on)))
    }

    fn policies(&self) -> impl Iterator<Item = Step> {
        self.policies.iter().map(|(p, on)| policy::policy(p, *on))
    }
}

impl Differences {
    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.list().next().is_none()
    }

    /// Some are of what goes by the interface.
    fn is_by_link(&self) -> bool {
        !self.forwards.is_empty() || self.four.is_by_link() || self.six.is_by_link()
    }

    /// Each, in words.
    fn list(&self) -> impl Iterator<Item = String> + '_ {
        let name = &self.name;
        let link = self.link.as_ref().map(|_| format!("interface {name} is missing or another"));
        let gone = self.gone.then(|| format!("interface {name} is not wanted"));
        let settings = self.settings.filter(|_| self.link.is_none());
        let settings = settings.map(|_| format!("settings of interface {name} differ"));
        let forwards = self.forwards.iter();
        let forwards =
            forwards.map(move |(f, on)| format!("forwarding entry of {name} to {} {}", f.to, whether(*on)));
        let links = link.into_iter().chain(gone).chain(settings);
        links.chain(forwards).chain(self.four.list(name)).chain(self.six.list(name))
    }
}

fn whether(on: bool) -> &'static str {
    if on { "is missing" } else { "is not wanted" }
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
    let mut index = None;
    match &mesh {
        None => found.gone = held.is_some(),
        Some(mesh) => {
            let mtu = mesh.mtu(state.tunnel_mtu.unwrap_or(crate::routed::SAFE_MTU));
            let settings = Settings { mtu, six: mesh.six.is_some() };
            let held = held.filter(|h| h.vxlan == Some(mesh.link()));
            if held.is_none() {
                found.link = Some((mesh.link(), mtu));
            }
            if held.is_none_or(|h| !h.up || h.mtu != mtu) || !settled(&found.name, settings.six) {
                found.settings = Some(settings);
            }
            index = held.map(|h| h.index);
            let forwards = index.map(|at| host.forwards(at)).transpose()?.unwrap_or_default();
            found.forwards = both(&forwards.into_iter().collect(), &mesh.forwards().into_iter().collect());
        }
    }
    let four = mesh.as_ref().map(Mesh::four).unwrap_or_default();
    found.four = Differing::of(host, names, index, &four)?;
    if state.has_ipv6 {
        let six = mesh.as_ref().map(Mesh::six).unwrap_or_default();
        found.six = Differing::of(host, names, index, &six)?;
    }
    Ok(found)
}

/// What is held and not wanted, then what is wanted and not held.
fn both<T: Ord + Clone>(held: &BTreeSet<T>, wanted: &BTreeSet<T>) -> Vec<(T, bool)> {
    let gone = held.difference(wanted).map(|t| (t.clone(), false));
    gone.chain(wanted.difference(held).map(|t| (t.clone(), true))).collect()
}

/// Settings of the interface, in the order to make them. The reverse path of what arrives is looked up with its mark. Of
/// IPv6 it has what the nodes' tasks need, or none; an address of its own it never has.
fn wanted_settings(six: bool) -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    const NONE: [(&str, &str); 1] = [("disable_ipv6", "1")];
    let four = [("src_valid_mark", "1")].into_iter().chain(SETTINGS);
    let six =
        [("addr_gen_mode", "1")].into_iter().chain(if six { SETTINGS6.iter() } else { NONE.iter() }.copied());
    four.map(|(key, value)| ("ipv4", key, value)).chain(six.map(|(key, value)| ("ipv6", key, value)))
}

fn settled(link: &str, six: bool) -> bool {
    wanted_settings(six).all(|(family, key, value)| {
        // A host may be without IPv6.
        let now = sysctl::read(&format!("{family}/conf/{link}/{key}"));
        if six || family == "ipv4" {
            now.as_deref() == Some(value)
        } else {
            now.is_none_or(|now| now == value)
        }
    })
}

fn settle(link: &str, six: bool) -> Result<()> {
    for (family, key, value) in wanted_settings(six) {
        let key = format!("{family}/conf/{link}/{key}");
        if six || family == "ipv4" || sysctl::read(&key).is_some() {
            sysctl::write(&key, value)?;
        }
    }
    Ok(())
}

/// Removes the differences.
pub fn repair(found: &Differences) -> Result<()> {
    let mut host = Links::open()?;
    let name = &found.name;
    if let Some((link, mtu)) = &found.link {
        host.delete(name)?;
        host.run(vec![policy::vxlan(name, link, *mtu)], &[])?;
    }
    if let Some(settings) = found.settings {
        let index = host.index(name)?;
        // The kernel takes IPv6 from a link that is too small for it, with its settings.
        host.run(vec![step::resize(index, settings.mtu)], &[])?;
        settle(name, settings.six)?;
        host.run(vec![step::set(index, None, None)], &[])?;
    }
    let mut steps: Vec<Step> = Vec::new();
    if !found.gone && found.is_by_link() {
        let index = host.index(name)?;
        steps.extend(found.forwards.iter().map(|(f, on)| policy::forward(index, f, *on)));
        steps.extend(found.four.by_link(index).chain(found.six.by_link(index)));
    }
    steps.extend(found.four.policies().chain(found.six.policies()));
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
