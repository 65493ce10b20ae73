//! Removal of veths, which takes the kernel 31 ms each, off everybody's path but accounted for.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use crate::link::Links;

/// Interfaces whose removal is under way.
#[derive(Default)]
pub struct Reaper {
    leaving: Mutex<BTreeSet<String>>,
    idle: tokio::sync::Notify,
}

impl Reaper {
    /// The interfaces under way.
    pub fn leaving(&self) -> BTreeSet<String> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says that these will go; before the state forgets them.
    pub fn expect(&self, links: &[String]) {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner).extend(links.iter().cloned());
    }

    /// Says that these stay after all, once the state knows them again.
    pub fn keep(&self, links: &[String]) {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner).retain(|l| !links.contains(l));
        self.idle.notify_waiters();
    }

    /// Removes them. Blocks.
    pub fn remove(&self, links: &[String]) {
        let outcome = Links::open().map(|mut host| {
            for link in links {
                if let Err(error) = host.delete(link) {
                    tracing::warn!(link, %error, "interface stays until the next comparison");
                }
            }
        });
        if let Err(error) = outcome {
            tracing::warn!(%error, "interfaces stay until the next comparison");
        }
        let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        leaving.retain(|l| !links.contains(l));
        drop(leaving);
        self.idle.notify_waiters();
    }

    /// Waits until nothing is under way.
    pub async fn drain(&self) {
        loop {
            let idle = self.idle.notified();
            if self.leaving().is_empty() {
                return;
            }
            idle.await;
        }
    }
}
