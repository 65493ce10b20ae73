//! The one door for writes on the leader. The orchestrators, the dispatcher and the control service race
//! to change the same objects; each hands the writer a function from the latest state to changes. The
//! writer runs them one after another and commits in groups: while one proposal is under way, the next
//! writers compute on the state it will leave, and all of them go into the next proposal together. So
//! writes see each other, none is lost, and a slow disk costs latency, not throughput.
//!
//! A proposal names the index it was computed on (`Batch.based_on`), and every manager refuses it whole if
//! another batch came between: a leader that lost and regained its office cannot overwrite what it did
//! not see.

use std::sync::Arc;

use futures::future::BoxFuture;
use skep_proto::v1;
use tokio::sync::{Mutex, watch};

use super::{Store, StoreView};

/// Why a proposal did not become part of the log, as far as this manager knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This manager does not lead; nothing was written.
    #[error("this manager is not the leader (now {leader:?}): ask that one")]
    NotLeader {
        /// Node ID of the leader, when known.
        leader: Option<String>,
    },
    /// Leadership or quorum was lost meanwhile: it may or may not be written.
    #[error("write not confirmed: {0}; read again before repeating it")]
    Unknown(String),
    /// Another batch came between; nothing was written.
    #[error("the state changed under the write (based on {based_on}, at {actual}): try again")]
    Stale {
        /// The index it was computed on.
        based_on: u64,
        /// The index the store was at.
        actual: u64,
    },
    /// It is more than one entry of the log may hold; nothing was written.
    #[error(
        "too much to write at once: {bytes} bytes, where an entry of the log holds {limit}; nothing was written"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// What one entry may hold.
        limit: usize,
    },
    /// The manager is stopping; nothing was written.
    #[error("the manager is stopping: ask another one")]
    Stopping,
}

/// Why a write failed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError<E> {
    /// The function refused.
    #[error(transparent)]
    Refused(E),
    /// The log did not take it.
    #[error(transparent)]
    Propose(ProposeError),
}

/// What appends a batch to the replicated log.
pub trait Propose: Send + Sync + 'static {
    /// Proposes `changes` computed on the state at `based_on` (0 = any). Resolves with the batch's index
    /// once it is applied to this manager's store.
    fn propose(
        &self,
        based_on: u64,
        changes: Vec<v1::Change>,
    ) -> BoxFuture<'static, Result<u64, ProposeError>>;
}

impl<P: Propose + ?Sized> Propose for Arc<P> {
    fn propose(
        &self,
        based_on: u64,
        changes: Vec<v1::Change>,
    ) -> BoxFuture<'static, Result<u64, ProposeError>> {
        P::propose(self, based_on, changes)
    }
}

type Outcome = Option<Result<u64, ProposeError>>;

/// Cheap handle to the writer of one manager.
#[derive(Clone)]
pub struct Writer(Arc<Inner>);

struct Inner {
    store: Store,
    propose: Box<dyn Propose>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    flight: Option<Flight>,
    open: Option<Group>,
}

/// The proposal under way.
struct Flight {
    base: Arc<StoreView>,
    changes: Vec<v1::Change>,
    done: watch::Receiver<Outcome>,
}

/// Writes that wait for the one under way.
struct Group {
    /// The state they compute on: the flight's outcome and the group's own changes so far.
    view: StoreView,
    changes: Vec<v1::Change>,
    done: watch::Sender<Outcome>,
}

impl Writer {
    /// A writer to `store` by way of `propose`.
    pub fn new(store: Store, propose: impl Propose) -> Self {
        Self(Arc::new(Inner { store, propose: Box::new(propose), queue: Mutex::default() }))
    }

    /// The store written to.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// Computes changes on the state that all earlier writes leave and commits them. Returns the index at
    /// which they are applied here; when there is nothing to change, the index they were found so at.
    ///
    /// `compute` may see objects of writes not yet committed (their version is [`u64::MAX`]-like: greater
    /// than any committed one); if those fail, so does this write. Dropping the future after `compute`
    /// ran does not undo the write.
    pub async fn write<E>(
        &self,
        compute: impl FnOnce(&StoreView) -> Result<Vec<v1::Change>, E>,
    ) -> Result<u64, WriteError<E>> {
        let mut done = {
            let mut queue = self.0.queue.lock().await;
            match queue.flight.take() {
                None => {
                    let view = self.0.store.view();
                    let changes = compute(&view).map_err(WriteError::Refused)?;
                    if changes.is_empty() {
                        return Ok(view.index);
                    }
                    self.launch(&mut queue, view, changes, watch::Sender::new(None))
                }
                Some(flight) => {
                    let open = queue.open.take();
                    let (result, open, done) = join_group(&flight, open, compute);
                    queue.open = open;
                    queue.flight = Some(flight);
                    result.map_err(WriteError::Refused)?;
                    done
                }
            }
        };
        let outcome = done.wait_for(Option::is_some).await.map(|o| o.clone());
        match outcome {
            Ok(Some(result)) => result.map_err(WriteError::Propose),
            Ok(None) | Err(_) => Err(WriteError::Propose(ProposeError::Stopping)),
        }
    }

    fn launch(
        &self,
        queue: &mut Queue,
        base: Arc<StoreView>,
        changes: Vec<v1::Change>,
        sender: watch::Sender<Outcome>,
    ) -> watch::Receiver<Outcome> {
        let done = sender.subscribe();
        let proposal = self.0.propose.propose(base.index, changes.clone());
        queue.flight = Some(Flight { base, changes, done: done.clone() });
        let writer = self.clone();
        tokio::spawn(async move {
            let result = proposal.await;
            let mut queue = writer.0.queue.lock().await;
            queue.flight = None;
            if let Some(group) = queue.open.take() {
                match &result {
                    Ok(index) if !group.changes.is_empty() => {
                        let base = writer.0.store.wait_for(*index).await;
                        writer.launch(&mut queue, base, group.changes, group.done);
                    }
                    // What the group was computed on never came to be (or nothing was to be written).
                    other => {
                        group.done.send_replace(Some(other.clone()));
                    }
                }
            }
            drop(queue);
            sender.send_replace(Some(result));
        });
        done
    }
}

