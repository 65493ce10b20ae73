//! The replicated state in memory: [`StoreView`]s of immutable shared objects, published as a whole after
//! every applied batch, so that any number of readers never wait and always see one consistent state.

mod apply;
pub mod change;
mod event;
mod key;
mod lookup;
mod state_machine;
mod tasks;
mod view;
mod watch;
pub mod writer;

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use skep_proto::v1;
use tokio::sync::{broadcast, watch as latest};

pub(crate) use apply::FORESEEN;
pub use apply::Stale;
pub(crate) use apply::{dependency_name, network_name, service_name};
pub use event::{Diff, Event};
pub use key::Key;
pub use lookup::{LookupError, dependency_word};
pub use view::StoreView;
pub use watch::{Commit, Update, Watch};
pub use writer::{Propose, ProposeError, WriteError, Writer};

/// Batches a watcher may lag behind before it is told to start again.
const WATCH_BACKLOG: usize = 1024;

/// Cheap handle to the store.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    view: ArcSwap<StoreView>,
    /// Serialises appliers and makes `subscribe` atomic with respect to them.
    apply: Mutex<broadcast::Sender<Update>>,
    index: latest::Sender<u64>,
}

impl Default for Store {
    fn default() -> Self {
        Self::new()
    }
}

impl Store {
    /// An empty store.
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            view: ArcSwap::default(),
            apply: Mutex::new(broadcast::channel(WATCH_BACKLOG).0),
            index: latest::Sender::new(0),
        }))
    }

    /// The latest applied state.
    pub fn view(&self) -> Arc<StoreView> {
        self.0.view.load_full()
    }

    /// Applies one raft entry's batch and publishes the result. Replays change nothing; a batch that was
    /// computed on another state than the latest is refused whole (on every manager alike).
    pub fn apply(&self, index: u64, batch: v1::Batch) -> Result<Arc<[Event]>, Stale> {
        let updates = self.0.apply.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = StoreView::clone(&self.0.view.load());
        let events: Arc<[Event]> = next.apply(index, batch)?.into();
        if next.index < index {
            return Ok(events);
        }
        let view = Arc::new(next);
        self.0.view.store(view.clone());
        // Nobody watching is fine.
        let _ = updates.send(Update::Commit(Commit { view, events: events.clone() }));
        drop(updates);
        self.advance(index);
        Ok(events)
    }

    /// Replaces the whole state by a snapshot's.
    pub fn restore(&self, snapshot: v1::Snapshot) {
        let view = Arc::new(StoreView::restore(snapshot));
        let updates = self.0.apply.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.view.store(view.clone());
        let index = view.index;
        let _ = updates.send(Update::Resync(view));
        drop(updates);
        self.advance(index);
    }

    /// The latest state as a snapshot. Copies every object: call it off the runtime's threads.
    pub fn snapshot(&self) -> v1::Snapshot {
        self.view().snapshot()
    }

    /// The latest state and everything that happens to it from there on.
    pub fn subscribe(&self) -> (Arc<StoreView>, Watch) {
        let updates = self.0.apply.lock().unwrap_or_else(PoisonError::into_inner);
        let view = self.view();
        let watch = Watch { updates: updates.subscribe(), store: Arc::downgrade(&self.0), seen: view.index };
        (view, watch)
    }

    /// Notes that the log is applied up to `index`: entries that carry no batch (of elections, of
    /// membership) leave the view as it is, but a reader may wait for them.
    pub fn advance(&self, index: u64) {
        self.0.index.send_if_modified(|reached| {
            let further = *reached < index;
            *reached = (*reached).max(index);
            further
        });
    }

    /// Waits until the log is applied up to `index`.
    pub async fn wait_for(&self, index: u64) -> Arc<StoreView> {
        let mut reached = self.0.index.subscribe();
        // The sender lives in self: it cannot be closed meanwhile.
        let _ = reached.wait_for(|i| *i >= index).await;
        self.view()
    }
}
