//! The two ends of tunnels to the containers of tasks: the manager's, as the API asks for it, and the node's, which
//! serves the API.

use async_trait::async_trait;
use skep_agent::Tunnel;
use skep_api::swarm::Tunnels;
use skep_api::{ApiResult, ApiState};
use skep_manager::tunnels::TunnelsHandle;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// A manager's.
pub struct OfManager(pub TunnelsHandle);

#[async_trait]
impl Tunnels for OfManager {
    async fn reach(&self, node_id: &str, task_id: &str) -> ApiResult<DuplexStream> {
        self.0.reach(node_id, task_id).await.map_err(Into::into)
    }
}

/// Serves what comes through tunnels, until the daemon stops.
pub async fn serve(mut tunnels: mpsc::Receiver<Tunnel>, state: ApiState) {
    let mut open = JoinSet::new();
    while let Some(Tunnel { task_id, io }) = tunnels.recv().await {
        while open.try_join_next().is_some() {}
        open.spawn(skep_api::serve_task(io, task_id, state.clone()));
    }
}
