//! Ending a container's process: the stop signal, time, then SIGKILL; any signal; the terminal's size.

use std::sync::Arc;
use std::time::Duration;

use super::resolve::signal;
use super::slot::Slot;
use crate::config::ContainerState;
use crate::engine::Engine;
use crate::error::Error;

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// What a daemon that stops its containers waits beyond the time that they have, as with Docker.
const SPARE: Duration = Duration::from_secs(5);
/// How long the kernel may take to end what was killed.
const KILL_PATIENCE: Duration = Duration::from_secs(30);

/// A user's restart of a container.
pub struct Restarting {
    engine: Engine,
    slot: Arc<Slot>,
    _turn: tokio::sync::OwnedMutexGuard<()>,
}

impl Restarting {
    /// Tells of it; what it was made of has been told already.
    pub fn done(self) {
        self.engine.emit(&self.slot, "restart", &[]);
    }
}

impl Drop for Restarting {
    fn drop(&mut self) {
        let never_started = std::mem::take(&mut self.slot.volatile().restarting);
        let c = self.slot.container();
        if never_started && c.config.auto_remove && c.state == ContainerState::Exited {
            let (engine, id) = (self.engine.clone(), self.slot.id.clone());
            tokio::spawn(async move { engine.remove_itself(&id).await });
        }
    }
}

impl Engine {
    /// Sends the stop signal, waits, then kills. [`Error::NotRunning`] when it does not run.
    pub async fn stop(&self, id: &str, timeout: Option<Duration>) -> Result<(), Error> {
        let slot = self.table().find(id)?;
        if !slot.is_active() {
            return Err(Error::NotRunning { id: slot.id.clone() });
        }
        self.mark_stopped(&slot).await?;
        self.end(&slot, timeout.unwrap_or(stop_timeout(&slot))).await
    }

    async fn end(&self, slot: &Arc<Slot>, timeout: Duration) -> Result<(), Error> {
        if let Some(shim) = slot.shim() {
            match shim.signal(slot.plan.stop_signal).await {
                Ok(()) => self.tell_signal(slot, slot.plan.stop_signal),
                Err(e) => tracing::debug!(container = slot.id, error = %e, "the stop signal was not taken"),
            }
            self.thaw_to_end(slot).await;
            if !self.ends_within(slot, timeout).await {
                self.tell_signal(slot, libc::SIGKILL);
                self.kill_and_wait(slot).await?;
            }
        }
        // Whatever the exit has to tidy up has been tidied up when this lock is free.
        drop(slot.op.lock().await);
        self.emit(slot, "stop", &[]);
        Ok(())
    }

    /// Ends what runs, as the daemon is about to (dockerd's `live-restore=false`): each container gets the time it has to stop
    /// by itself. None counts as stopped by a user, so policies start them with the next daemon. After `patience`, and no
    /// sooner than each has had its time, what still runs is left; none = it is waited for. No container starts from here on.
    pub async fn stop_with_daemon(&self, patience: Option<Duration>) {
        self.refuse_starts();
        // One that has no process, and nothing under way that may start one, stays so.
        let may_run = |slot: &Arc<Slot>| slot.shim().is_some() || slot.op.try_lock().is_err();
        let slots: Vec<_> = self.table().all().into_iter().filter(may_run).collect();
        let longest = slots.iter().map(|slot| stop_timeout(slot)).max().unwrap_or_default();
        let stops = slots.into_iter().map(|slot| async move {
            // A start that was under way is done when this lock is free.
            if slot.shim().is_none() {
                drop(slot.op.lock().await);
            }
            if slot.shim().is_some()
                && let Err(e) = self.end(&slot, stop_timeout(&slot)).await
            {
                tracing::warn!(container = slot.id, error = %e, "could not be stopped");
            }
        });
        let all = futures::future::join_all(stops);
        match patience {
            None => drop(all.await),
            Some(patience) => {
                let patience = patience.max(longest.saturating_add(SPARE));
                if tokio::time::timeout(patience, all).await.is_err() {
                    tracing::warn!(
                        seconds = patience.as_secs(),
                        "containers have not stopped in time, and go on"
                    );
                }
            }
        }
    }

    /// A user wants it stopped: no policy starts it again, also not after a crash from here on.
    async fn mark_stopped(&self, slot: &Arc<Slot>) -> Result<(), Error> {
        self.cancel_restart(slot).await;
        // Only a policy that survives the daemon makes the flag worth a disk write of its own.
        if slot.container().config.restart == crate::config::RestartPolicy::No {
            return Ok(());
        }
        self.store(slot).await
    }

