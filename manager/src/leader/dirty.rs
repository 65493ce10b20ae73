//! What may need another look: parts of the state that changed, and times at which something falls due.

use std::collections::{BTreeMap, BTreeSet};

use skep_proto::v1::{self, service_spec::Mode};

use crate::orchestrator::task;
use crate::prerequisites;
use crate::reaper::ATTACHMENTS;
use crate::rebalancer;
use crate::store::{Diff, Event, StoreView};

/// Work for the leader's logic.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dirty {
    /// Something may want an address, a port or a subnet.
    pub allocate: bool,
    /// A waiting task may fit now.
    pub schedule: bool,
    /// Services to reconcile.
    pub services: BTreeSet<String>,
    /// Services to reconcile later, and when.
    pub wakes: BTreeMap<String, i64>,
}

impl Dirty {
    /// Everything: what a new leader begins with.
    pub fn all(view: &StoreView) -> Self {
        let services = view.services().map(|s| s.id.clone());
        let services = services.chain([ATTACHMENTS.to_owned()]).collect();
        Self { allocate: true, schedule: true, services, wakes: BTreeMap::new() }
    }

    /// Whether there is work now.
    pub fn any(&self) -> bool {
        self.allocate || self.schedule || !self.services.is_empty()
    }

    /// Takes the work there is now; later times stay.
    pub fn take(&mut self) -> Self {
        let wakes = std::mem::take(&mut self.wakes);
        std::mem::replace(self, Self { wakes, ..Self::default() })
    }

    /// Takes the least of the work there is now that can be done by itself.
    pub fn piece(&mut self) -> Self {
        let mut piece = Self { allocate: std::mem::take(&mut self.allocate), ..Self::default() };
        if !piece.allocate {
            piece.services.extend(self.services.pop_first());
        }
        if !piece.allocate && piece.services.is_empty() {
            piece.schedule = std::mem::take(&mut self.schedule);
        }
        piece
    }

    /// Adds other work to this.
    pub fn merge(&mut self, other: Self) {
        self.allocate |= other.allocate;
        self.schedule |= other.schedule;
        self.services.extend(other.services);
        for (service, at) in other.wakes {
            self.wake(service, at);
        }
    }

    /// Asks for a pass over the service at `at_ms`.
    pub fn wake(&mut self, service: String, at_ms: i64) {
        let at = self.wakes.entry(service).or_insert(at_ms);
        *at = (*at).min(at_ms);
    }

    /// When the next service falls due.
    pub fn next_wake(&self) -> Option<i64> {
        self.wakes.values().min().copied()
    }

    /// Makes what has fallen due work.
    pub fn due(&mut self, now_ms: i64) {
        let services = &mut self.services;
        self.wakes.retain(|service, at| {
            let later = *at > now_ms;
            if !later {
                services.insert(service.clone());
            }
            later
        });
    }

    /// Notes what an event may need.
    pub fn event(&mut self, view: &StoreView, event: &Event) {
        match event {
            Event::Task(diff) => self.task(diff),
            Event::Node(diff) => self.node(view, diff),
            Event::Service(diff) => {
                self.services.insert(diff.latest().id.clone());
                if diff.created() || diff.removed() {
                    self.services.extend(prerequisites::all(view).map(str::to_owned));
                }
                self.allocate = true;
                self.schedule = true;
            }
            Event::Revision(diff) => {
                self.services.insert(diff.latest().service_id.clone());
            }
            Event::Network(_) => {
                self.allocate = true;
                self.schedule = true;
            }
            // A task that waits for one waits on its node.
            Event::Dependency(_) => {}
            Event::Homes(diff) => {
                self.services.insert(diff.latest().service_id.clone());
            }
            Event::Cluster(_) => {
                self.allocate = true;
                self.services.extend(view.services().map(|s| s.id.clone()));
            }
        }
    }

    fn task(&mut self, diff: &Diff<v1::Task>) {
        let standing = |t: &v1::Task| {
            let state = task::state(t);
            (
                t.desired_state,
                task::finished(t),
                state >= v1::TaskState::Starting,
                state == v1::TaskState::Running,
            )
        };
        let (before, after) = (diff.before.as_deref(), diff.after.as_deref());
        if before.map(standing) != after.map(standing) {
            self.services.insert(diff.latest().service_id.clone());
        }
        let occupies = |t: &v1::Task| task::state(t) >= v1::TaskState::Assigned && !task::finished(t);
        let freed = before.is_some_and(occupies) && !after.is_some_and(occupies);
        let waits = after.is_some_and(task::waiting) && !before.is_some_and(task::waiting);
        self.schedule |= freed || waits;
    }

    fn node(&mut self, view: &StoreView, diff: &Diff<v1::Node>) {
        self.schedule = true;
        self.allocate |= diff.after.as_ref().is_some_and(|n| n.overlay_addr.is_empty());
        // With all that constraints may ask for.
        let standing = |n: &v1::Node| {
            let d = n.description.as_ref();
            let said = d.map(|d| (d.hostname.clone(), d.platform.clone(), d.engine_labels.clone()));
            (n.state, n.spec.clone(), n.addr.clone(), said)
        };
        if diff.before.as_deref().map(standing) == diff.after.as_deref().map(standing) {
            return;
        }
        self.services.extend(view.tasks_of_node(&diff.latest().id).map(|t| t.service_id.clone()));
        let global = |s: &v1::Service| {
            let mode = s.spec.as_ref().and_then(|s| s.mode.as_ref());
            matches!(mode, Some(Mode::Global(_) | Mode::GlobalJob(_)))
        };
        let concerned = |s: &&std::sync::Arc<v1::Service>| global(s) || rebalancer::concerns(s);
        self.services.extend(view.services().filter(concerned).map(|s| s.id.clone()));
    }
}
