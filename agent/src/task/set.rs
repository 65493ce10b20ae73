//! The workers of all assigned tasks, kept in step with the assignment set.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use skep_proto::v1;
use tokio::sync::watch;

use super::Surroundings;
use super::worker::{Target, Worker};
use crate::assignments::Assignments;

struct Entry {
    target: watch::Sender<Target>,
    networks: BTreeSet<String>,
    forgotten: bool,
    over: Over,
}

/// Whether a task's container has ended for good.
#[derive(Clone)]
pub(super) struct Over {
    is: Arc<AtomicBool>,
    ended: watch::Sender<u64>,
}

impl Over {
    fn is(&self) -> bool {
        self.is.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self) {
        if !self.is.swap(true, Ordering::Relaxed) {
            self.ended.send_modify(|n| *n += 1);
        }
    }
}

/// One worker a task; forgotten tasks stay listed until their container is gone.
#[derive(Clone)]
pub struct TaskSet {
    around: Surroundings,
    workers: Arc<Mutex<BTreeMap<String, Entry>>>,
    // Told each time a container or a worker has ended, so that networks nobody uses any more can go.
    ended: watch::Sender<u64>,
}

impl TaskSet {
    /// An empty set.
    pub fn new(around: Surroundings) -> Self {
        Self { around, workers: Arc::default(), ended: watch::Sender::new(0) }
    }

    /// Makes the set equal to `assigned`: starts workers for new tasks, tells known ones of their new
    /// desired state, and has the rest stopped and removed.
    pub fn assign(&self, assigned: &BTreeMap<String, Arc<v1::TaskAssignment>>) {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, entry) in workers.iter_mut() {
            if !assigned.contains_key(id) && !entry.forgotten {
                entry.forgotten = true;
                entry.target.send_replace(Target::Forget);
            }
        }
        for (id, assignment) in assigned {
            match workers.get(id) {
                Some(entry) if !entry.forgotten => {
                    entry.target.send_if_modified(|have| {
                        let changed = !matches!(have, Target::Follow(a) if same_goal(a, assignment));
                        if changed {
                            *have = Target::Follow(assignment.clone());
                        }
                        changed
                    });
                }
                Some(_) => {} // Being removed; task IDs are never used twice, so it will not come back.
                None => {
                    let entry = self.spawn(id.clone(), assignment.clone());
                    workers.insert(id.clone(), entry);
                }
            }
        }
    }

    fn spawn(&self, id: String, assignment: Arc<v1::TaskAssignment>) -> Entry {
        let networks =
            assignment.task.iter().flat_map(|t| t.addresses.iter().map(|a| a.network_id.clone())).collect();
        let (target, receiver) = watch::channel(Target::Follow(assignment.clone()));
        let over = Over { is: Arc::default(), ended: self.ended.clone() };
        let worker = Worker::new(self.around.clone(), receiver, assignment, over.clone());
        let (workers, ended) = (self.workers.clone(), self.ended.clone());
        tokio::spawn(async move {
            worker.run().await;
            workers.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            ended.send_modify(|n| *n += 1);
        });
        Entry { target, networks, forgotten: false, over }
    }

    /// Networks that some container here still uses, forgotten tasks included. One that has ended is kept for its logs
    /// and its history, and is in no network.
    pub fn networks_in_use(&self) -> BTreeSet<String> {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        let using = workers.values().filter(|e| !e.over.is());
        using.flat_map(|e| e.networks.iter().cloned()).collect()
    }

    /// Stops and removes what there is of this node's tasks that are neither assigned nor being removed: a daemon that
    /// was killed between the two had written down already that they are not its own.
    pub async fn sweep(&self, node_id: &str, assigned: &watch::Receiver<Assignments>) {
        for remnant in self.around.runtime.containers(node_id).await {
            let id = &remnant.task_id;
            // In this order: a task is assigned, then has its worker, and then a container.
            let worker = || self.workers.lock().unwrap_or_else(PoisonError::into_inner).contains_key(id);
            if assigned.borrow().tasks.contains_key(id) || worker() {
                continue;
            }
            tracing::info!(task = %id, container = %remnant.container_id, "removing what an earlier daemon has left of a task");
            if let Err(e) = self.around.runtime.discard(&remnant).await {
                tracing::warn!(task = %id, container = %remnant.container_id, error = %e, "a container of a task that is no longer assigned is left; remove it with `docker rm -f`, or start this daemon again");
            }
        }
    }

    /// Whether no worker is left.
    pub fn is_empty(&self) -> bool {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Changes each time a task's container has ended, and when a forgotten task is gone for good.
    pub fn ended(&self) -> watch::Receiver<u64> {
        self.ended.subscribe()
    }
}

/// Whether two assignments ask the same of a worker (statuses come back to us as echoes).
fn same_goal(a: &v1::TaskAssignment, b: &v1::TaskAssignment) -> bool {
    let goal = |t: &v1::TaskAssignment| t.task.as_ref().map(|t| (t.desired_state, t.start_not_before_ms));
    goal(a) == goal(b)
}
