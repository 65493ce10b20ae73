//! One node's assignment stream: first everything, then what changed. Networks come before the tasks that
//! need them. A task that is to stop is told so only when every node has taken it out of its load
//! balancing, or after a bound.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use skep_proto::defaults;
use skep_proto::features::{Feature, is_on_one_address};
use skep_proto::v1::assignment_change::Op;
use skep_proto::v1::{self, NodeState, TaskState};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::Status;

use super::acks::Acks;
use super::network::NetworkState;
use super::sessions::Session;
use super::world::{World, is_backend, is_live};
use crate::allocator::v6;
use crate::context::Context;
use crate::control::service_name;
use crate::orchestrator::task::wanted;

/// Longest time a task's stop waits for the other nodes' acknowledgement.
const DRAIN_BOUND: Duration = Duration::from_secs(2);
/// Changes in one message; the rest of a large complete set follows in increments.
const BATCH: usize = 2000;

/// Bytes of secrets and configs after which a message is full: an agent takes none above 64 MiB.
const CONTENT: usize = 16 << 20;

/// What the agent has been told.
struct Told {
    tasks: BTreeMap<String, Arc<v1::Task>>,
    networks: BTreeMap<String, Arc<NetworkState>>,
    /// Secrets and configs by ID. What they hold never changes.
    dependencies: BTreeSet<String>,
    ingress: Option<Arc<v1::IngressView>>,
    /// Whether that was told with the ports that are not open everywhere.
    doors: bool,
    overlay_addr: String,
    /// Number of the last message.
    number: u64,
    /// Until when the stop of a task may be held back.
    held: BTreeMap<String, Instant>,
}

/// Sends until the session or the connection ends.
///
/// Begins once this manager surely knows all that was written: what is not in the first, complete set the agent ends,
/// and a manager that was away or has just started may know less than the one before it.
pub(super) async fn stream(
    node_id: String,
    session: Arc<Session>,
    ctx: Arc<Context>,
    mut worlds: watch::Receiver<Arc<World>>,
    acks: Arc<Acks>,
    tx: mpsc::Sender<Result<v1::AssignmentsMessage, Status>>,
) {
    let caught_up = async {
        let index = ctx.current().await.index;
        worlds.wait_for(|w| w.view.index >= index).await.is_ok()
    };
    tokio::select! {
        known = caught_up => if !known { return },
        () = session.closed.cancelled() => return,
        () = tx.closed() => return,
    }
    let mut acked = acks.changes();
    let mut seen = None;
    let mut told = Told {
        tasks: BTreeMap::new(),
        networks: BTreeMap::new(),
        dependencies: BTreeSet::new(),
        ingress: None,
        doors: false,
        overlay_addr: String::new(),
        number: 0,
        held: BTreeMap::new(),
    };
    loop {
        let world = worlds.borrow_and_update().clone();
        acked.borrow_and_update();
        if world.view.node(&node_id).is_some() {
            let own = world.nodes.get(&node_id).copied().unwrap_or(0);
            let tasks_changed = seen.replace(own) != Some(own) || !told.held.is_empty();
            for message in told.next(&node_id, &world, &acks, tasks_changed) {
                if tx.send(Ok(message)).await.is_err() {
                    return;
                }
            }
        }
        let held_until = told.held.values().min().copied();
        tokio::select! {
            changed = worlds.changed() => if changed.is_err() { return },
            _ = acked.changed(), if held_until.is_some() => {}
            () = tokio::time::sleep_until(held_until.unwrap_or_else(Instant::now)), if held_until.is_some() => {}
            () = session.closed.cancelled() => return,
            () = tx.closed() => return,
        }
    }
}

