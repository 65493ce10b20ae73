//! The data plane's view of the cluster, computed once per manager and shared by all assignment streams:
//! every network with its nodes, address blocks and service backends, and the published ports. Changes
//! are gathered for a moment and only what they touch is computed again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use skep_proto::v1::{self, TaskState};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::network::{self, NetworkState};
use crate::store::{Event, Store, StoreView, Update};

/// How long changes gather before they are computed.
const GATHER: Duration = Duration::from_millis(20);
/// Computing takes at most one part in this of the time.
const DUTY: u32 = 4;
/// Drains remembered, for streams that have not seen them yet.
const DRAINS: usize = 20_000;

/// One published state.
#[derive(Clone, Default)]
pub(super) struct World {
    pub view: Arc<StoreView>,
    pub networks: HashMap<String, Arc<NetworkState>>,
    pub ingress_id: String,
    pub ingress: Arc<v1::IngressView>,
    /// When anything of a node's own tasks (or of the node) last changed.
    pub nodes: imbl::HashMap<String, u64>,
    /// Since which index a task is out of the load balancer, of those that were in it.
    pub drained: imbl::HashMap<String, u64>,
}

/// A live task with addresses, as the networks see it.
type Member = Arc<v1::Task>;

/// What computing goes by.
#[derive(Default)]
struct Builder {
    world: World,
    members: HashMap<String, BTreeMap<String, Member>>,
    dirty: BTreeSet<String>,
    all_dirty: bool,
}

/// Follows the store until `stop`.
pub(super) fn start(store: Store, stop: CancellationToken) -> watch::Receiver<Arc<World>> {
    let (view, mut updates) = store.subscribe();
    let mut builder = Builder::default();
    builder.resync(view);
    builder.compute();
    let (tx, rx) = watch::channel(Arc::new(builder.world.clone()));
    let follow = async move {
        while let Some(update) = updates.next().await {
            builder.take(update);
            tokio::time::sleep(GATHER).await;
            while let Some(update) = updates.try_next() {
                builder.take(update);
            }
            let began = Instant::now();
            builder.compute();
            tx.send_replace(Arc::new(builder.world.clone()));
            tokio::time::sleep(began.elapsed() * (DUTY - 1)).await;
        }
    };
    tokio::spawn(async move { stop.run_until_cancelled(follow).await });
    rx
}

/// Whether a task's container may exist, so that its addresses are in use.
pub(super) fn is_live(task: &v1::Task) -> bool {
    let state = task.status.as_ref().map_or(0, |s| s.state);
    !task.node_id.is_empty() && state >= TaskState::Assigned.into() && state <= TaskState::Running.into()
}

/// Whether a task may receive new connections.
pub(super) fn is_backend(task: &v1::Task) -> bool {
    [TaskState::Running, TaskState::Complete].contains(&task.desired_state())
        && task.status.as_ref().is_some_and(|s| s.state() == TaskState::Running)
}

impl Builder {
    fn take(&mut self, update: Update) {
        match update {
            Update::Resync(view) => self.resync(view),
            Update::Commit(commit) => {
                for event in commit.events.iter() {
                    self.note(event, commit.view.index);
                }
                self.world.view = commit.view;
            }
        }
    }

    fn resync(&mut self, view: Arc<StoreView>) {
        self.members.clear();
        for task in view.tasks().filter(|t| is_live(t)) {
            self.add(task);
        }
        self.world.nodes = view.nodes().map(|n| (n.id.clone(), view.index)).collect();
        self.all_dirty = true;
        self.world.view = view;
    }

    fn add(&mut self, task: &Arc<v1::Task>) {
        for address in &task.addresses {
            self.members.entry(address.network_id.clone()).or_default().insert(task.id.clone(), task.clone());
        }
    }

