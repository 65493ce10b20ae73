//! What waits to be told to the managers: the newest status of each task and the newest
//! acknowledgement of each view, sent in batches and kept until a manager has taken them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use skep_proto::v1;
use tokio::sync::Notify;

use crate::plane::Applied;
use crate::task::StatusSink;

#[derive(Default)]
struct Pending {
    statuses: BTreeMap<String, v1::TaskStatus>,
    acks: Option<Applied>,
}

/// The outbox.
#[derive(Default)]
pub struct Outbox {
    pending: Mutex<Pending>,
    filled: Notify,
}

/// What was taken out of the outbox and is on its way.
pub struct Batch {
    /// For the dispatcher.
    pub updates: Vec<v1::TaskStatusUpdate>,
    /// For the dispatcher.
    pub acks: Vec<v1::ViewAck>,
    applied: Option<Applied>,
}

impl StatusSink for Outbox {
    fn report(&self, task_id: &str, status: v1::TaskStatus) {
        self.lock().statuses.insert(task_id.to_owned(), status);
        self.filled.notify_one();
    }
}

impl Outbox {
    fn lock(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Acknowledges what the kernel holds now.
    pub fn acknowledge(&self, applied: Applied) {
        self.lock().acks = Some(applied);
        self.filled.notify_one();
    }

    /// Returns once there may be something to send.
    pub async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Takes all there is; none when there is nothing.
    pub fn take(&self) -> Option<Batch> {
        let pending = std::mem::take(&mut *self.lock());
        if pending.statuses.is_empty() && pending.acks.is_none() {
            return None;
        }
        let updates = pending
            .statuses
            .into_iter()
            .map(|(task_id, status)| v1::TaskStatusUpdate { task_id, status: Some(status) })
            .collect();
        let acks = pending.acks.iter().flat_map(acks).collect();
        Some(Batch { updates, acks, applied: pending.acks })
    }

    /// Puts back what could not be sent; anything newer that came meanwhile wins.
    pub fn put_back(&self, batch: Batch) {
        let mut pending = self.lock();
        for update in batch.updates {
            if let Some(status) = update.status {
                pending.statuses.entry(update.task_id).or_insert(status);
            }
        }
        if pending.acks.is_none() {
            pending.acks = batch.applied;
        }
        drop(pending);
        self.filled.notify_one();
    }
}

/// The ingress view is acknowledged under an empty network ID.
fn acks(applied: &Applied) -> impl Iterator<Item = v1::ViewAck> {
    let networks = applied
        .networks
        .iter()
        .map(|(id, version)| v1::ViewAck { network_id: id.clone(), version: *version });
    networks.chain([v1::ViewAck { network_id: String::new(), version: applied.ingress }])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_while_a_batch_was_on_its_way_wins_over_what_is_put_back() {
        let outbox = Outbox::default();
        let status = |m: &str| v1::TaskStatus { message: m.into(), ..Default::default() };
        outbox.report("a", status("old"));
        outbox.report("b", status("kept"));
        let batch = outbox.take().expect("two statuses");
        outbox.report("a", status("new"));
        outbox.put_back(batch);
        let again = outbox.take().expect("two statuses");
        let messages: Vec<_> =
            again.updates.iter().map(|u| u.status.as_ref().map_or("", |s| s.message.as_str())).collect();
        assert_eq!(messages, ["new", "kept"]);
        assert!(outbox.take().is_none());
    }
}
