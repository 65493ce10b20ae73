//! What the nodes carry: derived from the tasks, either all at once or one change at a time.

use std::collections::HashMap;
use std::sync::Arc;

use skep_proto::v1;
use v1::TaskState;

use super::generic::Held;
use crate::orchestrator::task;
use crate::store::{Diff, Key, StoreView};

/// Failures of one service on one node after which others are preferred.
pub const FAILURES: usize = 3;
/// How long a failure counts against a node.
pub const FAILURE_MEMORY_MS: i64 = 5 * 60 * 1000;

/// The load of every node.
#[derive(Clone, Debug, Default)]
pub struct Load {
    pub(super) nodes: Vec<NodeLoad>,
    index: HashMap<Key, usize>,
}

/// The load of one node.
#[derive(Clone, Debug)]
pub struct NodeLoad {
    /// The node.
    pub node: Arc<v1::Node>,
    /// Tasks that are to run on it.
    pub tasks: u32,
    pub(super) services: HashMap<Key, ServiceLoad>,
    pub(super) nano_cpus: i64,
    pub(super) memory_bytes: i64,
    pub(super) generic: Held,
    /// What the node has in all.
    capacity: v1::Resources,
    host_ports: HashMap<(i32, u32), u32>,
}

/// What one service has on one node.
#[derive(Clone, Debug, Default)]
pub(super) struct ServiceLoad {
    /// Tasks that are to run.
    pub tasks: u32,
    /// Revision and time of recent failures.
    failures: Vec<(u64, i64)>,
}

impl ServiceLoad {
    /// Recent failures of a revision, if there are enough to matter.
    pub fn failures(&self, revision: u64, now_ms: i64) -> u32 {
        let recent = |(r, at): &&(u64, i64)| *r == revision && *at > now_ms - FAILURE_MEMORY_MS;
        let n = self.failures.iter().filter(recent).count();
        if n >= FAILURES { n as u32 } else { 0 }
    }
}

impl Load {
    /// The load the tasks of the view make.
    pub fn of(view: &StoreView) -> Self {
        let mut load = Load::default();
        for node in view.nodes() {
            load.put_node(node);
        }
        for load in &mut load.nodes {
            let node = load.node.clone();
            view.tasks_of_node(&node.id).for_each(|t| load.count(view, t, 1));
        }
        load
    }

    /// Follows a change of a node.
    pub fn follow_node(&mut self, view: &StoreView, diff: &Diff<v1::Node>) {
        match (&diff.before, &diff.after) {
            (None, Some(node)) => {
                self.put_node(node);
                for t in view.tasks_of_node(&node.id) {
                    self.count(view, t, 1);
                }
            }
            (Some(_), Some(node)) => self.put_node(node),
            (_, None) => {
                let id = &diff.latest().id;
                if let Some(i) = self.index.remove(id.as_bytes()) {
                    self.nodes.swap_remove(i);
                    if let Some(moved) = self.nodes.get(i) {
                        self.index.insert(Key::from(moved.node.id.as_str()), i);
                    }
                }
            }
        }
    }

    /// Follows a change of a task. `view` still has to hold the task's revision.
    pub fn follow_task(&mut self, view: &StoreView, diff: &Diff<v1::Task>) {
        if let Some(before) = &diff.before {
            self.count(view, before, -1);
        }
        if let Some(after) = &diff.after {
            self.count(view, after, 1);
        }
    }

    pub(super) fn position(&self, node_id: &str) -> Option<usize> {
        self.index.get(node_id.as_bytes()).copied()
    }

    fn put_node(&mut self, node: &Arc<v1::Node>) {
        match self.index.get(node.id.as_bytes()) {
            Some(i) => self.nodes[*i].describe(node.clone()),
            None => {
                self.index.insert(Key::from(node.id.as_str()), self.nodes.len());
                self.nodes.push(NodeLoad::new(node.clone()));
            }
        }
    }

