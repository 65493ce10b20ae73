//! What happens when a container's process ends: recorded, told, tidied up, perhaps started again.

use std::sync::Arc;
use std::time::Duration;

use super::restart::{Ended, next_start};
use super::slot::Slot;
use super::wait::Exit;
use crate::config::ContainerState;
use crate::engine::Engine;
use crate::events::now_ns;
use crate::shim::{self, Shim};

/// Exit code of a container whose end nobody saw.
pub(super) const UNSEEN: i32 = 255;

impl Engine {
    /// Watches one run. Ends with it, or with the daemon (the container goes on).
    pub(super) fn supervise(&self, slot: Arc<Slot>, shim: Arc<Shim>, last_delay: Duration, restarts: u32) {
        let engine = self.clone();
        tokio::spawn(async move {
            let ended = tokio::select! {
                ended = shim.wait() => ended,
                () = engine.closing().cancelled() => return,
            };
            let (exit, error) = match ended {
                Ok(exit) => (exit, String::new()),
                Err(e) => {
                    // A shim that dies takes its container with it: nobody owns its stdio any more.
                    tracing::error!(container = slot.id, error = %e, "the shim of a container is gone");
                    // With our own runtime nothing is left; another's containers go on without it.
                    if let Err(e) = Shim::sweep(&engine.bundle(&slot.id)).await {
                        tracing::warn!(container = slot.id, error = %e, "what a lost shim left could not be swept");
                    }
                    let unseen = shim::Exit { code: UNSEEN, oom_killed: false, finished_at_ns: now_ns() };
                    (unseen, format!("its shim ended without leaving an exit status: {e}"))
                }
            };
            engine.ended(&slot, exit, error, last_delay, restarts).await;
        });
    }

    /// One run has ended.
    pub(super) async fn ended(
        &self,
        slot: &Arc<Slot>,
        exit: shim::Exit,
        error: String,
        last_delay: Duration,
        restarts: u32,
    ) {
        let op = slot.op.lock().await;
        let c = slot.container();
        let stops = self.stops_containers();
        let ended = Ended {
            code: exit.code,
            ran: Duration::from_nanos(
                u64::try_from(exit.finished_at_ns.saturating_sub(c.started_at_ns)).unwrap_or(0),
            ),
            by_user: slot.volatile().stopped_by_user || stops,
            restarts,
            last_delay,
        };
        let delay = next_start(&c.config.restart, ended);
        let removes_itself = c.config.auto_remove && !slot.volatile().restarting;
        {
            let mut volatile = slot.volatile();
            volatile.shim = None;
            volatile.ended_with_daemon = stops;
        }
        slot.update(|c| {
            c.state = if delay.is_some() { ContainerState::Restarting } else { ContainerState::Exited };
            c.pid = None;
            c.exit_code = Some(exit.code);
            c.oom_killed = exit.oom_killed;
            c.finished_at_ns = exit.finished_at_ns;
            c.error.clone_from(&error);
        });
        self.images().set_running(&slot.id, delay.is_some());
        self.store_later(slot);
        let again = slot.no_restart.notified();
        tokio::pin!(again);
        again.as_mut().enable();
        if exit.oom_killed {
            self.emit(slot, "oom", &[]);
        }
        self.emit(slot, "die", &[("exitCode", &exit.code.to_string())]);
        slot.life.send_modify(|l| {
            l.running = delay.is_some();
            l.exits += 1;
            l.exit = Exit { code: exit.code, error: error.clone() };
        });
        self.emit_networks(slot, "disconnect", &c.endpoints);
        if let Err(e) = self.unwire(slot).await {
            tracing::warn!(container = slot.id, error = %e, "the network of an exited container is left");
        }
        self.unmount_volumes(&c, &slot.id).await;
        drop(op);
        match delay {
            None if removes_itself => {
                self.remove_itself(&slot.id).await;
            }
            None => {}
            Some(delay) => {
                tokio::select! {
                    () = tokio::time::sleep(delay) => {}
                    () = &mut again => return,
                    () = self.closing().cancelled() => return,
                }
                let engine = self.clone();
                let slot = slot.clone();
                // Boxed: a run's end starts the next run.
                let restart: futures::future::BoxFuture<'static, ()> =
                    Box::pin(async move { engine.restart(&slot, delay, restarts + 1).await });
                tokio::spawn(restart);
            }
        }
    }

    /// Removes a container that is to remove itself, as it has ended.
    pub(super) async fn remove_itself(&self, id: &str) {
        if let Err(e) = self.remove(id, false).await
            && !matches!(e, crate::error::Error::NoSuchContainer { .. })
        {
            tracing::warn!(container = id, error = %e, "an exited container could not be removed");
        }
    }

    /// Starts what waits for it, once what it needs runs.
    pub(super) async fn restart(&self, slot: &Arc<Slot>, delay: Duration, restarts: u32) {
        self.await_needed(&slot.container()).await;
        let _op = slot.op.lock().await;
        // What a daemon that stops leaves waiting is the next one's.
        if slot.container().state != ContainerState::Restarting || self.stops_containers() {
            return;
        }
        if let Err(e) = self.start_locked(slot, delay, restarts).await {
            tracing::warn!(container = slot.id, error = %e, "a restart failed");
        }
    }
}
