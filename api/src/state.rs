//! What every handler is given: the handles of the daemon's parts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use skep_engine::Engine;
use skep_overlay::DataPlane;

use crate::error::{ApiError, ApiResult};
use crate::swarm::{ControlHandle, LocalState, LogsHandle, Swarm, SwarmError};
use crate::under_way::UnderWay;

/// What the daemon says of itself.
#[derive(Clone, Debug, Default)]
pub struct DaemonInfo {
    /// Skep's version.
    pub version: String,
    /// Commit it was built from, as far as known.
    pub git_commit: String,
    /// When it was built, as far as known.
    pub build_time: String,
    /// Identifier of this daemon, kept under its data root.
    pub id: String,
    /// Where it keeps its state.
    pub data_root: PathBuf,
    /// Labels of the engine (`key=value`).
    pub labels: Vec<String>,
    /// Generic resources of this host, as its node has them in a swarm.
    pub generic: Vec<skep_proto::v1::GenericResource>,
    /// What is told of the seccomp filter of containers that name none: `builtin`, `unconfined`, or a file.
    pub seccomp_profile: String,
    /// Whether containers outlive the daemon.
    pub live_restore: bool,
    /// Options of new networks that do not give them themselves, by driver.
    pub network_options: BTreeMap<String, BTreeMap<String, String>>,
    /// Whether it logs at level debug.
    pub debug: bool,
    /// Whether it tells clients that they may use what Docker calls experimental.
    pub experimental: bool,
}

/// The handles; cheap to clone.
#[derive(Clone)]
pub struct ApiState(Arc<Inner>);

struct Inner {
    engine: Engine,
    dataplane: DataPlane,
    swarm: Arc<dyn Swarm>,
    info: ArcSwap<DaemonInfo>,
    under_way: UnderWay,
}

impl ApiState {
    /// Puts the handles together.
    pub fn new(engine: Engine, dataplane: DataPlane, swarm: Arc<dyn Swarm>, info: DaemonInfo) -> Self {
        let (info, under_way) = (ArcSwap::from_pointee(info), UnderWay::default());
        Self(Arc::new(Inner { engine, dataplane, swarm, info, under_way }))
    }

    /// What requests have begun, with or without a client that waits for it.
    pub(crate) fn under_way(&self) -> &UnderWay {
        &self.0.under_way
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    pub(crate) fn dataplane(&self) -> &DataPlane {
        &self.0.dataplane
    }

    pub(crate) fn swarm(&self) -> &dyn Swarm {
        self.0.swarm.as_ref()
    }

    pub(crate) fn info(&self) -> Arc<DaemonInfo> {
        self.0.info.load_full()
    }

    /// The daemon's identifier.
    pub fn id(&self) -> String {
        self.info().id.clone()
    }

    /// What the daemon says of itself from now on, after its configuration was read again.
    pub fn reload(&self, change: impl Fn(&mut DaemonInfo)) {
        self.0.info.rcu(|old| {
            let mut new = DaemonInfo::clone(old);
            change(&mut new);
            new
        });
    }

    /// The control service, or why this node has none, in Docker's words.
    pub(crate) fn control(&self) -> ApiResult<ControlHandle> {
        self.swarm().control().ok_or_else(|| self.not_a_manager())
    }

    /// The log service, likewise.
    pub(crate) fn logs(&self) -> ApiResult<LogsHandle> {
        self.swarm().logs().ok_or_else(|| self.not_a_manager())
    }

    pub(crate) fn not_a_manager(&self) -> ApiError {
        let local = self.swarm().local();
        ApiError::unavailable(match local.state {
            LocalState::Locked => SwarmError::Locked.to_string(),
            LocalState::Inactive => {
                "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.".to_owned()
            }
            LocalState::Pending | LocalState::Error if !local.error.is_empty() => {
                format!("This node is not a swarm manager: it is {} ({}). Wait, or leave the swarm with \"docker swarm leave --force\".", local.state.as_str(), local.error)
            }
            LocalState::Active | LocalState::Pending | LocalState::Error => {
                "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this command on a manager node or promote the current node to a manager.".to_owned()
            }
        })
    }
}
