//! A slot: the place of one replica (or of a global service's task on one node) and the tasks that
//! have held it.

use std::collections::BTreeMap;
use std::sync::Arc;

use skep_proto::v1;

use super::task;
use crate::store::StoreView;

/// What tells the slots of a service apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SlotKey {
    /// Number of a replica, from 1.
    Replica(u64),
    /// Node of a global service's task.
    Node(String),
}

impl SlotKey {
    /// The slot of a task.
    pub fn of(task: &v1::Task) -> Self {
        match task.slot {
            0 => Self::Node(task.node_id.clone()),
            n => Self::Replica(n),
        }
    }
}

/// The tasks of one slot that are not to be removed.
#[derive(Clone, Debug, Default)]
pub struct Slot {
    /// Oldest first.
    pub tasks: Vec<Arc<v1::Task>>,
    /// Tasks on their way out for good that an agent may still be running.
    pub leaving: Vec<Arc<v1::Task>>,
}

impl Slot {
    /// The task that speaks for the slot: the one created last.
    pub fn newest(&self) -> Option<&Arc<v1::Task>> {
        self.tasks.last()
    }

    /// The number of the slot's next task.
    pub fn next_incarnation(&self) -> u64 {
        self.tasks.iter().chain(&self.leaving).map(|t| t.incarnation).max().unwrap_or(0) + 1
    }

    /// The task to look after, and those before it that are still wanted: the newest one, or, where that one
    /// failed for good in a start-first update, the one that it was to take over from.
    pub fn speaker(&self) -> Option<(&Arc<v1::Task>, impl Iterator<Item = &Arc<v1::Task>>)> {
        let newest = self.tasks.len().checked_sub(1)?;
        let took_over =
            task::wanted(&self.tasks[newest]) || task::state(&self.tasks[newest]) == v1::TaskState::Complete;
        let at = if took_over {
            newest
        } else {
            self.tasks.iter().rposition(|t| task::wanted(t)).unwrap_or(newest)
        };
        Some((&self.tasks[at], self.tasks[..at].iter().filter(|t| task::wanted(t))))
    }

    /// Whether a task told to stop may still be running, so that its successor has to wait.
    pub fn stopping(&self, view: &StoreView) -> bool {
        self.tasks.iter().chain(&self.leaving).any(|t| !task::wanted(t) && task::may_run(view, t))
    }
}

/// The slots of a service as the store has them.
pub fn slots(view: &StoreView, service: &v1::Service) -> BTreeMap<SlotKey, Slot> {
    let mut slots: BTreeMap<SlotKey, Slot> = BTreeMap::new();
    for t in view.tasks_of_service(&service.id) {
        let slot = slots.entry(SlotKey::of(t)).or_default();
        if t.desired_state() == v1::TaskState::Remove {
            slot.leaving.push(t.clone());
        } else {
            slot.tasks.push(t.clone());
        }
    }
    for slot in slots.values_mut() {
        slot.tasks.sort_by(|a, b| task::age_key(a).cmp(&task::age_key(b)));
    }
    slots
}
