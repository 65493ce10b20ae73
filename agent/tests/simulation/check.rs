//! What must hold.
//!
//! Always: a term has one leader at most; and no slot of a service runs two tasks, in Swarm's sense. A task on a
//! node that the swarm has given up (state Down) is replaced elsewhere, and its container goes on until the node
//! is back and has been told. So of the containers of one slot, those count that were not sent a stop signal,
//! on nodes that have not been down since they were started, or are back for longer than [`TOLD`]; there may
//! be one such at most, but for a task that is moved: it runs beside the one whose place it takes. (Jobs and start-first
//! updates are another matter: the histories have none.)
//!
//! In the end, with everything mended: every manager holds the same state; what was acknowledged is in it;
//! each service runs exactly its replicas, each slot once, of the last revision, none on a drained node, and those with
//! data on a node that is drained wait; what runs has its data with it; and no container is left over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use skep_manager::Manager;
use skep_manager::store::StoreView;
use skep_proto::v1::{self, NodeState};

use crate::client::{Known, Record, Removal, name_of, want_of};
use crate::node::Node;

/// A node that is back has been told what to stop by then: session, assignments, drain and stop signal.
const TOLD: Duration = Duration::from_secs(15);

/// What the checks remember.
#[derive(Default)]
pub struct Checks {
    leaders: BTreeMap<u64, String>,
    /// The newest state seen, by its log index.
    seen: u64,
    /// Tasks that take the place of one that goes on until they run.
    moved: BTreeSet<String>,
    nodes: BTreeMap<String, Standing>,
}

/// What the swarm thinks of a node.
#[derive(Default)]
struct Standing {
    down: bool,
    back: Option<Duration>,
}

type Verdict<T = ()> = Result<T, String>;

impl Checks {
    /// What must hold at every moment.
    pub fn always(&mut self, nodes: &[Arc<Node>], now: Duration) -> Verdict {
        self.one_leader(nodes)?;
        self.follow(nodes, now);
        self.one_task_a_slot(nodes, now)
    }

    fn one_leader(&mut self, nodes: &[Arc<Node>]) -> Verdict {
        for node in nodes {
            let led = node.led.lock().map(|l| l.clone()).unwrap_or_default();
            for term in led {
                let leader = self.leaders.entry(term).or_insert_with(|| node.name.clone());
                if *leader != node.name {
                    return Err(format!("term {term} had the leaders {leader} and {}", node.name));
                }
            }
        }
        Ok(())
    }

    /// Takes the newest committed state in.
    fn follow(&mut self, nodes: &[Arc<Node>], now: Duration) {
        let views = nodes.iter().filter_map(|n| n.manager()).map(|m| m.store().view());
        let Some(view) = views.max_by_key(|v| v.index).filter(|v| v.index > self.seen) else { return };
        self.seen = view.index;
        if let (Some(node), Some(cluster)) = (nodes.first(), view.cluster()) {
            node.invitation.note_key(&cluster.unlock_key);
        }
        self.moved.extend(view.tasks().filter(|t| !t.moved_from.is_empty()).map(|t| t.id.clone()));
        for node in view.nodes() {
            let standing = self.nodes.entry(node.id.clone()).or_default();
            let down = node.state() == NodeState::Down;
            if standing.down && !down {
                standing.back = Some(now);
            }
            standing.down = down;
        }
    }

    fn one_task_a_slot(&self, nodes: &[Arc<Node>], now: Duration) -> Verdict {
        let mut running: BTreeMap<(String, u64), Vec<String>> = BTreeMap::new();
        let mut coming: BTreeMap<(String, u64), usize> = BTreeMap::new();
        for node in nodes {
            let standing = self.nodes.get(&node.id());
            for (task, container) in node.containers.all() {
                let replaced = standing.is_some_and(|s| {
                    s.down || s.back.is_some_and(|back| container.started < Some(back) && now < back + TOLD)
                });
                if container.runs(now) && !container.stopping && !replaced {
                    let slot = (container.service, container.slot);
                    if self.moved.contains(&task) {
                        *coming.entry(slot.clone()).or_default() += 1;
                    }
                    let tasks = running.entry(slot).or_default();
                    tasks.push(format!("{task} on {}", node.name));
                }
            }
        }
        // One that was moved before may be moved again: two of them are no more than two.
        let beside = |slot: &(String, u64)| usize::from(coming.contains_key(slot));
        match running.into_iter().find(|(slot, tasks)| tasks.len() > 1 + beside(slot)) {
            Some(((service, slot), tasks)) => {
                Err(format!("slot {slot} of service {service} runs {}", tasks.join(" and ")))
            }
            None => Ok(()),
        }
    }

