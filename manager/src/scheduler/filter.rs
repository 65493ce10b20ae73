//! The filter pipeline: each filter says whether a node may take a task of the group and, if not, why in
//! words a person can act on. The cheapest rejections come first.

use std::collections::BTreeMap;

use skep_proto::features::{Feature, asked, is_on_one_address};
use skep_proto::privileges::{Privilege, needed};
use skep_proto::v1;

use super::constraint::{Constraint, architecture};
use super::load::{NodeLoad, host_ports};
use crate::store::StoreView;

/// What a group of tasks asks of a node.
pub(super) struct Demand {
    pub reservations: v1::Resources,
    pub generic: Vec<v1::GenericResource>,
    pub constraints: Vec<Constraint>,
    /// A constraint that cannot be understood: no node fits.
    pub nonsense: Option<String>,
    pub platforms: Vec<v1::Platform>,
    pub max_replicas: u64,
    pub ports: Vec<v1::PortConfig>,
    /// What only some nodes allow, each with what to call it.
    pub privileges: BTreeMap<Privilege, String>,
    /// The same on nodes whose default runtime is another than Skep's own.
    pub privileges_by_another: BTreeMap<Privilege, String>,
    /// What only newer nodes know.
    pub features: Vec<Feature>,
}

impl Demand {
    /// `networks` are those that the tasks join.
    pub fn of(view: &StoreView, service: &v1::Service, spec: &v1::TaskSpec, networks: &[&str]) -> Self {
        let placement = spec.placement.clone().unwrap_or_default();
        let (mut constraints, mut nonsense) = (Vec::new(), None);
        for text in &placement.constraints {
            match Constraint::parse(text) {
                Ok(c) => constraints.push(c),
                Err(e) => nonsense = Some(e.to_string()),
            }
        }
        let ports = service.endpoint.as_ref().map_or(&[][..], |e| &e.ports);
        let ports: Vec<v1::PortConfig> = host_ports(ports).cloned().collect();
        let mut features = spec.container.as_ref().map(asked).unwrap_or_default();
        features.extend(ports.iter().any(|p| is_on_one_address(&p.host_ip)).then_some(Feature::HostIp));
        let mut networks = networks.iter().filter_map(|id| view.network(id));
        features.extend(networks.any(|n| !n.subnet6.is_empty()).then_some(Feature::OverlayIpv6));
        Self {
            reservations: spec.reservations.unwrap_or_default(),
            generic: spec.generic.clone(),
            constraints,
            nonsense,
            platforms: placement.platforms,
            max_replicas: placement.max_replicas,
            ports,
            privileges: spec.container.as_ref().map(|c| needed(c, true)).unwrap_or_default(),
            privileges_by_another: spec.container.as_ref().map(|c| needed(c, false)).unwrap_or_default(),
            features,
        }
    }
}

/// Why a node does not take a task: what one node does, and what several do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Refusal {
    one: String,
    many: String,
}

impl Refusal {
    fn new(one: impl Into<String>, many: impl Into<String>) -> Option<Self> {
        Some(Self { one: one.into(), many: many.into() })
    }
    pub fn phrase(&self, nodes: usize) -> &str {
        if nodes == 1 { &self.one } else { &self.many }
    }
}

/// A filter that what the node carries has no part in: why the node is no good for the demand, if it is not.
type Static = fn(&NodeLoad, &Demand) -> Option<Refusal>;
/// A filter that is also told how many tasks of the service the node has.
type Dynamic = fn(&NodeLoad, &Demand, u32) -> Option<Refusal>;

/// Filters that placing tasks of the group does not change.
const STATIC: [Static; 5] = [ready, constraints, platform, features, privileges];
/// Filters that every task placed may change.
const DYNAMIC: [Dynamic; 3] = [resources, ports, max_replicas];

/// Runs the filters that hold for the whole group.
pub(super) fn suits(node: &NodeLoad, demand: &Demand) -> Option<Refusal> {
    STATIC.iter().find_map(|f| f(node, demand))
}

/// Runs the filters that depend on what the node carries already.
pub(super) fn fits(node: &NodeLoad, demand: &Demand, has: u32) -> Option<Refusal> {
    DYNAMIC.iter().find_map(|f| f(node, demand, has))
}

/// Whether the node suits a placement, whatever it carries: what a global service goes by.
pub fn may_hold(node: &v1::Node, placement: &v1::Placement) -> bool {
    node.spec.as_ref().is_none_or(|s| s.availability() != v1::NodeAvailability::Drain)
        && placement.constraints.iter().all(|c| Constraint::parse(c).is_ok_and(|c| c.matches(node)))
        && (placement.platforms.is_empty() || placement.platforms.iter().any(|p| runs(node, p)))
}

/// Whether the node takes new tasks at all.
pub fn open(node: &v1::Node) -> bool {
    node.state() == v1::NodeState::Ready
        && node.spec.as_ref().is_none_or(|s| s.availability() == v1::NodeAvailability::Active)
}