    /// Adds a task's share (`sign` 1) or takes it away (-1).
    fn count(&mut self, view: &StoreView, t: &v1::Task, sign: i32) {
        if let Some(load) = self.position(&t.node_id).and_then(|i| self.nodes.get_mut(i)) {
            load.count(view, t, sign);
        }
    }
}

impl NodeLoad {
    fn new(node: Arc<v1::Node>) -> Self {
        Self {
            capacity: capacity(&node),
            node,
            tasks: 0,
            services: HashMap::new(),
            nano_cpus: 0,
            memory_bytes: 0,
            generic: Held::default(),
            host_ports: HashMap::new(),
        }
    }

    fn describe(&mut self, node: Arc<v1::Node>) {
        self.capacity = capacity(&node);
        self.node = node;
    }

    fn count(&mut self, view: &StoreView, t: &v1::Task, sign: i32) {
        // A node's own containers are not the scheduler's to weigh.
        if task::state(t) < TaskState::Assigned || t.attachment.is_some() {
            return;
        }
        let key = t.service_id.as_bytes();
        if task::finished(t) {
            if matches!(task::state(t), TaskState::Failed | TaskState::Rejected) {
                self.failed(key, (t.revision, task::since_ms(t)), sign);
            }
            return;
        }
        if task::wanted(t) {
            self.add_tasks(key, sign);
        }
        let reserved = view.task_spec(t).and_then(|s| s.reservations).unwrap_or_default();
        self.occupy(&reserved, &t.ports, sign);
        self.generic.count(&t.generic, sign);
    }

    /// Adds `n` tasks of a service that are to run; takes them away if negative.
    pub(super) fn add_tasks(&mut self, service: &[u8], n: i32) {
        self.tasks = self.tasks.saturating_add_signed(n);
        let entry = match self.services.get_mut(service) {
            Some(s) => s,
            None => self.services.entry(key_of(service)).or_default(),
        };
        entry.tasks = entry.tasks.saturating_add_signed(n);
    }

    /// Takes what one task occupies, wanted or not (`sign` 1), or gives it back (-1).
    pub(super) fn occupy(&mut self, r: &v1::Resources, ports: &[v1::PortConfig], sign: i32) {
        self.nano_cpus += i64::from(sign) * r.nano_cpus;
        self.memory_bytes += i64::from(sign) * r.memory_bytes;
        for p in host_ports(ports) {
            let held = self.host_ports.entry((p.protocol, p.published_port)).or_default();
            *held = held.saturating_add_signed(sign);
            if *held == 0 {
                self.host_ports.remove(&(p.protocol, p.published_port));
            }
        }
    }

    fn failed(&mut self, service: &[u8], failure: (u64, i64), sign: i32) {
        let entry = self.services.entry(key_of(service)).or_default();
        if sign > 0 {
            entry.failures.push(failure);
        } else if let Some(i) = entry.failures.iter().position(|f| *f == failure) {
            entry.failures.swap_remove(i);
        }
    }

    pub(super) fn service_tasks(&self, service: &[u8]) -> u32 {
        self.services.get(service).map_or(0, |s| s.tasks)
    }

    pub(super) fn holds_port(&self, port: &v1::PortConfig) -> bool {
        self.host_ports.contains_key(&(port.protocol, port.published_port))
    }

    /// CPU and memory not reserved yet.
    pub(super) fn free(&self) -> (i64, i64) {
        (self.capacity.nano_cpus - self.nano_cpus, self.capacity.memory_bytes - self.memory_bytes)
    }
}

fn capacity(node: &v1::Node) -> v1::Resources {
    node.description.as_ref().and_then(|d| d.resources).unwrap_or_default()
}

/// Ports that exclude each other on a node.
pub(super) fn host_ports(ports: &[v1::PortConfig]) -> impl Iterator<Item = &v1::PortConfig> {
    ports.iter().filter(|p| p.mode() == v1::PublishMode::Host && p.published_port != 0)
}

fn key_of(bytes: &[u8]) -> Key {
    Key::from(std::str::from_utf8(bytes).expect("the bytes of an identifier, which is a str"))
}
