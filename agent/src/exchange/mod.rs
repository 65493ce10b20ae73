//! Images between nodes, without a registry: this node serves what it has of them to the others, and takes from them
//! what its tasks need, piece by piece from several at once. Managers know who has what because they ask.
//!
//! Who asks has a certificate of the swarm, and gets of images only that which a manager has asked for lately, because
//! some task needs it. What comes is checked against the image's own digests, whoever sent it.

mod fetch;
mod picker;
mod rate;
mod server;
mod source;
mod whereabouts;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use skep_engine::{Images, Makeup, Share};
use skep_identity::{Identity, Network};
use skep_proto::{defaults, v1};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::remotes::Remotes;
pub use fetch::FetchError;
use rate::Rate;
pub use server::Listening;

/// How long an image is there for other nodes after a manager has asked about it.
const OFFERED: Duration = Duration::from_secs(3600);
/// How long what has come of an image is kept once nobody brings the rest.
const KEPT: Duration = Duration::from_secs(600);
/// Pieces sent at once.
const READS: usize = 16;

/// This node's part in handing images around. Cheap to clone; does nothing until it listens.
#[derive(Clone, Debug)]
pub struct Exchange(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    images: Images,
    rate: Rate,
    reads: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// While this node is part of a swarm, and which listening it is that of.
    link: Option<(u64, Link)>,
    /// Cancelled once this node is no part of that swarm any more.
    left: CancellationToken,
    /// Images by ID that others may open, and until when.
    offered: HashMap<String, Instant>,
    /// Images by ID that others have open.
    open: HashMap<String, Weak<Share>>,
    /// Images by ID that are on their way here.
    incoming: HashMap<String, Incoming>,
    /// One transfer for each name at a time.
    turns: HashMap<String, Weak<tokio::sync::Mutex<()>>>,
}

#[derive(Debug)]
struct Incoming {
    /// As the task names it.
    name: String,
    share: Arc<Share>,
    /// When it was last worked on.
    used: Instant,
}

/// How other nodes and managers are reached.
#[derive(Clone, Debug)]
struct Link {
    identity: Identity,
    network: Streams,
    manager: watch::Receiver<Option<Channel>>,
    /// Those that this node knows.
    remotes: Arc<Remotes>,
}

#[derive(Clone)]
struct Streams(Arc<dyn Network>);

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("network")
    }
}

impl Exchange {
    /// Of the images of one engine; `rate` is how many bytes a second are sent at most.
    pub fn new(images: Images, rate: Option<u64>) -> Self {
        let reads = Arc::new(Semaphore::new(READS));
        Self(Arc::new(Inner { images, rate: Rate::new(rate), reads, state: Mutex::default() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn images(&self) -> &Images {
        &self.0.images
    }

    /// Serves the other nodes at an address, on the port that is meant for it or else on a free one, until what is
    /// returned is dropped.
    ///
    /// # Errors
    /// Nothing can listen there.
    pub async fn listen(
        &self,
        identity: &Identity,
        network: &Arc<dyn Network>,
        ip: IpAddr,
    ) -> io::Result<Listening> {
        let meant = SocketAddr::new(ip, defaults::EXCHANGE_PORT).to_string();
        let listener = match network.bind(&meant).await {
            Ok(listener) => listener,
            Err(error) => {
                let listener = network.bind(&SocketAddr::new(ip, 0).to_string()).await?;
                let port = listener.local_addr()?.port();
                tracing::warn!(
                    %error, port,
                    "TCP port {} cannot be had: images go to other nodes from another port, which has to be open between them", defaults::EXCHANGE_PORT
                );
                listener
            }
        };
        Listening::start(self.clone(), identity, network, listener)
    }

    /// What is there of an image under way, by ID.
    fn incoming(&self, id: &str) -> Option<Arc<Share>> {
        self.state().incoming.get(id).map(|i| i.share.clone())
    }
}

fn makeup_to_proto(makeup: &Makeup) -> v1::ImageMakeup {
    let info = |(digest, size): &(String, u64)| v1::BlobInfo { digest: digest.clone(), size: *size };
    v1::ImageMakeup {
        config: makeup.config.clone(),
        blobs: makeup.blobs.iter().map(info).collect(),
        documents: makeup.documents.clone(),
    }
}

fn makeup_from_proto(makeup: v1::ImageMakeup) -> Makeup {
    Makeup {
        config: makeup.config,
        blobs: makeup.blobs.into_iter().map(|b| (b.digest, b.size)).collect(),
        documents: makeup.documents,
    }
}

/// Bit i % 8 of byte i / 8.
fn packed(pieces: &[bool]) -> Vec<u8> {
    let byte =
        |eight: &[bool]| eight.iter().enumerate().fold(0, |byte, (i, there)| byte | u8::from(*there) << i);
    pieces.chunks(8).map(byte).collect()
}

fn is_set(packed: &[u8], piece: usize) -> bool {
    packed.get(piece / 8).is_some_and(|byte| byte >> (piece % 8) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_packed_eight_to_a_byte() {
        let pieces = [true, false, false, true, false, false, false, true, true];
        let bytes = packed(&pieces);
        assert_eq!(bytes, [0b1000_1001, 1]);
        assert!(pieces.iter().enumerate().all(|(i, there)| is_set(&bytes, i) == *there));
        assert!(!is_set(&bytes, 9) && !is_set(&bytes, 1 << 40));
    }
}
