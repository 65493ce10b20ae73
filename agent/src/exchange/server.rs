//! Serves what this node has of images to the other nodes of the swarm.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use skep_engine::Share;
use skep_identity::{Identity, Network, Role, require, require_any};
use skep_proto::v1::exchange_server::{Exchange as ExchangeService, ExchangeServer};
use skep_proto::v1::whereabouts_server::WhereaboutsServer;
use skep_proto::v1::{self, BlobChunk};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::{Exchange, Link, OFFERED, Streams, makeup_to_proto, packed};
use crate::remotes::Remotes;

/// Bytes of one message.
const CHUNK: usize = 64 << 10;
/// How long news of pieces gather before they are told.
const GATHER: Duration = Duration::from_millis(30);
/// Longest wait for a node to take the next message.
const TAKE: Duration = Duration::from_secs(20);

/// A node's exchange while the node is part of a swarm. Dropped, it ends.
#[derive(Debug)]
pub struct Listening {
    /// Tells it from one of an earlier membership, which may go a little later.
    number: u64,
    exchange: Exchange,
    identity: Identity,
    network: Streams,
    port: u16,
    _stop: DropGuard,
}

impl Listening {
    pub(super) fn start(
        exchange: Exchange,
        identity: &Identity,
        network: &Arc<dyn Network>,
        listener: Box<dyn skep_identity::Listener>,
    ) -> io::Result<Self> {
        let port = listener.local_addr()?.port();
        let stop = CancellationToken::new();
        exchange.state().left = stop.clone();
        let router = skep_identity::server()
            .add_service(ExchangeServer::new(exchange.clone()))
            .add_service(WhereaboutsServer::new(exchange.clone()));
        let incoming = skep_identity::incoming(identity, listener);
        let ended = stop.clone().cancelled_owned();
        tokio::spawn(async move {
            if let Err(error) = router.serve_with_incoming_shutdown(incoming, ended).await {
                tracing::error!(%error, "this node cannot hand its images to others any more");
            }
        });
        let (identity, network) = (identity.clone(), Streams(network.clone()));
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(Self { number, exchange, identity, network, port, _stop: stop.drop_guard() })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on images can be fetched, too: managers are asked over this channel who has them. Managers that this node
    /// does not find say where they are.
    pub(crate) fn join(&self, manager: watch::Receiver<Option<Channel>>, remotes: Arc<Remotes>) {
        let (identity, network) = (self.identity.clone(), self.network.clone());
        self.exchange.state().link = Some((self.number, Link { identity, network, manager, remotes }));
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut state = self.exchange.state();
        if state.link.as_ref().is_some_and(|(number, _)| *number != self.number) {
            return;
        }
        let incoming = std::mem::take(&mut state.incoming);
        state.link = None;
        state.offered.clear();
        state.open.clear();
        drop(state);
        drop(incoming);
    }
}

type Messages<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl ExchangeService for Exchange {
    type OpenStream = Messages<v1::OpenImageMessage>;
    type ReadStream = Messages<BlobChunk>;

    async fn locate(
        &self,
        request: Request<v1::LocateImageRequest>,
    ) -> Result<Response<v1::LocatedImage>, Status> {
        require(request.extensions(), Role::Manager)?;
        let image = request.into_inner().image;
        let (images, name) = (self.images().clone(), image.clone());
        let whole = tokio::task::spawn_blocking(move || images.locate(&name)).await;
        let mut state = self.state();
        let located = match whole.map_err(|e| Status::internal(e.to_string()))? {
            Some(whole) => v1::LocatedImage {
                image_id: whole.id,
                platform: Some(platform(&whole.platform)),
                created_ns: whole.created_at_ns,
                size: whole.size,
                complete: true,
            },
            None => {
                let coming = state.incoming.iter().find(|(_, i)| i.name == image);
                let (id, coming) =
                    coming.ok_or_else(|| Status::not_found(format!("this node has no image {image}")))?;
                v1::LocatedImage {
                    image_id: id.clone(),
                    platform: Some(platform(&coming.share.platform())),
                    ..Default::default()
                }
            }
        };
        let now = Instant::now();
        state.offered.retain(|_, until| *until > now);
        state.offered.insert(located.image_id.clone(), now + OFFERED);
        Ok(Response::new(located))
    }

    async fn open(
        &self,
        request: Request<v1::OpenImageRequest>,
    ) -> Result<Response<Self::OpenStream>, Status> {
        let peer = require_any(request.extensions())?;
        let id = request.into_inner().image_id;
        let share = self.share(&id).await?;
        tracing::debug!(image = id, node = %peer.node_id, "another node takes an image from this one");
        let (tx, rx) = mpsc::channel(4);
        // Who listens for ever would otherwise hold the image, and the connection, beyond this node's membership.
        let left = self.state().left.clone();
        tokio::spawn(async move { left.run_until_cancelled(tell(&share, &tx)).await });
        Ok(Response::new(ReceiverStream::new(rx)))
    }

    async fn read(
        &self,
        request: Request<v1::ReadBlobRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        require_any(request.extensions())?;
        let v1::ReadBlobRequest { image_id, blob, offset, length } = request.into_inner();
        let share = self.state().open.get(&image_id).and_then(std::sync::Weak::upgrade);
        let share = share.ok_or_else(|| Status::not_found(format!("image {image_id} is not open here")))?;
        let gone = |_| Status::unavailable("this node's daemon is stopping");
        let permit = self.0.reads.clone().acquire_owned().await.map_err(gone)?;
        let read = tokio::task::spawn_blocking(move || share.read(blob as usize, offset, length)).await;
        let read = read.map_err(|e| Status::internal(e.to_string()))?;
        let read = read.map_err(|e| {
            tracing::error!(image = image_id, error = %e, "an image cannot be handed to another node");
            Status::internal(e.to_string())
        })?;
        let mut bytes = bytes::Bytes::from(read.ok_or_else(|| Status::out_of_range("that is not here"))?);
        let (tx, rx) = mpsc::channel(4);
        let exchange = self.clone();
        tokio::spawn(async move {
            let _permit = permit;
            while !bytes.is_empty() {
                let data = bytes.split_to(CHUNK.min(bytes.len()));
                exchange.0.rate.pass(data.len()).await;
                if !matches!(tokio::time::timeout(TAKE, tx.send(Ok(BlobChunk { data }))).await, Ok(Ok(()))) {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(rx)))
    }
}

impl Exchange {
    /// An image that others may have.
    async fn share(&self, id: &str) -> Result<Arc<Share>, Status> {
        {
            let mut state = self.state();
            if state.offered.get(id).is_none_or(|until| *until < Instant::now()) {
                let why = format!("no manager has asked this node for image {id}");
                return Err(Status::permission_denied(why));
            }
            state.open.retain(|_, share| share.strong_count() > 0);
            let there = state.open.get(id).and_then(std::sync::Weak::upgrade);
            if let Some(share) = there.or_else(|| state.incoming.get(id).map(|i| i.share.clone())) {
                state.open.insert(id.to_owned(), Arc::downgrade(&share));
                return Ok(share);
            }
        }
        let (images, asked) = (self.images().clone(), id.to_owned());
        let share = tokio::task::spawn_blocking(move || images.share(&asked)).await;
        let share = share.map_err(|e| Status::internal(e.to_string()))?;
        let share = share.map_err(|e| Status::not_found(e.to_string()))?;
        self.state().open.insert(id.to_owned(), Arc::downgrade(&share));
        Ok(share)
    }
}

fn platform(platform: &skep_registry::Platform) -> v1::Platform {
    v1::Platform { os: platform.os.clone(), architecture: platform.architecture.clone() }
}

/// Tells a node what an image is made of and what comes of it, for as long as that node listens. The image is kept
/// meanwhile.
async fn tell(share: &Arc<Share>, tx: &mpsc::Sender<Result<v1::OpenImageMessage, Status>>) {
    let mut growth: Vec<_> = share.partials().map(|(_, partial)| partial.growth()).collect();
    let mut told: Vec<Vec<bool>> = growth.iter().map(|_| Vec::new()).collect();
    let mut makeup = Some(makeup_to_proto(share.makeup()));
    loop {
        growth.iter_mut().for_each(|g| drop(g.borrow_and_update()));
        let mut partial = Vec::new();
        if makeup.is_some() {
            let none = |blob: usize| v1::BlobPieces { blob: blob as u32, pieces: Vec::new() };
            partial.extend(share.withheld().map(none));
        }
        for ((blob, now), told) in share.partials().zip(&mut told) {
            let pieces = now.pieces();
            if makeup.is_some() || *told != pieces {
                partial.push(v1::BlobPieces { blob: blob as u32, pieces: packed(&pieces) });
                *told = pieces;
            }
        }
        let message = v1::OpenImageMessage { makeup: makeup.take(), partial };
        if tx.send(Ok(message)).await.is_err() {
            return;
        }
        if growth.is_empty() || told.iter().flatten().all(|there| *there) {
            return tx.closed().await;
        }
        let grown = futures::future::select_all(growth.iter_mut().map(|g| Box::pin(g.changed())));
        tokio::select! {
            _ = grown => tokio::time::sleep(GATHER).await,
            () = tx.closed() => return,
        }
    }
}
