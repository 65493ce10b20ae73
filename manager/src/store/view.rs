//! One consistent state of the cluster: maps of shared objects with indexes over them. A clone costs a
//! few reference counts, so every reader keeps the view it started with.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use skep_proto::v1;

use super::key::Key;
use super::tasks::Tasks;

/// The replicated objects at one point of the log.
#[derive(Clone, Default)]
pub struct StoreView {
    /// Raft index of the last batch applied.
    pub index: u64,
    /// Time the proposer gave that batch, in milliseconds since the epoch.
    pub at_ms: i64,
    pub(super) cluster: Option<Arc<v1::Cluster>>,
    pub(super) nodes: OrdMap<Key, Arc<v1::Node>>,
    pub(super) services: OrdMap<Key, Arc<v1::Service>>,
    pub(super) revisions: OrdMap<(Key, u64), Arc<v1::Revision>>,
    pub(super) tasks: Tasks,
    pub(super) networks: OrdMap<Key, Arc<v1::Network>>,
    pub(super) dependencies: OrdMap<Key, Arc<v1::Dependency>>,
    pub(super) homes: OrdMap<Key, Arc<v1::Homes>>,
    pub(super) names: Names,
}

/// Names of the objects that users call by name.
#[derive(Clone, Default)]
pub(super) struct Names {
    pub nodes: OrdMap<String, OrdSet<Key>>,
    pub services: OrdMap<String, OrdSet<Key>>,
    pub networks: OrdMap<String, OrdSet<Key>>,
    pub secrets: OrdMap<String, OrdSet<Key>>,
    pub configs: OrdMap<String, OrdSet<Key>>,
}

impl Names {
    /// Names of secrets or configs; the two do not stand in each other's way.
    pub fn dependencies(&self, kind: v1::DependencyKind) -> &OrdMap<String, OrdSet<Key>> {
        match kind {
            v1::DependencyKind::Secret => &self.secrets,
            v1::DependencyKind::Config => &self.configs,
        }
    }

    pub fn dependencies_mut(&mut self, kind: v1::DependencyKind) -> &mut OrdMap<String, OrdSet<Key>> {
        match kind {
            v1::DependencyKind::Secret => &mut self.secrets,
            v1::DependencyKind::Config => &mut self.configs,
        }
    }
}

impl StoreView {
    /// The cluster object; none before `swarm init` is applied.
    pub fn cluster(&self) -> Option<&Arc<v1::Cluster>> {
        self.cluster.as_ref()
    }

