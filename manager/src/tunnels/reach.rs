//! This manager's own end of a tunnel.

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use skep_identity::{Role, TUNNEL_BUFFER, tunnel};
use skep_proto::v1::tunnel_frame::Kind;
use skep_proto::v1::{self, TunnelFrame, TunnelOpen, tunnels_client::TunnelsClient};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::{FRAMES, TunnelsHandle};

/// A tunnel through another manager: what comes from the node, and what goes to it.
type Through = (Streaming<TunnelFrame>, mpsc::Sender<TunnelFrame>);

impl TunnelsHandle {
    /// A connection to what the node's agent does with tunnels to this task.
    ///
    /// # Errors
    /// UNAVAILABLE: the node is down, or in touch with no manager that answers. UNIMPLEMENTED: its Skep is too old.
    pub async fn reach(&self, node_id: &str, task_id: &str) -> Result<DuplexStream, Status> {
        let shown = self.check(node_id)?;
        let open = TunnelOpen { node_id: node_id.to_owned(), task_id: task_id.to_owned() };
        let (near, far) = tokio::io::duplex(TUNNEL_BUFFER);
        let stop = self.stop.clone();
        match self.offer(&open).await {
            Ok(taken) => {
                let joined = tunnel(far, taken.from, taken.to, Ok);
                tokio::spawn(async move { stop.run_until_cancelled(joined).await });
            }
            Err(e) if e.code() == Code::NotFound => {
                let (from, to) = self.through_others(&open, &shown).await?;
                let joined = tunnel(far, from, to, std::convert::identity);
                tokio::spawn(async move { stop.run_until_cancelled(joined).await });
            }
            Err(e) => {
                return Err(Status::unavailable(format!(
                    "{shown} cannot be reached: {}; try again",
                    e.message()
                )));
            }
        }
        Ok(near)
    }

    /// What to call the node, if it can take a tunnel.
    fn check(&self, node_id: &str) -> Result<String, Status> {
        let view = self.ctx.view();
        let node = view.node(node_id).ok_or_else(|| {
            Status::unavailable(format!(
                "node {node_id} is not part of the swarm any more, and its containers with it"
            ))
        })?;
        let description = node.description.clone().unwrap_or_default();
        let shown = format!("node {} ({node_id})", description.hostname);
        if node.state() != v1::NodeState::Ready {
            let why = if node.message.is_empty() { String::new() } else { format!(" ({})", node.message) };
            return Err(Status::unavailable(format!(
                "{shown} is not in touch with the swarm{why}: its containers can be reached once it is back"
            )));
        }
        if !description.takes_tunnels {
            return Err(Status::unimplemented(format!(
                "{shown} runs Skep {}, which does not let managers reach the containers of tasks: update it, or ask the node itself",
                description.engine_version
            )));
        }
        Ok(shown)
    }

    /// The first of the other managers that the node listens at.
    async fn through_others(&self, open: &TunnelOpen, shown: &str) -> Result<Through, Status> {
        let managers = self.ctx.other_managers();
        let mut attempts: FuturesUnordered<_> = managers.iter().map(|m| self.through(m, open)).collect();
        let mut reasons = Vec::new();
        while let Some(attempt) = attempts.next().await {
            match attempt {
                Ok(through) => return Ok(through),
                Err((_, e)) if e.code() == Code::NotFound => {}
                Err((m, e)) => {
                    reasons.push(format!("manager {}: {}", m.node_id, skep_identity::explain(&m.addr, &e)))
                }
            }
        }
        let why = match reasons.is_empty() {
            true => "it has just lost its manager".to_owned(),
            false => reasons.join("; "),
        };
        Err(Status::unavailable(format!("{shown} cannot be reached: {why}; try again")))
    }

    async fn through<'a>(
        &self,
        manager: &'a v1::RaftPeer,
        open: &TunnelOpen,
    ) -> Result<Through, (&'a v1::RaftPeer, Status)> {
        let (to, frames) = mpsc::channel(FRAMES);
        let first = TunnelFrame { kind: Some(Kind::Open(open.clone())) };
        // The channel is new, and has room.
        let _ = to.try_send(first);
        let ctx = &self.ctx;
        let channel = skep_identity::channel(&ctx.identity, &ctx.network, &manager.addr, Role::Manager);
        let answer = TunnelsClient::new(channel).open(ReceiverStream::new(frames)).await;
        answer.map(|from| (from.into_inner(), to)).map_err(|e| (manager, e))
    }
}
