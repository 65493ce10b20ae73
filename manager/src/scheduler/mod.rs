//! The scheduler: gives waiting tasks their nodes and, in the same change, their addresses. Tasks are taken
//! in groups of one service and revision; the filters run over the nodes once for a group, and each task then
//! costs one step in a heap.

pub mod constraint;
mod data;
mod explain;
mod filter;
mod generic;
mod load;
mod spread;
mod uneven;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use skep_proto::v1;
use v1::TaskState;

pub use explain::{Explanation, explain};
pub use filter::{may_hold, open};
pub use load::Load;
pub use uneven::{Move, Uneven, uneven};

use crate::allocator::{self, Pools};
use crate::prerequisites;
use crate::store::{StoreView, change::put};
use data::{Data, Standing};
use filter::{Demand, Refusal};
use spread::Spread;

/// What a pass decided.
#[derive(Debug, Default)]
pub struct Schedule {
    /// Tasks assigned, and tasks whose reason for waiting changed.
    pub changes: Vec<v1::Change>,
    /// Whether it stopped at the limit: run it again.
    pub more: bool,
}

/// Places waiting tasks, at most `limit` changes of them. `load` and `pools` are those of the view, and are
/// those of the view with the changes afterwards; `refusals` are services that have to wait, and why.
pub fn schedule(
    view: &StoreView,
    load: &mut Load,
    pools: &mut Pools,
    refusals: &BTreeMap<String, String>,
    now_ms: i64,
    limit: usize,
) -> Schedule {
    let mut out = Schedule::default();
    for (service_id, tasks) in view.waiting() {
        let Some(service) = view.service(service_id.as_str()) else { continue };
        let mut groups: BTreeMap<u64, Vec<&Arc<v1::Task>>> = BTreeMap::new();
        for t in tasks {
            groups.entry(t.revision).or_default().push(t);
        }
        for (revision, tasks) in groups {
            match Group::waiting(view, service, revision, refusals, now_ms) {
                Ok(group) => group.place(&tasks, load, pools, limit, &mut out),
                Err(held) => {
                    for t in tasks.iter().take(limit.saturating_sub(out.changes.len())) {
                        hold(t, held.message, &held.why, now_ms, &mut out);
                    }
                }
            }
            if out.changes.len() >= limit {
                out.more = true;
                return out;
            }
        }
    }
    out
}

/// Tasks of one service and revision.
struct Group<'a> {
    service: &'a v1::Service,
    demand: Demand,
    networks: Vec<&'a str>,
    network_names: Vec<&'a str>,
    ports: Vec<v1::PortConfig>,
    preferences: Vec<String>,
    revision: u64,
    now_ms: i64,
    data: Data<'a>,
}

impl<'a> Group<'a> {
    /// The waiting tasks of a revision, or why none of them can be placed whatever the nodes are.
    fn waiting(
        view: &'a StoreView,
        service: &'a v1::Service,
        revision: u64,
        refusals: &BTreeMap<String, String>,
        now_ms: i64,
    ) -> Result<Self, Held> {
        let spec = view.revision(&service.id, revision).and_then(|r| r.spec.as_ref());
        let spec = spec.ok_or("its revision is gone: update the service")?;
        if let Some(why) = refusals.get(&service.id) {
            return Err(why.as_str().into());
        }
        if service.endpoint.is_none() {
            return Err("its service has no addresses yet".into());
        }
        if let Some(unmet) = prerequisites::unmet(view, service, revision) {
            let whole = unmet.whole();
            return Err(Held { message: "waiting for other services", why: unmet.what, whole });
        }
        Ok(Self::new(view, service, spec, revision, now_ms))
    }

    fn new(
        view: &'a StoreView,
        service: &'a v1::Service,
        spec: &'a v1::TaskSpec,
        revision: u64,
        now_ms: i64,
    ) -> Self {
        let networks = allocator::networks_of(view, service, spec);
        let names = networks.iter().map(|id| view.network(id).map_or(*id, |n| crate::store::network_name(n)));
        let preferences = spec.placement.iter().flat_map(|p| &p.preferences).map(|p| p.descriptor.clone());
        Self {
            service,
            demand: Demand::of(view, service, spec, &networks),
            network_names: names.collect(),
            networks,
            ports: service.endpoint.as_ref().map(|e| e.ports.clone()).unwrap_or_default(),
            preferences: preferences.collect(),
            revision,
            now_ms,
            data: Data::of(view, service, spec),
        }
    }