impl Told {
    /// The messages that bring the agent to `world`; none if it is there.
    fn next(
        &mut self,
        node_id: &str,
        world: &World,
        acks: &Acks,
        tasks_changed: bool,
    ) -> Vec<v1::AssignmentsMessage> {
        let first = self.number == 0;
        let mut changes = Vec::new();
        let mut after = Vec::new();
        self.network_changes(node_id, world, &mut changes, &mut after);
        let doors = knows_doors(node_id, world);
        if self.doors != doors || self.ingress.as_ref().is_none_or(|i| !Arc::ptr_eq(i, &world.ingress)) {
            let mut view = v1::IngressView::clone(&world.ingress);
            view.ports.retain(|p| doors || !is_on_one_address(&p.host_ip));
            changes.push(Op::Ingress(view));
            self.ingress = Some(world.ingress.clone());
            self.doors = doors;
        }
        if tasks_changed {
            let needed = needed(node_id, world);
            for id in &needed {
                if let Some(dependency) = world.view.dependency(id)
                    && self.dependencies.insert((*id).to_owned())
                {
                    changes.push(Op::Dependency(v1::Dependency::clone(dependency)));
                }
            }
            self.task_changes(node_id, world, acks, &mut changes);
            self.dependencies.retain(|id| {
                let keep = needed.contains(id.as_str());
                if !keep {
                    after.push(Op::RemoveDependency(id.clone()));
                }
                keep
            });
        }
        changes.extend(after);
        let overlay_addr = world.view.node(node_id).map(|n| n.overlay_addr.clone()).unwrap_or_default();
        let moved = overlay_addr != self.overlay_addr;
        self.overlay_addr.clone_from(&overlay_addr);
        if changes.is_empty() && !first && !moved {
            return Vec::new();
        }
        let cluster_id = world.view.cluster().map_or("", |c| &c.id);
        let data_path_port = world.view.cluster().map_or(0, |c| c.data_path_port);
        let mut messages = Vec::new();
        let mut changes = changes.into_iter().map(|op| v1::AssignmentChange { op: Some(op) }).peekable();
        loop {
            let applies_to = self.number;
            self.number += 1;
            let (mut batch, mut content) = (Vec::new(), 0);
            while batch.len() < BATCH
                && content < CONTENT
                && let Some(change) = changes.next()
            {
                content += content_of(&change);
                batch.push(change);
            }
            messages.push(v1::AssignmentsMessage {
                complete: applies_to == 0,
                applies_to,
                results_in: self.number,
                changes: batch,
                overlay_addr6: v6::of_node(cluster_id, &overlay_addr),
                overlay_addr: overlay_addr.clone(),
                data_path_port,
            });
            if changes.peek().is_none() {
                return messages;
            }
        }
    }

    fn network_changes(&mut self, node_id: &str, world: &World, changes: &mut Vec<Op>, after: &mut Vec<Op>) {
        let mut wanted: BTreeSet<&str> = BTreeSet::new();
        for (id, state) in &world.networks {
            if state.nodes.contains(node_id) {
                wanted.insert(id);
                if self.networks.get(id).is_none_or(|n| !Arc::ptr_eq(n, state)) {
                    let mut view = state.view.clone();
                    view.peers.retain(|p| p.node_id != node_id);
                    changes.push(Op::Network(view));
                    self.networks.insert(id.clone(), state.clone());
                }
            }
        }
        self.networks.retain(|id, _| {
            let keep = wanted.contains(id.as_str());
            if !keep {
                after.push(Op::RemoveNetwork(id.clone()));
            }
            keep
        });
    }

    fn task_changes(&mut self, node_id: &str, world: &World, acks: &Acks, changes: &mut Vec<Op>) {
        let mut present = BTreeSet::new();
        let mut staying = Staying::new();
        for task in world.view.tasks_of_node(node_id).filter(|t| is_assigned(t)) {
            present.insert(task.id.as_str());
            let told = self.tasks.get(&task.id);
            if told.is_some_and(|t| same_for_agent(t, task)) {
                continue;
            }
            if told.is_some_and(|t| wanted(t)) && !wanted(task) && !self.may_stop(world, acks, task) {
                continue;
            }
            self.held.remove(&task.id);
            changes.push(Op::Task(assignment(world, task, &mut staying)));
            self.tasks.insert(task.id.clone(), task.clone());
        }
        self.held.retain(|id, _| present.contains(id.as_str()));
        self.tasks.retain(|id, _| {
            let keep = present.contains(id.as_str());
            if !keep {
                changes.push(Op::RemoveTask(id.clone()));
            }
            keep
        });
    }

