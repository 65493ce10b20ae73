//! Takes the tunnels that managers open to the containers of this node's tasks. Only a manager can offer one: it
//! comes over the connection of the session. Each has a connection of its own, so that one that nobody reads from
//! holds nothing else up.

use std::sync::Arc;

use skep_identity::{Identity, Network, Role, TUNNEL_BUFFER, tunnel};
use skep_proto::v1::tunnel_frame::Kind;
use skep_proto::v1::{self, TunnelFrame, tunnels_client::TunnelsClient};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// A manager's connection to this node's API, on behalf of one task.
pub struct Tunnel {
    /// The task whose container it is for.
    pub task_id: String,
    /// What the manager says, and hears.
    pub io: DuplexStream,
}

/// Where tunnels come from, and who serves them.
pub(crate) struct From<'a> {
    pub identity: &'a Identity,
    pub network: &'a Arc<dyn Network>,
    /// The manager's.
    pub addr: &'a str,
    pub served: &'a mpsc::Sender<Tunnel>,
}

/// Takes what the manager at the other end of `channel` offers, until that connection ends.
pub(crate) async fn listen(
    channel: Channel,
    from: &From<'_>,
    open: &mut JoinSet<()>,
) -> Result<(), tonic::Status> {
    let mut offers = TunnelsClient::new(channel).listen(v1::Empty {}).await?.into_inner();
    while let Some(offer) = offers.message().await? {
        while open.try_join_next().is_some() {}
        let own = skep_identity::channel(from.identity, from.network, from.addr, Role::Manager);
        let served = from.served.clone();
        open.spawn(async move {
            let task = offer.task_id.clone();
            if let Err(e) = take(own, offer, served).await {
                tracing::info!(%task, error = %e, "a tunnel to this task's container was not taken");
            }
        });
    }
    Ok(())
}

async fn take(
    channel: Channel,
    offer: v1::TunnelOffer,
    served: mpsc::Sender<Tunnel>,
) -> Result<(), tonic::Status> {
    let (to, frames) = mpsc::channel(4);
    // The channel is new, and has room.
    let _ = to.try_send(TunnelFrame { kind: Some(Kind::Take(offer.id)) });
    let from = TunnelsClient::new(channel).take(ReceiverStream::new(frames)).await?.into_inner();
    let (near, far) = tokio::io::duplex(TUNNEL_BUFFER);
    let gone = |_| tonic::Status::unavailable("this daemon stops");
    served.send(Tunnel { task_id: offer.task_id, io: far }).await.map_err(gone)?;
    tunnel(near, from, to, std::convert::identity).await;
    Ok(())
}
