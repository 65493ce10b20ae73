//! Tunnels to the containers of tasks. This manager opens one to a node that listens here, or else through the
//! manager that the node listens at, which passes the frames on. Each has a connection of its own on every leg: one
//! that nobody reads from must not hold up heartbeats. Nothing of it is replicated.

mod reach;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use skep_proto::v1::tunnel_frame::Kind;
use skep_proto::v1::{self, TunnelFrame, TunnelOpen, tunnels_server::Tunnels};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::authority;
use crate::context::Context;
use crate::listeners::Listeners;

/// How long a node may take to take a tunnel.
const TAKEN: Duration = Duration::from_secs(5);
/// Frames on their way in one direction.
const FRAMES: usize = 4;

type Frames = ReceiverStream<Result<TunnelFrame, Status>>;

/// The tunnels of this manager. Cheap to clone.
#[derive(Clone)]
pub struct TunnelsHandle {
    ctx: Arc<Context>,
    state: Arc<Mutex<State>>,
    stop: CancellationToken,
}

#[derive(Default)]
struct State {
    /// Agents that listen here.
    listeners: Listeners<v1::TunnelOffer>,
    /// Offered and not taken yet.
    offers: HashMap<String, Offer>,
}

struct Offer {
    node: String,
    taken: oneshot::Sender<Taken>,
}

/// The node's end of a tunnel.
struct Taken {
    from: Streaming<TunnelFrame>,
    to: mpsc::Sender<Result<TunnelFrame, Status>>,
}

/// Takes an offer back when dropped.
struct Offered<'a> {
    handle: &'a TunnelsHandle,
    id: String,
}

impl Drop for Offered<'_> {
    fn drop(&mut self) {
        self.handle.lock().offers.remove(&self.id);
    }
}

impl TunnelsHandle {
    pub(crate) fn new(ctx: Arc<Context>, stop: CancellationToken) -> Self {
        Self { ctx, state: Arc::default(), stop }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Offers a tunnel to a node that listens here; NOT_FOUND if it does not.
    async fn offer(&self, open: &TunnelOpen) -> Result<Taken, Status> {
        let id = self.ctx.new_id();
        let (taken, arrives) = oneshot::channel();
        let _offered = {
            let mut state = self.lock();
            let offer = v1::TunnelOffer { id: id.clone(), task_id: open.task_id.clone() };
            if !state.listeners.tell(&open.node_id, offer) {
                return Err(Status::not_found(format!("node {} does not listen here", open.node_id)));
            }
            state.offers.insert(id.clone(), Offer { node: open.node_id.clone(), taken });
            Offered { handle: self, id }
        };
        match tokio::time::timeout(TAKEN, arrives).await {
            Ok(Ok(taken)) => Ok(taken),
            _ => Err(Status::unavailable(format!("node {} did not answer within {TAKEN:?}", open.node_id))),
        }
    }
}

/// Passes frames on as they are. Ends with the first direction: the ends of a tunnel leave once both have ended.
async fn relay(
    mut from: Streaming<TunnelFrame>,
    to: mpsc::Sender<Result<TunnelFrame, Status>>,
    mut taken: Taken,
) {
    async fn pass(from: &mut Streaming<TunnelFrame>, to: mpsc::Sender<Result<TunnelFrame, Status>>) {
        while let Ok(Some(frame)) = from.message().await {
            if to.send(Ok(frame)).await.is_err() {
                return;
            }
        }
    }
    tokio::select! {
        () = pass(&mut from, taken.to) => {}
        () = pass(&mut taken.from, to) => {}
    }
}

async fn first(stream: &mut Streaming<TunnelFrame>) -> Result<Option<Kind>, Status> {
    match tokio::time::timeout(TAKEN, stream.message()).await {
        Ok(frame) => Ok(frame?.and_then(|f| f.kind)),
        Err(_) => Err(Status::deadline_exceeded(format!("no first frame of a tunnel within {TAKEN:?}"))),
    }
}

#[tonic::async_trait]
impl Tunnels for TunnelsHandle {
    type OpenStream = Frames;
    type ListenStream = ReceiverStream<Result<v1::TunnelOffer, Status>>;
    type TakeStream = Frames;

    async fn open(
        &self,
        request: Request<Streaming<TunnelFrame>>,
    ) -> Result<Response<Self::OpenStream>, Status> {
        authority::manager(self.ctx.store(), request.extensions())?;
        let mut from = request.into_inner();
        let Some(Kind::Open(open)) = first(&mut from).await? else {
            return Err(Status::invalid_argument("a tunnel begins with the node and the task it is for"));
        };
        let taken = self.offer(&open).await?;
        let (to, frames) = mpsc::channel(FRAMES);
        let stop = self.stop.clone();
        tokio::spawn(async move { stop.run_until_cancelled(relay(from, to, taken)).await });
        Ok(Response::new(ReceiverStream::new(frames)))
    }

    async fn listen(&self, request: Request<v1::Empty>) -> Result<Response<Self::ListenStream>, Status> {
        let node = String::from(authority::node(self.ctx.store(), request.extensions())?.node_id);
        let (tx, rx) = mpsc::channel(256);
        let number = self.lock().listeners.enter(&node, tx.clone());
        let handle = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = tx.closed() => {}
                () = handle.stop.cancelled() => {}
            }
            handle.lock().listeners.leave(&node, number);
        });
        Ok(Response::new(ReceiverStream::new(rx)))
    }

    async fn take(
        &self,
        request: Request<Streaming<TunnelFrame>>,
    ) -> Result<Response<Self::TakeStream>, Status> {
        let node = String::from(authority::node(self.ctx.store(), request.extensions())?.node_id);
        let mut from = request.into_inner();
        let Some(Kind::Take(id)) = first(&mut from).await? else {
            return Err(Status::invalid_argument("the first frame names the tunnel that is taken"));
        };
        let gone = || Status::not_found(format!("no tunnel {id} is offered to node {node}: it was given up"));
        let offer = {
            let mut state = self.lock();
            // Another node's stays where it is.
            let own = state.offers.get(&id).is_some_and(|o| o.node == node);
            own.then(|| state.offers.remove(&id)).flatten()
        };
        let (to, frames) = mpsc::channel(FRAMES);
        offer.ok_or_else(gone)?.taken.send(Taken { from, to }).map_err(|_| gone())?;
        Ok(Response::new(ReceiverStream::new(frames)))
    }
}
