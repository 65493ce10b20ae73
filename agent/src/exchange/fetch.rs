//! Brings an image that a task needs from other nodes: several at once, others when one is lost, and only one at a time
//! once what came was damaged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use skep_engine::{Reference, Share};
use skep_proto::v1::dispatcher_client::DispatcherClient;
use skep_proto::v1::{self, ImageHolder};
use skep_registry::Platform;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::picker::Picker;
use super::source::{self, Ended};
use super::{Exchange, Incoming, KEPT, Link, makeup_from_proto};

/// Nodes taken from at once.
const SOURCES: usize = 8;
/// How long nothing at all may come before it is given up.
const PATIENCE: Duration = Duration::from_secs(30);
/// First and longest pause before managers are asked for further nodes.
const AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));
/// Pause before a node that was lost is tried again.
const LOST: Duration = Duration::from_secs(1);
/// Longest wait for a manager, and for its answer.
const MANAGER: Duration = Duration::from_secs(8);
/// Times a manager is asked whose state is a little behind.
const ASKED: u32 = 3;

/// Why an image did not come from other nodes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// This node is in no swarm, or has no part in handing images around.
    #[error("this node takes no images from other nodes")]
    Alone,
    /// Nobody knows who has it.
    #[error("no manager says which nodes of the swarm have it: {0}")]
    NoManager(String),
    /// No node in reach has it.
    #[error("no node of the swarm in reach has it")]
    NobodyHas,
    /// It did not come.
    #[error("the nodes of the swarm that have it could not give it: {0}")]
    Failed(String),
}

/// How an attempt failed.
enum Failed {
    /// By what came, from so many nodes.
    Damaged(String, Vec<String>),
    Otherwise(String),
}

impl Exchange {
    /// Whether images can come from other nodes at all.
    pub(crate) fn is_linked(&self) -> bool {
        self.state().link.is_some()
    }

    /// Brings an image, as a task names it, from other nodes. Dropped before its end, what has come is kept for some
    /// minutes: asked for again, it goes on.
    pub(crate) async fn fetch(&self, image: &str) -> Result<(), FetchError> {
        let (_, link) = self.state().link.clone().ok_or(FetchError::Alone)?;
        let reference = Reference::parse(image).map_err(|e| FetchError::Failed(e.to_string()))?.or_latest();
        let turn = self.turn(image);
        let _turn = turn.lock().await;
        if self.images().resolve(image).is_ok() {
            return Ok(());
        }
        // A tag stays the user's: by a digest, an image is known by that alone, as when it is pulled.
        let tag = reference.tag.clone().filter(|_| reference.digest.is_none());
        let name = Reference { tag, ..reference };
        let (mut alone, mut damaged) = (false, BTreeMap::new());
        loop {
            let holders = find(&link, image).await.map_err(FetchError::NoManager)?;
            let holders: Vec<_> = holders.into_iter().filter(|h| !damaged.contains_key(&h.node_id)).collect();
            let Some(id) = chosen(&holders) else {
                return Err(match damaged.into_iter().next() {
                    Some((node, why)) => FetchError::Failed(format!("node {node}: {why}")),
                    None => FetchError::NobodyHas,
                });
            };
            let of_id = |h: &&ImageHolder| h.image.as_ref().is_some_and(|i| i.image_id == id);
            let mut seeds: Vec<_> = holders.iter().filter(of_id).cloned().collect();
            if alone {
                // What a node is still fetching itself is nobody's word.
                seeds.retain(|h| h.image.as_ref().is_some_and(|i| i.complete));
                seeds.truncate(1);
                if seeds.is_empty() {
                    let why = "what came was damaged, and no node in reach has all of it".to_owned();
                    return Err(FetchError::Failed(why));
                }
            }
            match self.bring(&link, image, &id, &name, seeds, alone).await {
                Ok(()) => return Ok(()),
                Err(Failed::Otherwise(why)) => return Err(FetchError::Failed(why)),
                Err(Failed::Damaged(why, by)) => {
                    tracing::warn!(
                        image,
                        nodes = by.join(", "),
                        error = why,
                        "what other nodes sent of an image is refused"
                    );
                    let refused = self.state().incoming.remove(&id);
                    drop(refused);
                    if let [only] = by.as_slice() {
                        damaged.insert(only.clone(), why);
                    } else if alone || by.is_empty() {
                        return Err(FetchError::Failed(why));
                    }
                    alone = true;
                }
            }
        }
    }

