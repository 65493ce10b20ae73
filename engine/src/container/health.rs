//! Checking the health of a container that runs: a command in it, again and again.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;

use super::exec::ExecConfig;
use super::slot::Slot;
use crate::config::ContainerState;
use crate::engine::Engine;
use crate::error::Error;
use crate::events::now_ns;
use crate::health::{Health, HealthConfig, HealthResult, HealthStatus, go_duration};

/// Longest output kept of a check.
const LONGEST_OUTPUT: usize = 4096;

impl Engine {
    /// A run begins: its health is not known yet.
    pub(super) fn reset_health(&self, slot: &Slot) {
        let checked = slot.container().config.health.as_ref().is_some_and(|h| h.command(&[]).is_some());
        slot.update(|c| {
            c.health = checked.then(|| Health {
                status: HealthStatus::Starting,
                failing_streak: 0,
                log: c.health.as_ref().map(|h| h.log.clone()).unwrap_or_default(),
            });
        });
        slot.life.send_modify(|l| l.health = checked.then_some(HealthStatus::Starting));
    }

    /// Checks until this run ends, if there is something to check.
    pub(super) fn watch_health(&self, slot: &Arc<Slot>) {
        let Some(config) = slot.container().config.health.clone() else { return };
        let Some(command) = config.command(&slot.plan.shell) else { return };
        let (engine, slot) = (self.clone(), slot.clone());
        tokio::spawn(async move {
            let mut life = slot.life.subscribe();
            let run = life.borrow_and_update().exits;
            let ended = async move {
                // An error: the container is gone.
                let _ = life.wait_for(|l| l.exits != run || !l.running || l.removed).await;
            };
            tokio::select! {
                () = engine.check_health(&slot, &config, &command) => {}
                () = ended => {}
                () = engine.closing().cancelled() => {}
            }
        });
    }

    async fn check_health(&self, slot: &Arc<Slot>, config: &HealthConfig, command: &[String]) {
        loop {
            let c = slot.container();
            let status = c.health.as_ref().map(|h| h.status).unwrap_or_default();
            let age = Duration::from_nanos(u64::try_from(now_ns() - c.started_at_ns).unwrap_or(0));
            tokio::time::sleep(config.pause(status, age)).await;
            // What is frozen answers nothing, and is not ill.
            if slot.container().state != ContainerState::Running {
                continue;
            }
            let start_ns = now_ns();
            self.metrics().health_checks.inc();
            let (exit_code, output) = match self.probe(slot, config, command).await {
                Ok(found) => found,
                Err(e) => (-1, e.to_string()),
            };
            if exit_code != 0 {
                self.metrics().health_checks_failed.inc();
            }
            let result = HealthResult { start_ns, end_ns: now_ns(), exit_code, output };
            self.record_health(slot, config, result);
        }
    }

    fn record_health(&self, slot: &Arc<Slot>, config: &HealthConfig, result: HealthResult) {
        let before = slot.container().health.as_ref().map(|h| h.status);
        let c = slot.update(|c| {
            let started = c.started_at_ns;
            if let Some(health) = &mut c.health {
                health.record(config, started, result.clone());
            }
        });
        let now = c.health.as_ref().map(|h| h.status);
        if let Some(status) = now.filter(|_| now != before) {
            // Only a change is worth the disk's time.
            self.store_later(slot);
            self.emit(slot, &format!("health_status: {}", status.as_str()), &[]);
            slot.life.send_modify(|l| l.health = Some(status));
        }
    }

    /// Runs the command once: its exit code and output.
    async fn probe(
        &self,
        slot: &Slot,
        config: &HealthConfig,
        command: &[String],
    ) -> Result<(i32, String), Error> {
        let exec = ExecConfig { argv: command.to_vec(), stdout: true, stderr: true, ..ExecConfig::default() };
        let timer = self.metrics().health_check_start.start_timer();
        let id = self.exec_create(&slot.id, exec)?;
        let mut output = self.exec_start(&id, None, true).await?.output;
        timer.observe_duration();
        let mut text = Vec::new();
        let mut cut = false;
        let read = async {
            while let Some(Ok(frame)) = output.next().await {
                let room = LONGEST_OUTPUT - text.len();
                cut |= frame.data.len() > room;
                text.extend_from_slice(&frame.data[..frame.data.len().min(room)]);
            }
        };
        let late = tokio::time::timeout(config.longest(), read).await.is_err();
        let mut text = String::from_utf8_lossy(&text).into_owned();
        if cut {
            text.push_str("...");
        }
        if !late {
            return Ok((self.exec_inspect(&id)?.exit_code.unwrap_or(-1), text));
        }
        if let Some(shim) = slot.shim()
            && let Err(e) = shim.signal_exec(&id, libc::SIGKILL).await
        {
            tracing::debug!(container = slot.id, error = %e, "a check that took too long has ended by itself");
        }
        // Dying checks must not pile up.
        while output.next().await.is_some() {}
        let limit = go_duration(config.longest());
        let colon = if text.is_empty() { "" } else { ": " };
        Ok((-1, format!("Health check exceeded timeout ({limit}){colon}{text}")))
    }

    /// Waits until its health is known, or it does not run any more: then none. None at once where health is
    /// not checked.
    pub fn wait_for_health(
        &self,
        id: &str,
        until: fn(HealthStatus) -> bool,
    ) -> Result<BoxFuture<'static, Option<HealthStatus>>, Error> {
        let slot = self.table().find(id)?;
        let mut life = slot.life.subscribe();
        drop(slot);
        Ok(Box::pin(async move {
            let reached = life.wait_for(|l| !l.running || l.removed || l.health.is_none_or(until)).await;
            reached.ok().filter(|l| l.running).and_then(|l| l.health)
        }))
    }
}
