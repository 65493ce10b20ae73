//! What a pass over a service decided.

use skep_proto::v1;

use crate::store::change::put;

/// Changes to make, and when to look again though nothing changed.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// In order; a later change of an object supersedes an earlier one.
    pub changes: Vec<v1::Change>,
    /// Earliest time something becomes due.
    pub wake_ms: Option<i64>,
    /// Whether the pass stopped at its limit: run it again once these changes are applied.
    pub more: bool,
}

impl Plan {
    /// Asks for another pass at `at_ms`.
    pub fn wake(&mut self, at_ms: i64) {
        self.wake_ms = Some(self.wake_ms.map_or(at_ms, |w| w.min(at_ms)));
    }

    /// Writes a task.
    pub fn task(&mut self, task: v1::Task) {
        self.changes.push(put(task));
    }
}