    fn turn(&self, image: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut state = self.state();
        state.turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = state.turns.get(image).and_then(std::sync::Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        state.turns.insert(image.to_owned(), Arc::downgrade(&turn));
        turn
    }

    async fn bring(
        &self,
        link: &Link,
        image: &str,
        id: &str,
        name: &Reference,
        seeds: Vec<ImageHolder>,
        alone: bool,
    ) -> Result<(), Failed> {
        let share = match self.incoming(id) {
            Some(share) => share,
            None => self.begin(link, image, id, &seeds).await?,
        };
        let _kept = Kept { exchange: self, id };
        let own = link.identity.node_id().to_string();
        let mut filling = Filling {
            link,
            image,
            id,
            share: share.clone(),
            picker: Arc::new(Picker::new(&share, &own)),
            alone,
            used: BTreeSet::new(),
            lost: BTreeMap::new(),
        };
        let received = tokio::select! {
            received = self.images().receive(&share, Some(name.clone())) => received,
            why = filling.fill(seeds) => return Err(Failed::Otherwise(why)),
        };
        match received {
            Ok(()) => {
                let nodes = filling.used.len();
                tracing::info!(image, id, nodes, "an image came from other nodes of the swarm");
                let come = self.state().incoming.remove(id);
                drop(come);
                Ok(())
            }
            Err(e @ skep_engine::Error::Damaged { .. }) => {
                Err(Failed::Damaged(e.to_string(), filling.used.into_iter().collect()))
            }
            Err(e) => Err(Failed::Otherwise(e.to_string())),
        }
    }

    /// Learns from the first node that answers what the image is made of.
    async fn begin(
        &self,
        link: &Link,
        image: &str,
        id: &str,
        seeds: &[ImageHolder],
    ) -> Result<Arc<Share>, Failed> {
        let mut errors = Vec::new();
        for seed in seeds {
            let opened = match source::open(link, seed, id).await {
                Ok(opened) => opened,
                Err(why) => {
                    errors.push(format!("node {}: {why}", seed.node_id));
                    continue;
                }
            };
            match self.images().expect(image, id, makeup_from_proto(opened.makeup)).await {
                Ok(share) => {
                    let (name, used) = (image.to_owned(), Instant::now());
                    let incoming = Incoming { name, share: share.clone(), used };
                    self.state().incoming.insert(id.to_owned(), incoming);
                    return Ok(share);
                }
                Err(e @ skep_engine::Error::Io { .. }) => return Err(Failed::Otherwise(e.to_string())),
                Err(e) => return Err(Failed::Damaged(e.to_string(), vec![seed.node_id.clone()])),
            }
        }
        Err(Failed::Otherwise(errors.join("; ")))
    }
}

/// The image to take where names mean several: what this host runs, whole somewhere, and the newest.
fn chosen(holders: &[ImageHolder]) -> Option<String> {
    let host = Platform::host();
    let images = holders.iter().filter_map(|h| h.image.as_ref());
    let fitting = images.filter(|i| {
        let offer = i.platform.clone().unwrap_or_default();
        let offer = Platform { os: offer.os, architecture: offer.architecture, ..Platform::default() };
        offer.architecture.is_empty() || host.served_by(&offer).is_some()
    });
    fitting.max_by_key(|i| (i.complete, i.created_ns, i.image_id.clone())).map(|i| i.image_id.clone())
}

async fn find(link: &Link, image: &str) -> Result<Vec<ImageHolder>, String> {
    let mut manager = link.manager.clone();
    let mut last = String::new();
    for _ in 0..ASKED {
        let asked = async {
            let channel = match manager.wait_for(Option::is_some).await {
                Ok(channel) => channel.clone(),
                Err(_) => None,
            };
            let channel = channel.ok_or_else(|| "this node is leaving the swarm".to_owned())?;
            let request = v1::FindImageRequest { image: image.to_owned() };
            let found = DispatcherClient::new(channel).find_image(request).await;
            found.map(|f| f.into_inner().holders).map_err(|s| s.message().to_owned())
        };
        match timeout(MANAGER, asked).await {
            Ok(Ok(holders)) => return Ok(holders),
            Ok(Err(why)) => last = why,
            Err(_) => return Err("none is in reach".into()),
        }
        // It may not have heard of the task yet, or be on its way out.
        tokio::time::sleep(AGAIN.0).await;
    }
    Err(last)
}

/// What has come of an image is kept for a while, however bringing it ended.
struct Kept<'a> {
    exchange: &'a Exchange,
    id: &'a str,
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        match self.exchange.state().incoming.get_mut(self.id) {
            Some(incoming) => incoming.used = Instant::now(),
            // It has become an image, or was never begun.
            None => return,
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (exchange, id) = (Arc::downgrade(&self.exchange.0), self.id.to_owned());
        runtime.spawn(async move {
            tokio::time::sleep(KEPT).await;
            let Some(exchange) = exchange.upgrade().map(Exchange) else { return };
            let mut state = exchange.state();
            let stale = state.incoming.get(&id).is_some_and(|i| i.used.elapsed() >= KEPT);
            let gone = if stale { state.incoming.remove(&id) } else { None };
            drop(state);
            drop(gone);
        });
    }
}