    /// The node with this full identifier.
    pub fn node(&self, id: &str) -> Option<&Arc<v1::Node>> {
        self.nodes.get(id.as_bytes())
    }
    /// All nodes by identifier.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &Arc<v1::Node>> {
        self.nodes.values()
    }

    /// The service with this full identifier.
    pub fn service(&self, id: &str) -> Option<&Arc<v1::Service>> {
        self.services.get(id.as_bytes())
    }
    /// The service with this name. While one is being removed, another may have its name already, and is meant.
    pub fn service_by_name(&self, name: &str) -> Option<&Arc<v1::Service>> {
        let ids = self.names.services.get(name)?.iter();
        ids.filter_map(|id| self.services.get(id)).min_by_key(|s| s.removing)
    }
    /// All services by identifier.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &Arc<v1::Service>> {
        self.services.values()
    }

    /// One revision of a service.
    pub fn revision(&self, service_id: &str, number: u64) -> Option<&Arc<v1::Revision>> {
        self.revisions.get(&(Key::from(service_id), number))
    }
    /// The task spec a task was made from.
    pub fn task_spec(&self, task: &v1::Task) -> Option<&v1::TaskSpec> {
        self.revision(&task.service_id, task.revision).and_then(|r| r.spec.as_ref())
    }
    /// The task spec of a service's present revision.
    pub fn present_spec(&self, service: &v1::Service) -> Option<&v1::TaskSpec> {
        self.revision(&service.id, service.revision).and_then(|r| r.spec.as_ref())
    }
    /// The revisions of a service, oldest first.
    pub fn revisions_of(&self, service_id: &str) -> impl Iterator<Item = &Arc<v1::Revision>> {
        let id = Key::from(service_id);
        self.revisions.range((id.clone(), 0)..=(id, u64::MAX)).map(|(_, r)| r)
    }

    /// The task with this full identifier.
    pub fn task(&self, id: &str) -> Option<&Arc<v1::Task>> {
        self.tasks.get(id)
    }
    /// All tasks by identifier.
    pub fn tasks(&self) -> impl ExactSizeIterator<Item = &Arc<v1::Task>> {
        self.tasks.by_id()
    }
    /// All tasks in no particular order: much quicker than by identifier where there are many.
    pub fn tasks_in_any_order(&self) -> impl Iterator<Item = &Arc<v1::Task>> {
        self.tasks.in_any_order()
    }
    /// The tasks of a service by slot, finished ones included.
    pub fn tasks_of_service(&self, service_id: &str) -> impl Iterator<Item = &Arc<v1::Task>> {
        self.tasks.of_service(service_id)
    }
    /// The tasks of no service: containers outside services that have a place in a network.
    pub fn attachments(&self) -> impl Iterator<Item = &Arc<v1::Task>> {
        self.tasks.of_service("")
    }
    /// The tasks of one slot of a service, finished ones included.
    pub fn tasks_of_slot(&self, service_id: &str, slot: u64) -> impl Iterator<Item = &Arc<v1::Task>> {
        self.tasks.of_slot(service_id, slot)
    }
    /// The tasks assigned to a node, finished ones included, in no particular order.
    pub fn tasks_of_node(&self, node_id: &str) -> impl ExactSizeIterator<Item = &Arc<v1::Task>> {
        self.tasks.of_node(node_id)
    }
    /// The tasks that wait for a node, by service and slot.
    pub fn waiting(&self) -> impl Iterator<Item = (&Key, impl ExactSizeIterator<Item = &Arc<v1::Task>>)> {
        self.tasks.waiting()
    }
    /// How many task objects name this node.
    pub fn node_task_count(&self, node_id: &str) -> usize {
        self.tasks.of_node(node_id).len()
    }

    /// The network with this full identifier.
    pub fn network(&self, id: &str) -> Option<&Arc<v1::Network>> {
        self.networks.get(id.as_bytes())
    }
    /// The network with this name.
    pub fn network_by_name(&self, name: &str) -> Option<&Arc<v1::Network>> {
        first(&self.names.networks, name).and_then(|k| self.networks.get(k))
    }
    /// The network published ports go through, if the cluster has one.
    pub fn ingress_network(&self) -> Option<&Arc<v1::Network>> {
        self.networks.values().find(|n| n.spec.as_ref().is_some_and(|s| s.ingress))
    }
    /// All networks by identifier.
    pub fn networks(&self) -> impl ExactSizeIterator<Item = &Arc<v1::Network>> {
        self.networks.values()
    }

    /// The secret or config with this full identifier.
    pub fn dependency(&self, id: &str) -> Option<&Arc<v1::Dependency>> {
        self.dependencies.get(id.as_bytes())
    }
    /// The secret or config with this name.
    pub fn dependency_by_name(&self, kind: v1::DependencyKind, name: &str) -> Option<&Arc<v1::Dependency>> {
        first(self.names.dependencies(kind), name).and_then(|k| self.dependencies.get(k))
    }
    /// All secrets or configs by identifier.
    pub fn dependencies(&self, kind: v1::DependencyKind) -> impl Iterator<Item = &Arc<v1::Dependency>> {
        self.dependencies.values().filter(move |d| d.kind() == kind)
    }

    /// Where the data of a service's slots lies.
    pub fn homes(&self, service_id: &str) -> Option<&Arc<v1::Homes>> {
        self.homes.get(service_id.as_bytes())
    }

    /// Every object, for a raft snapshot.
    pub fn snapshot(&self) -> v1::Snapshot {
        use v1::object::Kind;
        let kinds = (self.cluster.iter().map(|o| Kind::Cluster(v1::Cluster::clone(o))))
            .chain(self.nodes.values().map(|o| Kind::Node(Box::new(v1::Node::clone(o)))))
            .chain(self.networks.values().map(|o| Kind::Network(v1::Network::clone(o))))
            .chain(self.dependencies.values().map(|o| Kind::Dependency(v1::Dependency::clone(o))))
            .chain(self.services.values().map(|o| Kind::Service(Box::new(v1::Service::clone(o)))))
            .chain(self.revisions.values().map(|o| Kind::Revision(Box::new(v1::Revision::clone(o)))))
            .chain(self.homes.values().map(|o| Kind::Homes(v1::Homes::clone(o))))
            .chain(self.tasks().map(|o| Kind::Task(v1::Task::clone(o))));
        v1::Snapshot {
            objects: kinds.map(|k| v1::Object { kind: Some(k) }).collect(),
            index: self.index,
            at_ms: self.at_ms,
        }
    }
}

fn first<'a>(names: &'a OrdMap<String, OrdSet<Key>>, name: &str) -> Option<&'a Key> {
    names.get(name).and_then(|ids| ids.get_min())
}
