//! One container in memory: what is shown, what is stored, and who waits for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

use super::attach::Pending;
use super::memory_files::FileContent;
use super::resolve::Plan;
use super::wait::Exit;
use crate::config::{Container, ContainerState};
use crate::health::HealthStatus;
use crate::mount::{MountConfig, MountKind};
use crate::shim::Shim;

/// What the metadata store keeps of a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) container: Container,
    pub(super) plan: Plan,
    /// Layers, bottom first.
    pub(crate) chain_ids: Vec<String>,
    pub(super) stopped_by_user: bool,
    /// Its last run was ended because the daemon stopped.
    #[serde(default)]
    pub(super) ended_with_daemon: bool,
}

impl Record {
    /// Names of the volumes it mounts.
    pub(crate) fn volumes(&self) -> Vec<String> {
        self.container.config.mounts.iter().filter_map(|m| m.volume().map(str::to_owned)).collect()
    }

    /// The images it mounts: their IDs and layers.
    pub(crate) fn mounted_images(&self) -> Vec<(String, Vec<String>)> {
        let of = |m: &MountConfig| match &m.kind {
            MountKind::Image { options, .. } => Some((options.id.clone(), options.chain_ids.clone())),
            _ => None,
        };
        self.container.config.mounts.iter().filter_map(of).collect()
    }
}

/// Where a container is, for those who wait.
#[derive(Clone, Debug, Default)]
pub(crate) struct Life {
    pub(crate) running: bool,
    /// Runs that ended.
    pub(super) exits: u64,
    pub(super) exit: Exit,
    pub(super) removed: bool,
    /// As of the last check; none = it is not checked.
    pub(super) health: Option<HealthStatus>,
}

#[derive(Default)]
pub(super) struct Volatile {
    pub(super) shim: Option<Arc<Shim>>,
    pub(super) stopped_by_user: bool,
    /// A user's restart has not come to its start: what removes itself at its end is started again instead.
    pub(super) restarting: bool,
    /// The last run ended as the daemon stopped: for the policy to start it with the next one.
    pub(super) ended_with_daemon: bool,
    /// Attached before the start.
    pub(super) pending: Vec<Pending>,
    pub(super) detach_network: bool,
    /// For the files of the start that is under way.
    pub(super) contents: Option<Vec<FileContent>>,
    /// More variables for that start, which no disk keeps.
    pub(super) variables: Vec<String>,
}

pub(crate) struct Slot {
    pub(super) id: String,
    shown: ArcSwap<Container>,
    pub(super) plan: Plan,
    pub(super) chain_ids: Vec<String>,
    volatile: Mutex<Volatile>,
    /// Held by whoever starts, removes, tidies up after an exit, or looks into a stopped container's files.
    pub(super) op: Arc<tokio::sync::Mutex<()>>,
    pub(crate) life: watch::Sender<Life>,
    /// Held over a user's restart: one after the other.
    pub(super) restart: Arc<tokio::sync::Mutex<()>>,
    /// Ends the wait before a restart.
    pub(super) no_restart: Notify,
}

impl Slot {
    pub(super) fn new(record: Record) -> Self {
        let c = &record.container;
        let exit = Exit { code: c.exit_code.unwrap_or(0), error: c.error.clone() };
        let life = Life { exit, health: c.health.as_ref().map(|h| h.status), ..Life::default() };
        Self {
            id: c.id.0.clone(),
            plan: record.plan,
            chain_ids: record.chain_ids,
            volatile: Mutex::new(Volatile {
                stopped_by_user: record.stopped_by_user,
                ended_with_daemon: record.ended_with_daemon,
                ..Volatile::default()
            }),
            op: Arc::default(),
            restart: Arc::default(),
            life: watch::Sender::new(life),
            no_restart: Notify::new(),
            shown: ArcSwap::from_pointee(record.container),
        }
    }

    pub(crate) fn container(&self) -> Arc<Container> {
        self.shown.load_full()
    }

    /// Changes what is shown; returns the new state of it.
    pub(super) fn update(&self, change: impl Fn(&mut Container)) -> Arc<Container> {
        self.shown.rcu(|old| {
            let mut new = Container::clone(old);
            change(&mut new);
            new
        });
        self.container()
    }

    pub(super) fn volatile(&self) -> MutexGuard<'_, Volatile> {
        self.volatile.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn shim(&self) -> Option<Arc<Shim>> {
        self.volatile().shim.clone()
    }

    pub(super) fn record(&self) -> Record {
        let (stopped_by_user, ended_with_daemon) = {
            let volatile = self.volatile();
            (volatile.stopped_by_user, volatile.ended_with_daemon)
        };
        Record {
            container: Container::clone(&self.container()),
            plan: self.plan.clone(),
            chain_ids: self.chain_ids.clone(),
            stopped_by_user,
            ended_with_daemon,
        }
    }

    pub(super) fn is_active(&self) -> bool {
        use ContainerState::{Paused, Restarting, Running};
        matches!(self.container().state, Running | Paused | Restarting)
    }
}
