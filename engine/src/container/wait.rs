//! Waiting for a container, registered at the moment of the call.

use futures::future::BoxFuture;

use super::slot::Life;
use crate::engine::Engine;
use crate::error::Error;

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitCondition {
    /// It does not run (at once when it does not run now).
    NotRunning,
    /// Its next exit, also when it does not run yet.
    NextExit,
    /// Its removal; gives the last exit.
    Removed,
}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// Exit code, 128+n when killed by signal n.
    pub code: i32,
    /// Why it could not be started, empty otherwise.
    pub error: String,
}

impl Engine {
    /// Waits for `until`. Whatever happens after this returns is seen by the future.
    pub fn wait(
        &self,
        id: &str,
        until: WaitCondition,
    ) -> Result<BoxFuture<'static, Result<Exit, Error>>, Error> {
        let slot = self.table().find(id)?;
        let mut life = slot.life.subscribe();
        let seen = life.borrow().exits;
        // The slot goes when the container goes; the watch must not go with it.
        drop(slot);
        Ok(Box::pin(async move {
            let reached = |l: &Life| match until {
                WaitCondition::NotRunning => !l.running,
                WaitCondition::NextExit => l.exits > seen || l.removed,
                WaitCondition::Removed => l.removed,
            };
            let last = life.borrow().clone();
            match life.wait_for(reached).await {
                Ok(l) => Ok(l.exit.clone()),
                // The engine went away, or the container with its last word said.
                Err(_) if last.removed => Ok(last.exit),
                Err(_) => Err(Error::ShuttingDown),
            }
        }))
    }
}