fn ready(load: &NodeLoad, _: &Demand) -> Option<Refusal> {
    let node = &load.node;
    match node.state() {
        v1::NodeState::Ready => {}
        v1::NodeState::Down => return Refusal::new("is down", "are down"),
        v1::NodeState::Disconnected => return Refusal::new("is disconnected", "are disconnected"),
        v1::NodeState::Unknown => return Refusal::new("has not reported yet", "have not reported yet"),
    }
    match node.spec.as_ref().map(v1::NodeSpec::availability) {
        Some(v1::NodeAvailability::Drain) => Refusal::new("is drained", "are drained"),
        Some(v1::NodeAvailability::Pause) => Refusal::new("is paused", "are paused"),
        Some(v1::NodeAvailability::Active) | None => None,
    }
}

fn constraints(load: &NodeLoad, demand: &Demand) -> Option<Refusal> {
    let failed = demand.constraints.iter().find(|c| !c.matches(&load.node))?;
    Refusal::new(format!("does not match {failed}"), format!("do not match {failed}"))
}

fn platform(load: &NodeLoad, demand: &Demand) -> Option<Refusal> {
    if demand.platforms.is_empty() || demand.platforms.iter().any(|p| runs(&load.node, p)) {
        return None;
    }
    let names: Vec<_> = demand.platforms.iter().map(|p| format!("{}/{}", p.os, p.architecture)).collect();
    let names = names.join(" or ");
    Refusal::new(format!("is not {names}"), format!("are not {names}"))
}

fn features(load: &NodeLoad, demand: &Demand) -> Option<Refusal> {
    let known = |f: &Feature| load.node.description.as_ref().is_some_and(|d| f.is_known_to(d));
    let what = demand.features.iter().find(|f| !known(f))?.what();
    Refusal::new(
        format!("runs an older version of Skep, which does not know {what}"),
        format!("run older versions of Skep, which do not know {what}"),
    )
}

fn privileges(load: &NodeLoad, demand: &Demand) -> Option<Refusal> {
    let node = load.node.description.as_ref();
    let allowed = |p: &Privilege| node.is_some_and(|d| d.allows.iter().any(|word| word == p.word()));
    let own = node.is_none_or(|d| d.default_runtime.is_empty());
    let needed = if own { &demand.privileges } else { &demand.privileges_by_another };
    let (_, what) = needed.iter().find(|(p, _)| !allowed(p))?;
    Refusal::new(format!("does not allow {what}"), format!("do not allow {what}"))
}

fn runs(node: &v1::Node, wanted: &v1::Platform) -> bool {
    let has = node.description.as_ref().and_then(|d| d.platform.as_ref());
    let os = has.map_or("", |p| &p.os);
    let arch = architecture(has.map_or("", |p| &p.architecture));
    (wanted.os.is_empty() || wanted.os.eq_ignore_ascii_case(os))
        && (wanted.architecture.is_empty() || architecture(&wanted.architecture) == arch)
}

fn resources(load: &NodeLoad, demand: &Demand, _: u32) -> Option<Refusal> {
    let (cpus, memory) = load.free();
    let lacks = |what: String| Refusal::new(format!("lacks {what}"), format!("lack {what}"));
    if demand.reservations.memory_bytes > 0 && memory < demand.reservations.memory_bytes {
        return lacks(format!("{} of memory", bytes(demand.reservations.memory_bytes)));
    }
    if demand.reservations.nano_cpus > 0 && cpus < demand.reservations.nano_cpus {
        return lacks(format!("{} CPUs", demand.reservations.nano_cpus as f64 / 1e9));
    }
    let short = demand.generic.iter().find(|g| load.generic.free(&load.node, &g.kind) < g.amount)?;
    lacks(format!("{} {}", short.amount, short.kind))
}

fn ports(load: &NodeLoad, demand: &Demand, _: u32) -> Option<Refusal> {
    let taken = demand.ports.iter().find(|p| load.holds_port(p))?;
    let port = format!("port {}/{} in use", taken.published_port, crate::allocator::ports::protocol(taken));
    Refusal::new(format!("has {port}"), format!("have {port}"))
}

fn max_replicas(_: &NodeLoad, demand: &Demand, has: u32) -> Option<Refusal> {
    if demand.max_replicas == 0 || u64::from(has) < demand.max_replicas {
        return None;
    }
    let max = demand.max_replicas;
    Refusal::new(
        format!("holds its maximum of {max} replicas"),
        format!("hold their maximum of {max} replicas"),
    )
}

fn bytes(n: i64) -> String {
    const UNITS: [(i64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.iter().find(|(size, _)| n >= *size && n % size == 0) {
        Some((size, unit)) => format!("{} {unit}", n / size),
        None if n >= 1 << 20 => format!("{:.1} MiB", n as f64 / (1 << 20) as f64),
        None => format!("{n} bytes"),
    }
}
