//! One worker at a container at a time: connecting, disconnecting and repairing never meet.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, PoisonError};

/// The containers somebody works at.
#[derive(Default)]
pub struct Busy {
    held: Mutex<BTreeSet<String>>,
    freed: Condvar,
}

/// Holds a container until dropped.
pub struct Hold<'a> {
    busy: &'a Busy,
    id: String,
}

impl Busy {
    /// Waits for the container. Blocks: for worker threads only.
    pub fn hold(&self, id: &str) -> Hold<'_> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let mut held =
            self.freed.wait_while(held, |h| h.contains(id)).unwrap_or_else(PoisonError::into_inner);
        held.insert(id.to_owned());
        Hold { busy: self, id: id.to_owned() }
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.busy.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        self.busy.freed.notify_all();
    }
}
