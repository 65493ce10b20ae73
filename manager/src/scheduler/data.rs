//! Data of a slot as the scheduler sees it: which node a task goes back to, and what it says while it waits for that.

use std::collections::BTreeMap;

use skep_proto::v1::{self, DataPlacement, TaskState};

use crate::homes;
use crate::orchestrator::task;
use crate::store::StoreView;

/// Where the data of a group's tasks lies.
pub(super) struct Data<'a> {
    view: &'a StoreView,
    policy: DataPlacement,
    volumes: Vec<String>,
    homes: BTreeMap<u64, &'a v1::Home>,
}

/// Whether the data can be given to another task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Free,
    /// An earlier task of the slot may be writing yet: its node was given up, and is back.
    InUse,
}

impl<'a> Data<'a> {
    pub fn of(view: &'a StoreView, service: &v1::Service, spec: &v1::TaskSpec) -> Self {
        let (policy, volumes) = (homes::policy(service), homes::volumes(spec));
        let homes = if volumes.is_empty() || policy == DataPlacement::Ignore {
            BTreeMap::new()
        } else {
            homes::of(view, &service.id, &volumes)
        };
        Self { view, policy, volumes, homes }
    }

    /// The home of the task's slot, if it has one.
    pub fn home(&self, t: &v1::Task) -> Option<(&'a v1::Home, Standing)> {
        let home = *self.homes.get(&t.slot)?;
        // One that is held at Ready waits for its predecessor by itself.
        let starts = t.desired_state() > TaskState::Ready;
        let writes =
            |o: &v1::Task| o.node_id == home.node_id && !task::wanted(o) && task::may_run(self.view, o);
        let in_use = starts && self.view.tasks_of_slot(&t.service_id, t.slot).any(|o| writes(o));
        Some((home, if in_use { Standing::InUse } else { Standing::Free }))
    }

    /// Whether a task goes elsewhere where its data cannot be had.
    pub fn may_move(&self) -> bool {
        self.policy == DataPlacement::Prefer
    }

    /// "its data (volume db) is on node n1"
    fn place(&self, home: &v1::Home) -> String {
        let node = self.view.node(&home.node_id).and_then(|n| n.description.as_ref());
        let name = node.map_or(home.node_id.as_str(), |d| &d.hostname);
        let held: Vec<&str> =
            home.volumes.iter().filter(|v| self.volumes.contains(v)).map(String::as_str).collect();
        let what = if held.len() == 1 { "volume" } else { "volumes" };
        format!("its data ({what} {}) is on node {name}", held.join(", "))
    }

    pub fn in_use(&self, home: &v1::Home) -> String {
        format!("{}, where the task before it has not stopped yet", self.place(home))
    }

    pub fn away(&self, home: &v1::Home, why: &str) -> String {
        format!(
            "{}, which {why}: mend that, or let it begin anew elsewhere with --data-placement prefer",
            self.place(home)
        )
    }
}
