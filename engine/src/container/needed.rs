//! Containers that another one needs in order to start: those it is linked to, and those whose namespaces it shares.

use std::time::Duration;

use crate::config::{Container, ContainerState, IpcMode, NetworkMode, PidMode};
use crate::engine::Engine;

/// How long one that is about to start is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

impl Engine {
    /// Waits for those of them that are about to start, so that what ended together starts together again. What does
    /// not run after all is for the start to tell.
    pub(super) async fn await_needed(&self, c: &Container) {
        let given_up = tokio::time::Instant::now() + PATIENCE;
        for other in needed(c).filter_map(|name| self.table().find(name).ok()) {
            let mut life = other.life.subscribe();
            let there = life.wait_for(|_| !is_coming(&other.container()));
            // Beyond that the start says what is missing.
            let _ = tokio::time::timeout_at(given_up, there).await;
        }
    }
}

fn needed(c: &Container) -> impl Iterator<Item = &str> {
    let g = &c.config;
    let network = match &g.network {
        NetworkMode::Container(other) => Some(other),
        _ => None,
    };
    let pid = match &g.pid_mode {
        PidMode::Container(other) => Some(other),
        _ => None,
    };
    let ipc = match &g.ipc_mode {
        Some(IpcMode::Container(other)) => Some(other),
        _ => None,
    };
    g.links.iter().map(|(target, _)| target).chain(network).chain(pid).chain(ipc).map(String::as_str)
}

/// It waits for its restart, or the end of its last run has not been dealt with.
fn is_coming(c: &Container) -> bool {
    c.state == ContainerState::Restarting || (c.state == ContainerState::Running && c.pid.is_none())
}