    /// What must hold once everything is mended and time has passed. Returns the log's end.
    pub fn settled(&self, nodes: &[Arc<Node>], record: &Record, now: Duration) -> Verdict<u64> {
        let mut managers = Vec::new();
        for node in nodes.iter().filter(|n| n.manages()) {
            managers.push((node, node.manager().ok_or_else(|| format!("{} has no manager", node.name))?));
        }
        let status: Vec<_> = managers.iter().map(|(_, m)| m.raft_status().borrow().clone()).collect();
        let end = |s: &skep_manager::raft::RaftStatus| (s.term, s.leader, s.applied, s.last_index);
        if status.iter().any(|s| s.leader == 0 || s.applied != s.last_index || end(s) != end(&status[0])) {
            return Err(format!("managers at {:?}", status.iter().map(end).collect::<Vec<_>>()));
        }
        let voters = status[0].members.iter().filter(|m| m.voter).count();
        if voters != managers.len() {
            return Err(format!("{voters} of {} managers vote", managers.len()));
        }
        let view = managers[0].1.store().view();
        as_locked(&view, &managers)?;
        for node in nodes {
            let state = view.node(&node.id()).map(|n| n.state());
            if state != Some(NodeState::Ready) {
                return Err(format!("{} is {state:?}", node.name));
            }
            let role = view.node(&node.id()).map(|n| n.role() == v1::NodeRole::Manager);
            if role != Some(node.manages()) || node.manager().is_some() != node.manages() {
                return Err(format!("{} has not the role that users were told", node.name));
            }
        }
        acknowledged(&view, record)?;
        one_root(&view, record)?;
        exactly_desired(&view, nodes, now)?;
        let first = managers[0].1.store().snapshot();
        for (node, manager) in &managers[1..] {
            if manager.store().snapshot() != first {
                return Err(format!("{} and {} hold different states", managers[0].0.name, node.name));
            }
        }
        Ok(status[0].last_index)
    }
}

/// Each manager's keys are sealed by the swarm's unlock key, or readable where it has none.
fn as_locked(view: &StoreView, managers: &[(&Arc<Node>, Manager)]) -> Verdict {
    let cluster = view.cluster().ok_or("there is no cluster")?;
    for (node, _) in managers {
        if !node.is_locked_by(&cluster.unlock_key)? {
            return Err(format!(
                "the disk of {} is not locked by the key {:?}",
                node.name, cluster.unlock_key
            ));
        }
    }
    Ok(())
}

/// No rotation of the root is under way or lost, and every node trusts the one root and has a certificate of it.
fn one_root(view: &StoreView, record: &Record) -> Verdict {
    let cluster = view.cluster().ok_or("there is no cluster")?;
    let acknowledged = record.rotations.load(Ordering::Relaxed);
    if cluster.root_rotation.is_some() || cluster.last_forced_rotation < acknowledged {
        let at = cluster.last_forced_rotation;
        return Err(format!("rotation {at} of the root, acknowledged was {acknowledged}, is not over"));
    }
    let mut issuers = BTreeMap::new();
    for node in view.nodes() {
        let tls =
            node.description.as_ref().and_then(|d| d.tls.as_ref()).ok_or("a node has no certificate")?;
        if tls.trust_root != cluster.root_ca_pem {
            return Err(format!("node {} trusts other roots than the swarm's", node.id));
        }
        issuers.insert(&tls.cert_issuer_public_key, &node.id);
    }
    match issuers.len() {
        1 => Ok(()),
        _ => Err(format!("the certificates are of several roots: {issuers:?}")),
    }
}