    /// Whatever ends from here on stays so, and what waits for its restart does so no longer.
    pub(super) async fn cancel_restart(&self, slot: &Arc<Slot>) {
        slot.volatile().stopped_by_user = true;
        let _op = slot.op.lock().await;
        // A restart that was under way has forgotten it.
        slot.volatile().stopped_by_user = true;
        if slot.container().state == ContainerState::Restarting {
            slot.update(|c| c.state = ContainerState::Exited);
            self.images().set_running(&slot.id, false);
            slot.life.send_modify(|l| l.running = false);
            slot.no_restart.notify_waiters();
        }
    }

    pub(super) async fn kill_and_wait(&self, slot: &Arc<Slot>) -> Result<(), Error> {
        if let Some(shim) = slot.shim() {
            let failed =
                |e: crate::shim::ShimError| Error::Shim { id: slot.id.clone(), reason: e.to_string() };
            let sent = shim.signal(libc::SIGKILL).await.map_err(failed);
            self.thaw_to_end(slot).await;
            if !self.ends_within(slot, KILL_PATIENCE).await {
                sent?;
                return Err(Error::Shim {
                    id: slot.id.clone(),
                    reason: format!("it did not end within {} s of SIGKILL", KILL_PATIENCE.as_secs()),
                });
            }
        }
        Ok(())
    }

    /// Begins a user's restart, which is a stop and a start, once others of the same container are done: until the start the
    /// end of a container that removes itself does not remove it, as with Docker.
    pub async fn restarting(&self, id: &str) -> Result<Restarting, Error> {
        let slot = self.table().find(id)?;
        let turn = slot.restart.clone().lock_owned().await;
        slot.volatile().restarting = true;
        Ok(Restarting { engine: self.clone(), slot, _turn: turn })
    }

    pub(super) fn tell_signal(&self, slot: &Arc<Slot>, signal: i32) {
        self.emit(slot, "kill", &[("signal", &signal.to_string())]);
    }

    async fn thaw_to_end(&self, slot: &Arc<Slot>) {
        if let Err(e) = self.thaw(slot).await {
            tracing::warn!(container = slot.id, error = %e, "a paused container that is to end stays frozen");
        }
    }

    async fn ends_within(&self, slot: &Slot, timeout: Duration) -> bool {
        let mut life = slot.life.subscribe();
        let ended = life.wait_for(|l| !l.running);
        tokio::time::timeout(timeout, ended).await.is_ok()
    }

    /// Sends a signal, by name or number.
    pub async fn kill(&self, id: &str, name: &str) -> Result<(), Error> {
        let slot = self.table().find(id)?;
        let number = if name.is_empty() { libc::SIGKILL } else { signal(name)? };
        let waits = slot.container().state == ContainerState::Restarting;
        if !waits && slot.shim().is_none() {
            return Err(Error::NotRunning { id: slot.id.clone() });
        }
        let usual = slot.plan.stop_signal == libc::SIGTERM;
        // As Docker: what ends it by a user's hand is no reason to start it again.
        if number == libc::SIGKILL || number == slot.plan.stop_signal || (waits && usual) {
            self.mark_stopped(&slot).await?;
        }
        // What waited for its restart has no process to be told.
        let Some(shim) = slot.shim() else { return Ok(()) };
        // One that is just ending takes no more signals; that it has been killed is seen below.
        if let Err(e) = shim.signal(number).await
            && number != libc::SIGKILL
        {
            return Err(Error::Shim { id: slot.id.clone(), reason: e.to_string() });
        }
        // As Docker: the signal that stops it, and where that is the usual one any other, wakes it.
        if number == slot.plan.stop_signal || usual {
            self.thaw_to_end(&slot).await;
        }
        self.tell_signal(&slot, number);
        if number == libc::SIGKILL {
            self.kill_and_wait(&slot).await?;
        }
        Ok(())
    }

    /// Sets the size of the container's terminal.
    pub async fn resize(&self, id: &str, rows: u16, cols: u16) -> Result<(), Error> {
        let slot = self.table().find(id)?;
        let Some(shim) = slot.shim() else { return Err(Error::NotRunning { id: slot.id.clone() }) };
        shim.resize(rows, cols).await.map_err(|e| Error::Shim { id: slot.id.clone(), reason: e.to_string() })
    }
}

/// How long a container has to stop by itself.
fn stop_timeout(slot: &Slot) -> Duration {
    slot.container().config.stop_timeout.unwrap_or(DEFAULT_TIMEOUT)
}