/// Runs `compute` on the state the flight and the open group will leave, and adds its changes to the group.
fn join_group<E>(
    flight: &Flight,
    open: Option<Group>,
    compute: impl FnOnce(&StoreView) -> Result<Vec<v1::Change>, E>,
) -> (Result<(), E>, Option<Group>, watch::Receiver<Outcome>) {
    let mut group = open.unwrap_or_else(|| {
        let mut view = StoreView::clone(&flight.base);
        let at_ms = view.at_ms;
        view.foresee(flight.changes.clone(), at_ms);
        Group { view, changes: Vec::new(), done: watch::Sender::new(None) }
    });
    match compute(&group.view) {
        Ok(changes) if changes.is_empty() => {
            // What it saw is true once everything before it is: of this group or, if empty, the flight.
            let done = if group.changes.is_empty() { flight.done.clone() } else { group.done.subscribe() };
            (Ok(()), Some(group), done)
        }
        Ok(changes) => {
            let at_ms = group.view.at_ms;
            group.view.foresee(changes.clone(), at_ms);
            group.changes.extend(changes);
            let done = group.done.subscribe();
            (Ok(()), Some(group), done)
        }
        Err(e) => {
            let done = flight.done.clone();
            (Err(e), Some(group), done)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::store::change::put;

    /// Applies to the store directly, as a log of one manager would, but only when allowed to.
    #[derive(Clone)]
    struct Log {
        store: Store,
        gate: Arc<tokio::sync::Semaphore>,
        refuse: bool,
    }

    impl Propose for Log {
        fn propose(
            &self,
            based_on: u64,
            changes: Vec<v1::Change>,
        ) -> BoxFuture<'static, Result<u64, ProposeError>> {
            let log = self.clone();
            Box::pin(async move {
                log.gate.acquire().await.map_err(|_| ProposeError::Stopping)?.forget();
                if log.refuse {
                    return Err(ProposeError::NotLeader { leader: None });
                }
                let index = log.store.view().index + 1;
                let batch = v1::Batch { changes, based_on, at_ms: 1, ..Default::default() };
                log.store
                    .apply(index, batch)
                    .map_err(|s| ProposeError::Stale { based_on: s.based_on, actual: s.actual })?;
                Ok(index)
            })
        }
    }

    fn network(id: &str, gateway: usize) -> v1::Change {
        put(v1::Network { id: id.into(), gateway: gateway.to_string(), ..Default::default() })
    }

    fn increment(view: &StoreView) -> Result<Vec<v1::Change>, Infallible> {
        let seen = view.network("counter").map_or(0, |n| n.gateway.parse().unwrap_or(0));
        Ok(vec![network("counter", seen + 1)])
    }

    #[tokio::test]
    async fn concurrent_writers_see_each_other_and_share_proposals() {
        let store = Store::new();
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let writer =
            Writer::new(store.clone(), Log { store: store.clone(), gate: gate.clone(), refuse: false });
        let writes: Vec<_> = (0..20)
            .map(|_| {
                let writer = writer.clone();
                tokio::spawn(async move { writer.write(increment).await })
            })
            .collect();
        gate.add_permits(20);
        for write in writes {
            write.await.expect("no panic").expect("written");
        }
        let view = store.view();
        assert_eq!(view.network("counter").map(|n| n.gateway.as_str()), Some("20"));
        assert!(view.index <= 20, "grouped into {} proposals", view.index);
        assert_eq!(
            view.network("counter").and_then(|n| n.meta.as_ref()).map(|m| m.version),
            Some(view.index)
        );
    }

    #[tokio::test]
    async fn what_was_computed_on_a_failed_write_fails_with_it() {
        let store = Store::new();
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let writer =
            Writer::new(store.clone(), Log { store: store.clone(), gate: gate.clone(), refuse: true });
        let (a, b, _) =
            tokio::join!(writer.write(increment), writer.write(increment), async { gate.add_permits(2) });
        let refused = Err(WriteError::Propose(ProposeError::NotLeader { leader: None }));
        assert_eq!((a, b), (refused, Err(WriteError::Propose(ProposeError::NotLeader { leader: None }))));
        assert_eq!(store.view().index, 0);
    }

    #[tokio::test]
    async fn a_batch_slipped_in_between_voids_the_write() {
        let store = Store::new();
        store.apply(1, v1::Batch { changes: vec![network("n", 0)], ..Default::default() }).expect("applies");
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let writer =
            Writer::new(store.clone(), Log { store: store.clone(), gate: gate.clone(), refuse: false });
        let (a, _) = tokio::join!(writer.write(increment), async {
            store
                .apply(2, v1::Batch { changes: vec![network("n", 1)], ..Default::default() })
                .expect("applies");
            gate.add_permits(1);
        });
        assert_eq!(a, Err(WriteError::Propose(ProposeError::Stale { based_on: 1, actual: 2 })));
    }

    #[tokio::test]
    async fn nothing_to_change_writes_nothing() {
        let store = Store::new();
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let writer =
            Writer::new(store.clone(), Log { store: store.clone(), gate: gate.clone(), refuse: false });
        assert_eq!(writer.write(|_| Ok::<_, Infallible>(Vec::new())).await, Ok(0));
        assert_eq!(writer.write(|_| Err::<Vec<_>, _>("no")).await, Err(WriteError::Refused("no")));
    }
}