    /// Whether no node sends the task new connections any more, or it was waited for long enough.
    fn may_stop(&mut self, world: &World, acks: &Acks, task: &v1::Task) -> bool {
        let Some(since) = world.drained.get(&task.id).filter(|_| is_live(task)) else { return true };
        let deadline = *self.held.entry(task.id.clone()).or_insert_with(|| Instant::now() + DRAIN_BOUND);
        if Instant::now() >= deadline {
            tracing::info!(task = %task.id, "stopping a task although not every node has acknowledged its leaving the load balancer");
            return true;
        }
        let up = |id: &&String| world.view.node(id).is_some_and(|n| n.state() == NodeState::Ready);
        task.addresses.iter().all(|address| {
            let Some(state) = world.networks.get(&address.network_id) else { return true };
            let ack = if address.network_id == world.ingress_id { "" } else { &address.network_id };
            if ack.is_empty() && world.ingress.ports.is_empty() {
                return true;
            }
            state.nodes.iter().filter(up).all(|node| acks.reached(node, ack, *since))
        })
    }
}

/// Whether the node opens a port on one address there alone: one of an older version would open it everywhere.
fn knows_doors(node_id: &str, world: &World) -> bool {
    let description = world.view.node(node_id).and_then(|n| n.description.as_ref());
    description.is_some_and(|d| Feature::HostIp.is_known_to(d))
}

/// Secrets and configs of the node's tasks that are not over yet.
fn needed<'a>(node_id: &str, world: &'a World) -> BTreeSet<&'a str> {
    let over = i32::from(TaskState::Running);
    let tasks = world.view.tasks_of_node(node_id).filter(|t| is_assigned(t));
    let tasks = tasks.filter(|t| t.status.as_ref().is_none_or(|s| s.state <= over));
    let containers = tasks.filter_map(|t| world.view.task_spec(t)?.container.as_ref());
    containers.flat_map(|c| c.files.iter().map(|f| f.id.as_str())).collect()
}

fn content_of(change: &v1::AssignmentChange) -> usize {
    match &change.op {
        Some(Op::Dependency(d)) => {
            d.spec.as_ref().and_then(|s| s.content.as_ref()).map_or(0, |c| c.data.len())
        }
        _ => 0,
    }
}

fn is_assigned(task: &v1::Task) -> bool {
    task.status.as_ref().is_some_and(|s| s.state >= TaskState::Assigned.into())
}

/// The agent knows its own statuses; the rest is the manager's to tell.
fn same_for_agent(a: &v1::Task, b: &v1::Task) -> bool {
    let told = |t: &v1::Task| (t.desired_state, t.revision, t.start_not_before_ms);
    told(a) == told(b) && a.addresses == b.addresses && a.ports == b.ports && a.attachment == b.attachment
}

/// Whether services have tasks that take what is new, each looked up once: many of one may stop together.
type Staying<'a> = BTreeMap<&'a str, bool>;

fn assignment<'a>(world: &World, task: &'a Arc<v1::Task>, staying: &mut Staying<'a>) -> v1::TaskAssignment {
    let service = world.view.service(&task.service_id);
    let node = world.view.node(&task.node_id);
    let annotations = service.and_then(|s| s.spec.as_ref()).and_then(|s| s.annotations.as_ref());
    v1::TaskAssignment {
        task: Some(v1::Task::clone(task)),
        spec: world.view.task_spec(task).cloned(),
        service_name: service.map(|s| service_name(s).to_owned()).unwrap_or_default(),
        service_labels: annotations.map(|a| a.labels.clone()).unwrap_or_default(),
        node_hostname: node
            .and_then(|n| n.description.as_ref())
            .map(|d| d.hostname.clone())
            .unwrap_or_default(),
        drain_ns: drain_ns(world, task, staying),
    }
}

/// How long the task goes on with what it has. Without a word from the user only as long as others take what is new:
/// a service of one task would be away for longer. With the service everything goes at once.
fn drain_ns<'a>(world: &World, task: &'a v1::Task, staying: &mut Staying<'a>) -> i64 {
    let Some(service) = world.view.service(&task.service_id).filter(|s| !s.removing) else { return 0 };
    if wanted(task) || !is_live(task) || task.addresses.is_empty() {
        return 0;
    }
    let asked = service.spec.as_ref().and_then(|s| s.drain_ns);
    asked.unwrap_or_else(|| {
        let others = || world.view.tasks_of_service(&task.service_id).any(|t| is_backend(t));
        if *staying.entry(&task.service_id).or_insert_with(others) {
            defaults::DRAIN.as_nanos() as i64
        } else {
            0
        }
    })
}