/// What users were told is so.
fn acknowledged(view: &StoreView, record: &Record) -> Verdict {
    let known = record.services().clone();
    if let Some((name, _)) = known.iter().find(|(_, k)| k.busy) {
        return Err(format!("a request about {name} is not answered"));
    }
    for (name, known) in &known {
        let found = view.service_by_name(name);
        match (found, known.removal) {
            (Some(service), _) if service.removing => return Err(format!("{name} is going")),
            (Some(_), Removal::Acknowledged) => {
                return Err(format!("the removal of {name} was acknowledged, but it is there"));
            }
            (None, Removal::Acknowledged | Removal::Maybe) => {}
            (None, Removal::No) => {
                if let Some((want, version)) = known.acknowledged {
                    return Err(format!("{name}, acknowledged as {want:?} at {version}, is lost"));
                }
            }
            (Some(service), Removal::No | Removal::Maybe) => as_told(name, service, known)?,
        }
    }
    match view.services().find(|s| !known.contains_key(name_of(s))) {
        Some(stranger) => Err(format!("nobody asked for the service {}", name_of(stranger))),
        None => Ok(()),
    }
}

fn as_told(name: &str, service: &v1::Service, known: &Known) -> Verdict {
    let is = want_of(service);
    let told = known.acknowledged.map(|(want, _)| want);
    if told == Some(is) || known.maybe.contains(&is) {
        return Ok(());
    }
    Err(format!("{name} is {is:?}, but acknowledged was {told:?} and unanswered {:?}", known.maybe))
}

/// Exactly the desired replicas run, and nothing is left over.
fn exactly_desired(view: &StoreView, nodes: &[Arc<Node>], now: Duration) -> Verdict {
    let mut running: BTreeMap<(String, u64), u64> = BTreeMap::new();
    for node in nodes {
        for (id, container) in node.containers.all() {
            let task = view.task(&id).filter(|t| t.node_id == node.id());
            let Some(task) = task else {
                return Err(format!("{} holds a container of {id}, which is no task of its", node.name));
            };
            if container.runs(now) {
                let spec = view.node(&node.id()).and_then(|n| n.spec.as_ref());
                if spec.is_some_and(|s| s.availability() == v1::NodeAvailability::Drain) {
                    return Err(format!("{} is drained, but runs {id}", node.name));
                }
                *running.entry((container.service.clone(), container.slot)).or_default() += 1;
                let home = view.homes(&container.service).and_then(|h| h.slots.get(&container.slot));
                if let Some(home) = home.filter(|h| h.node_id != node.id()) {
                    return Err(format!(
                        "task {id} runs on {}, and its data is on {}",
                        node.name, home.node_id
                    ));
                }
                // What a rollback leads back to is a revision of its own, and those that never left it stay.
                let wanted = view.service(&container.service).and_then(|s| view.present_spec(s));
                if wanted != view.task_spec(task) {
                    return Err(format!(
                        "task {id} runs revision {}, which is not what is wanted",
                        task.revision
                    ));
                }
            }
        }
    }
    for service in view.services() {
        let mine = running.keys().filter(|(id, _)| *id == service.id).count() as u64;
        let wanted = want_of(service).replicas;
        let held = view.tasks_of_service(&service.id).filter(|t| waits_for_data(view, t)).count() as u64;
        if mine + held != wanted {
            return Err(format!("{} runs {mine} of {wanted} replicas, {held} wait", name_of(service)));
        }
        if service.update_status.as_ref().is_some_and(|u| u.state() == v1::UpdateState::Updating) {
            return Err(format!("{} is being updated", name_of(service)));
        }
    }
    match running.into_iter().find(|(_, count)| *count > 1) {
        Some(((service, slot), count)) => Err(format!("slot {slot} of {service} runs {count} times")),
        None => Ok(()),
    }
}

/// Whether a task waits for nothing but a drained node that holds its data.
fn waits_for_data(view: &StoreView, task: &v1::Task) -> bool {
    let home = view.homes(&task.service_id).and_then(|h| h.slots.get(&task.slot));
    let spec = home.and_then(|h| view.node(&h.node_id)).and_then(|n| n.spec.as_ref());
    let drained = spec.is_some_and(|s| s.availability() == v1::NodeAvailability::Drain);
    drained && skep_manager::orchestrator::task::waiting(task)
}
