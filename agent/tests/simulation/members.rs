//! What operators ask of nodes' roles and of autolock, until they are told that it is done.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use skep_manager::control::ControlHandle;
use skep_proto::v1;
use skep_proto::v1::control_server::Control;
use tonic::{Request, Status};

use crate::client::Record;
use crate::node::Node;

/// Gives a node another role.
pub struct RoleCommand {
    pub record: Arc<Record>,
    pub node: Arc<Node>,
    pub role: v1::NodeRole,
}

impl RoleCommand {
    pub async fn run(self, control: ControlHandle) {
        let told = match self.try_run(&control).await {
            Ok(()) => {
                self.node.manages.store(self.role == v1::NodeRole::Manager, Ordering::Relaxed);
                "done".to_owned()
            }
            Err(status) => status.message().to_owned(),
        };
        self.record.trace.add(format!("{} is to be a {:?}: {told}", self.node.name, self.role));
    }

    async fn try_run(&self, control: &ControlHandle) -> Result<(), Status> {
        let request = v1::ListNodesRequest { ids_or_names: vec![self.node.id()] };
        let nodes = self.record.timely("a read of nodes", control.list_nodes(Request::new(request)));
        let node = nodes.await?.into_inner().nodes.pop().ok_or_else(|| Status::not_found("not listed"))?;
        let mut spec = node.spec.unwrap_or_default();
        spec.set_role(self.role);
        let version = node.meta.map_or(0, |m| m.version);
        let request = v1::UpdateNodeRequest { id: node.id, version, spec: Some(spec) };
        let call = control.update_node(Request::new(request));
        self.record.timely("a change of role", call).await.map(drop)
    }
}

/// What is asked of autolock.
#[derive(Clone, Copy, Debug)]
pub enum Lock {
    On,
    Off,
    /// Another key.
    Rotate,
}

/// Locks the swarm, unlocks it, or changes its key.
pub struct LockCommand {
    pub record: Arc<Record>,
    pub lock: Lock,
}

impl LockCommand {
    pub async fn run(self, control: ControlHandle) {
        let told = match self.try_run(&control).await {
            Ok(()) => "done".to_owned(),
            Err(status) => status.message().to_owned(),
        };
        self.record.trace.add(format!("autolock {:?}: {told}", self.lock));
    }

    async fn try_run(&self, control: &ControlHandle) -> Result<(), Status> {
        let call = control.get_cluster(Request::new(v1::GetClusterRequest {}));
        let cluster = self.record.timely("a read of the cluster", call).await?.into_inner().cluster;
        let cluster = cluster.ok_or_else(|| Status::not_found("no cluster"))?;
        let mut spec = cluster.spec.unwrap_or_default();
        match self.lock {
            Lock::On => spec.autolock = true,
            Lock::Off => spec.autolock = false,
            Lock::Rotate => {}
        }
        let request = v1::UpdateClusterRequest {
            version: cluster.meta.map_or(0, |m| m.version),
            spec: Some(spec),
            rotate_unlock_key: matches!(self.lock, Lock::Rotate),
            ..Default::default()
        };
        let call = control.update_cluster(Request::new(request));
        self.record.timely("an update of the cluster", call).await.map(drop)
    }
}

/// How long an operator waits before the same is asked again.
pub const AGAIN: Duration = Duration::from_millis(500);