/// Filling a share from nodes that come and go.
struct Filling<'a> {
    link: &'a Link,
    image: &'a str,
    id: &'a str,
    share: Arc<Share>,
    picker: Arc<Picker>,
    /// From the one node given, and no others.
    alone: bool,
    /// Nodes that were taken from.
    used: BTreeSet<String>,
    /// When nodes were lost, and how.
    lost: BTreeMap<String, (Instant, String)>,
}

impl Filling<'_> {
    /// Returns only when nothing comes any more: why.
    async fn fill(&mut self, seeds: Vec<ImageHolder>) -> String {
        let mut sources: JoinSet<(String, Ended)> = JoinSet::new();
        let mut running: BTreeSet<String> = BTreeSet::new();
        let mut known = seeds;
        let mut pause = AGAIN.0;
        let mut look_again = Instant::now() + pause;
        let (mut had, mut moved) = (self.picker.progress().0, Instant::now());
        loop {
            for holder in &known {
                let lately = self.lost.get(&holder.node_id).is_some_and(|(at, _)| at.elapsed() < LOST);
                if running.len() < SOURCES && !lately && !running.contains(&holder.node_id) {
                    running.insert(holder.node_id.clone());
                    self.used.insert(holder.node_id.clone());
                    sources.spawn(self.source(holder.clone()));
                }
            }
            tokio::select! {
                Some(ended) = sources.join_next() => {
                    let Ok((node, ended)) = ended else { continue };
                    running.remove(&node);
                    match ended {
                        Ended::Disk(e) => return format!("it cannot be written: {e}"),
                        Ended::Lost(why) => {
                            tracing::debug!(image = self.image, node, why, "a node gives no more of an image");
                            self.lost.insert(node, (Instant::now(), why));
                        }
                    }
                    look_again = look_again.min(Instant::now() + AGAIN.0);
                }
                () = sleep_until(look_again) => {
                    pause = (pause * 2).min(AGAIN.1);
                    look_again = Instant::now() + pause;
                    if !self.alone && running.len() < SOURCES
                        && let Ok(found) = find(self.link, self.image).await
                    {
                        known = found;
                        let id = self.id;
                        known.retain(|h| h.image.as_ref().is_some_and(|i| i.image_id == id));
                    }
                }
            }
            let (have, all) = self.picker.progress();
            if have != had || have == all {
                (had, moved) = (have, Instant::now());
            }
            if moved.elapsed() > PATIENCE {
                let mut why: Vec<String> =
                    self.lost.iter().map(|(node, (_, why))| format!("node {node}: {why}")).collect();
                why.insert(0, format!("nothing came for {PATIENCE:?}, {have} of {all} pieces are here"));
                return why.join("; ");
            }
        }
    }

    fn source(&self, holder: ImageHolder) -> impl Future<Output = (String, Ended)> + Send + use<> {
        let (link, id) = (self.link.clone(), self.id.to_owned());
        let (share, picker) = (self.share.clone(), self.picker.clone());
        async move {
            let node = holder.node_id.clone();
            let ended = match source::open(&link, &holder, &id).await {
                Ok(opened) => opened.take(share, id, picker).await,
                Err(why) => Ended::Lost(why),
            };
            (node, ended)
        }
    }
}