    fn place(
        &self,
        tasks: &[&Arc<v1::Task>],
        load: &mut Load,
        pools: &mut Pools,
        limit: usize,
        out: &mut Schedule,
    ) {
        if let Some(nonsense) = &self.demand.nonsense {
            return wait(tasks, nonsense, self.now_ms, limit, out);
        }
        let (bound, free): (Vec<&Arc<v1::Task>>, Vec<_>) = tasks.iter().partition(|t| !t.node_id.is_empty());
        for t in bound {
            self.place_bound(t, load, pools, limit, out);
        }
        let mut free = free;
        free.retain(|t| !self.place_by_data(t, load, pools, limit, out));
        if free.is_empty() {
            return;
        }
        let (mut spread, mut refused) = self.candidates(load);
        let mut placed = vec![0; load.nodes.len()];
        let mut exhausted = false;
        let mut free = free.into_iter();
        out.changes.reserve(free.len().min(limit.saturating_sub(out.changes.len())));
        while out.changes.len() < limit
            && let Some(t) = free.as_slice().first()
        {
            let Some((i, rank)) = spread.best() else { break };
            let node = &mut load.nodes[i];
            if let Some(why) = filter::fits(node, &self.demand, rank.of_service) {
                *refused.entry(why).or_default() += 1;
                spread.refuse_best();
                continue;
            }
            let Some(addresses) = self.addresses(pools, &node.node.id) else {
                exhausted = true;
                break;
            };
            node.occupy(&self.demand.reservations, &self.ports, 1);
            let generic = node.generic.claim(&node.node, &self.demand.generic);
            placed[i] += 1;
            spread.place_on_best();
            out.changes.push(put(self.assigned(t, &node.node.id, addresses, generic)));
            free.next();
        }
        for (node, n) in load.nodes.iter_mut().zip(placed).filter(|(_, n)| *n > 0) {
            node.add_tasks(self.service.id.as_bytes(), n);
        }
        if exhausted {
            wait(free.as_slice(), &self.exhausted(), self.now_ms, limit, out);
        } else if !free.as_slice().is_empty() && out.changes.len() < limit {
            wait(free.as_slice(), &no_node(&refused, load.nodes.len()), self.now_ms, limit, out);
        }
    }

    /// Places a task that belongs to one node (of a global service).
    fn place_bound(
        &self,
        t: &v1::Task,
        load: &mut Load,
        pools: &mut Pools,
        limit: usize,
        out: &mut Schedule,
    ) {
        if out.changes.len() >= limit {
            return;
        }
        match self.place_on(t, &t.node_id, load, pools) {
            Ok(placed) => out.changes.push(put(placed)),
            Err(NotOn::Gone) => wait_one(t, "its node is no longer part of the swarm", self.now_ms, out),
            Err(NotOn::Refused(why)) => wait_one(t, &format!("its node {}", why.phrase(1)), self.now_ms, out),
            Err(NotOn::Exhausted) => wait_one(t, &self.exhausted(), self.now_ms, out),
        }
    }

    /// Sends a task to the node that holds its slot's data, or has it wait for that. False if it may go anywhere.
    fn place_by_data(
        &self,
        t: &v1::Task,
        load: &mut Load,
        pools: &mut Pools,
        limit: usize,
        out: &mut Schedule,
    ) -> bool {
        let Some((home, standing)) = self.data.home(t) else { return false };
        if out.changes.len() >= limit {
            return true;
        }
        if standing == Standing::InUse {
            wait_one(t, &self.data.in_use(home), self.now_ms, out);
            return true;
        }
        match self.place_on(t, &home.node_id, load, pools) {
            Ok(placed) => out.changes.push(put(placed)),
            Err(NotOn::Exhausted) => wait_one(t, &self.exhausted(), self.now_ms, out),
            Err(_) if self.data.may_move() => return false,
            Err(NotOn::Gone) => return false,
            Err(NotOn::Refused(why)) => wait_one(t, &self.data.away(home, why.phrase(1)), self.now_ms, out),
        }
        true
    }

    /// The task on this node, which counts it, if the node takes it.
    fn place_on(
        &self,
        t: &v1::Task,
        id: &str,
        load: &mut Load,
        pools: &mut Pools,
    ) -> Result<v1::Task, NotOn> {
        let node = load.position(id).and_then(|i| load.nodes.get_mut(i)).ok_or(NotOn::Gone)?;
        let has = node.service_tasks(self.service.id.as_bytes());
        let fits = || filter::fits(node, &self.demand, has);
        if let Some(why) = filter::suits(node, &self.demand).or_else(fits) {
            return Err(NotOn::Refused(why));
        }
        let addresses = self.addresses(pools, id).ok_or(NotOn::Exhausted)?;
        node.occupy(&self.demand.reservations, &self.ports, 1);
        let generic = node.generic.claim(&node.node, &self.demand.generic);
        node.add_tasks(self.service.id.as_bytes(), 1);
        Ok(self.assigned(t, id, addresses, generic))
    }

    fn candidates(&self, load: &Load) -> (Spread, HashMap<Refusal, usize>) {
        let mut refused: HashMap<Refusal, usize> = HashMap::new();
        let mut candidates = Vec::new();
        for (i, node) in load.nodes.iter().enumerate() {
            match filter::suits(node, &self.demand) {
                Some(why) => *refused.entry(why).or_default() += 1,
                None => {
                    let values =
                        self.preferences.iter().map(|p| constraint::attribute(&node.node, p)).collect();
                    candidates.push((i, self.rank(node), values));
                }
            }
        }
        (Spread::new(candidates), refused)
    }

