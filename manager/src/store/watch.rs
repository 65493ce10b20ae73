//! Watching the store: every applied batch with its events, in order, or a resync for a watcher that
//! fell too far behind.

use std::sync::{Arc, Weak};

use tokio::sync::broadcast::{self, error::RecvError};

use super::event::Event;
use super::view::StoreView;

/// One applied batch.
#[derive(Clone)]
pub struct Commit {
    /// The state after it; `view.index` is its raft index.
    pub view: Arc<StoreView>,
    /// What it changed, in order.
    pub events: Arc<[Event]>,
}

/// What a watcher is told.
#[derive(Clone)]
pub enum Update {
    /// A batch was applied.
    Commit(Commit),
    /// Batches were missed (or a snapshot replaced the state): start again from this view.
    Resync(Arc<StoreView>),
}

impl Update {
    /// The state after the update.
    pub fn view(&self) -> &Arc<StoreView> {
        match self {
            Update::Commit(c) => &c.view,
            Update::Resync(view) => view,
        }
    }
}

/// A subscription to the store. Dropping it ends it.
pub struct Watch {
    pub(super) updates: broadcast::Receiver<Update>,
    pub(super) store: Weak<super::Inner>,
    pub(super) seen: u64,
}

impl Watch {
    /// The next update; `None` once the store is gone. Cancel safe.
    pub async fn next(&mut self) -> Option<Update> {
        loop {
            match self.updates.recv().await {
                Ok(update) => {
                    let index = update.view().index;
                    // Batches before a resync are already part of the view it gave.
                    if index <= self.seen && matches!(update, Update::Commit(_)) {
                        continue;
                    }
                    self.seen = index;
                    return Some(update);
                }
                Err(RecvError::Lagged(_)) => {
                    let view = self.store.upgrade()?.view.load_full();
                    self.seen = view.index;
                    return Some(Update::Resync(view));
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// The next update if there is one already.
    pub fn try_next(&mut self) -> Option<Update> {
        use futures::FutureExt;
        self.next().now_or_never().flatten()
    }
}