    fn note(&mut self, event: &Event, index: u64) {
        match event {
            Event::Task(diff) => self.note_task(diff.before.as_ref(), diff.after.as_ref(), index),
            Event::Node(diff) => {
                let node = diff.latest();
                self.world.nodes.insert(node.id.clone(), index);
                if diff.removed() {
                    self.world.nodes.remove(&node.id);
                }
                let plane =
                    |n: &Arc<v1::Node>| network::peer(n, 0).map(|p| (p, n.state() == v1::NodeState::Down));
                if diff.before.as_ref().map(plane) != diff.after.as_ref().map(plane) {
                    let has = |tasks: &BTreeMap<String, Member>| tasks.values().any(|t| t.node_id == node.id);
                    let networks =
                        self.members.iter().filter(|(_, tasks)| has(tasks)).map(|(id, _)| id.clone());
                    self.dirty.extend(networks);
                    self.dirty.insert(self.world.ingress_id.clone());
                }
            }
            Event::Service(diff) => {
                for service in diff.before.iter().chain(&diff.after) {
                    let task = service.spec.as_ref().and_then(|s| s.task.as_ref());
                    self.dirty.extend(task.iter().flat_map(|t| &t.networks).map(|n| n.network.clone()));
                    let endpoint = service.endpoint.iter();
                    self.dirty.extend(endpoint.flat_map(|e| &e.virtual_ips).map(|v| v.network_id.clone()));
                    self.dirty.insert(self.world.ingress_id.clone());
                }
            }
            Event::Network(diff) => {
                self.dirty.insert(diff.latest().id.clone());
                if diff.latest().spec.as_ref().is_some_and(|s| s.ingress) {
                    self.all_dirty = true;
                }
            }
            Event::Cluster(_) => self.all_dirty = true,
            Event::Revision(_) | Event::Dependency(_) | Event::Homes(_) => {}
        }
    }

    fn note_task(&mut self, before: Option<&Arc<v1::Task>>, after: Option<&Arc<v1::Task>>, index: u64) {
        for task in before.iter().chain(&after).filter(|t| !t.node_id.is_empty()) {
            self.world.nodes.insert(task.node_id.clone(), index);
        }
        let live = |t: Option<&Arc<v1::Task>>| t.filter(|t| is_live(t)).cloned();
        let plane =
            |t: &v1::Task| (t.node_id.clone(), t.addresses.clone(), is_backend(t), t.attachment.clone());
        let (old, new) = (live(before), live(after));
        if old.as_deref().map(plane) != new.as_deref().map(plane) {
            let addresses = old.iter().chain(&new).flat_map(|t| &t.addresses);
            self.dirty.extend(addresses.map(|a| a.network_id.clone()));
        }
        if let Some(old) = &old {
            for address in &old.addresses {
                if let Some(tasks) = self.members.get_mut(&address.network_id) {
                    tasks.remove(&old.id);
                }
            }
        }
        if let Some(new) = &new {
            self.add(new);
        }
        match (&old, &new) {
            (Some(old), Some(new)) if is_backend(old) && !is_backend(new) => {
                if self.world.drained.len() >= DRAINS {
                    self.world.drained.clear();
                }
                self.world.drained.insert(new.id.clone(), index);
            }
            (Some(old), None) => drop(self.world.drained.remove(&old.id)),
            _ => {}
        }
    }

    fn compute(&mut self) {
        let view = self.world.view.clone();
        self.world.ingress_id = view.ingress_network().map(|n| n.id.clone()).unwrap_or_default();
        let mut dirty = std::mem::take(&mut self.dirty);
        if std::mem::take(&mut self.all_dirty) {
            dirty.extend(view.networks().map(|n| n.id.clone()));
            dirty.extend(self.world.networks.keys().cloned());
        }
        let none = BTreeMap::new();
        if dirty.contains(&self.world.ingress_id) {
            let tasks = self.members.get(&self.world.ingress_id).unwrap_or(&none);
            let ports = network::published(&view, &self.world.ingress_id, tasks);
            if ports != self.world.ingress.ports || self.world.ingress.version == 0 {
                self.world.ingress = Arc::new(v1::IngressView { version: view.index, ports });
            }
        }
        for id in dirty {
            let Some(network) = view.network(&id) else {
                self.world.networks.remove(&id);
                continue;
            };
            let everyone = id == self.world.ingress_id && !self.world.ingress.ports.is_empty();
            let tasks = self.members.get(&id).unwrap_or(&none);
            let mut state = network::compute(&view, network, tasks, everyone);
            let old = self.world.networks.get(&id);
            state.view.version = old.map_or(view.index, |o| o.view.version);
            if old.is_none_or(|o| **o != state) {
                state.view.version = view.index;
                self.world.networks.insert(id, Arc::new(state));
            }
        }
    }
}