    fn rank(&self, node: &load::NodeLoad) -> spread::Rank {
        let service = node.services.get(self.service.id.as_bytes());
        let failures = service.map_or(0, |s| s.failures(self.revision, self.now_ms));
        spread::Rank { failures, of_service: service.map_or(0, |s| s.tasks), in_all: node.tasks }
    }

    fn addresses(&self, pools: &mut Pools, node: &str) -> Option<Vec<v1::TaskAddress>> {
        let mut taken: Vec<(&str, std::net::Ipv4Addr)> = Vec::with_capacity(self.networks.len());
        for id in &self.networks {
            let Some(addr) = pools.take(id, node) else {
                for (id, addr) in taken {
                    pools.give_back(id, addr, node);
                }
                return None;
            };
            taken.push((id, addr));
        }
        let address = |(id, addr): (&str, std::net::Ipv4Addr)| v1::TaskAddress {
            network_id: id.to_owned(),
            addr: addr.to_string(),
            addr6: pools.beside(id, addr).map(|a| a.to_string()).unwrap_or_default(),
        };
        Some(taken.into_iter().map(address).collect())
    }

    fn exhausted(&self) -> String {
        format!(
            "a network of the service ({}) has no free address left: use a larger subnet or fewer replicas",
            self.network_names.join(", ")
        )
    }

    fn assigned(
        &self,
        t: &v1::Task,
        node: &str,
        addresses: Vec<v1::TaskAddress>,
        generic: Vec<v1::GenericResource>,
    ) -> v1::Task {
        v1::Task {
            id: t.id.clone(),
            meta: t.meta,
            service_id: t.service_id.clone(),
            revision: t.revision,
            slot: t.slot,
            node_id: node.to_owned(),
            desired_state: t.desired_state,
            status: Some(v1::TaskStatus {
                state: TaskState::Assigned.into(),
                timestamp_ms: self.now_ms,
                message: "assigned by the scheduler".to_owned(),
                ..Default::default()
            }),
            addresses,
            ports: self.ports.clone(),
            start_not_before_ms: t.start_not_before_ms,
            restarts_ms: t.restarts_ms.clone(),
            incarnation: t.incarnation,
            attachment: None,
            job_iteration: t.job_iteration,
            generic,
            moved_from: t.moved_from.clone(),
        }
    }
}

/// Why no task of a group is placed, and what they do meanwhile.
struct Held {
    message: &'static str,
    why: String,
    /// The same for one who asks: with what changes all the time, too.
    whole: String,
}

impl From<&str> for Held {
    fn from(why: &str) -> Self {
        Self { message: FOR_A_NODE, why: why.to_owned(), whole: why.to_owned() }
    }
}

/// What a task does that has no node.
const FOR_A_NODE: &str = "waiting for a node";

/// Why a task is not placed on the one node it is for.
enum NotOn {
    Gone,
    Refused(Refusal),
    Exhausted,
}

fn wait(tasks: &[&Arc<v1::Task>], why: &str, now_ms: i64, limit: usize, out: &mut Schedule) {
    for t in tasks {
        if out.changes.len() >= limit {
            return;
        }
        wait_one(t, why, now_ms, out);
    }
}

fn wait_one(t: &v1::Task, why: &str, now_ms: i64, out: &mut Schedule) {
    hold(t, FOR_A_NODE, why, now_ms, out);
}

/// Notes what a task does without a node and why, if it does not say so already.
fn hold(t: &v1::Task, message: &str, why: &str, now_ms: i64, out: &mut Schedule) {
    let said = t.status.as_ref().is_some_and(|s| s.err == why && s.state() == TaskState::Pending);
    if said {
        return;
    }
    let mut t = t.clone();
    t.status = Some(v1::TaskStatus {
        state: TaskState::Pending.into(),
        timestamp_ms: now_ms,
        message: message.to_owned(),
        err: why.to_owned(),
        container: None,
    });
    out.changes.push(put(t));
}

/// Words for why no node takes a task: "no node fits: 2 of 3 lack 512 MiB of memory, 1 is drained"
fn no_node(refused: &HashMap<Refusal, usize>, total: usize) -> String {
    if total == 0 {
        return "no node fits: the swarm has no nodes".to_owned();
    }
    let mut parts: Vec<(&Refusal, usize)> = refused.iter().map(|(r, n)| (r, *n)).collect();
    parts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    let mut text = String::from("no node fits: ");
    for (i, (refusal, nodes)) in parts.into_iter().enumerate() {
        let (of, phrase) = (format!(" of {total}"), refusal.phrase(nodes));
        let (comma, of) = if i == 0 { ("", of.as_str()) } else { (", ", "") };
        text.push_str(&format!("{comma}{nodes}{of} {phrase}"));
    }
    text
}
