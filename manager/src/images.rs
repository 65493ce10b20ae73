//! Which nodes have an image: nodes are asked when somebody needs to know, first those whose tasks run it, and none
//! tells of its images by itself.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use rand::seq::SliceRandom;
use skep_identity::Role;
use skep_proto::v1::exchange_client::ExchangeClient;
use skep_proto::v1::{self, ImageHolder};
use tokio::time::{Instant, timeout};

use crate::context::Context;
use crate::orchestrator::task;
use crate::store::StoreView;

/// How long an answer serves those who ask next.
const FRESH: Duration = Duration::from_millis(400);
/// Longest wait for a node's answer.
const ANSWER: Duration = Duration::from_secs(2);
/// Longest wait for further answers once the image has been found.
const MORE: Duration = Duration::from_millis(300);
/// Nodes asked at once.
const AT_ONCE: usize = 32;
/// Nodes with tasks of an image that are asked: enough to fetch it from.
const RUNNING: usize = 32;
/// Of the other nodes, so many that have the image are enough.
const ENOUGH: usize = 3;

type Answer = Arc<tokio::sync::Mutex<Option<(Instant, Vec<ImageHolder>)>>>;

/// What was found lately.
#[derive(Default)]
pub(crate) struct Found {
    answers: Mutex<HashMap<String, Answer>>,
}

impl Found {
    fn of(&self, image: &str) -> Answer {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        // What somebody waits for is held by them, too.
        answers.retain(|_, answer| {
            Arc::strong_count(answer) > 1
                || answer.try_lock().is_ok_and(|a| a.as_ref().is_some_and(|(at, _)| at.elapsed() < FRESH))
        });
        answers.entry(image.to_owned()).or_default().clone()
    }
}

/// Whether a node has a task, not yet ended, of this image.
pub(crate) fn is_needed_by(view: &StoreView, node_id: &str, image: &str) -> bool {
    view.tasks_of_node(node_id).any(|t| !task::finished(t) && image_of(view.task_spec(t)) == Some(image))
}

fn image_of(spec: Option<&v1::TaskSpec>) -> Option<&str> {
    spec.and_then(|s| s.container.as_ref()).map(|c| c.image.as_str())
}

/// The nodes that have an image, or something of it. One answer serves all who ask at the same time.
pub(crate) async fn find(ctx: &Context, image: &str) -> Vec<ImageHolder> {
    let answer = ctx.images.of(image);
    let mut answer = answer.lock().await;
    if let Some((at, holders)) = &*answer
        && at.elapsed() < FRESH
    {
        return holders.clone();
    }
    let holders = ask(ctx, image).await;
    *answer = Some((Instant::now(), holders.clone()));
    holders
}

async fn ask(ctx: &Context, image: &str) -> Vec<ImageHolder> {
    let view = ctx.view();
    let (likely, others) = candidates(ctx, &view, image);
    // Under a mere name nodes may have different images: all are asked, and who wants one chooses.
    let pinned = image.contains('@');
    let mut holders = ask_nodes(ctx, image, likely, pinned.then_some(RUNNING)).await;
    if !pinned || !holders.iter().any(is_whole) {
        holders.extend(ask_nodes(ctx, image, others, pinned.then_some(ENOUGH)).await);
    }
    holders
}

fn is_whole(holder: &ImageHolder) -> bool {
    holder.image.as_ref().is_some_and(|i| i.complete)
}

/// Nodes that can be asked: managers and those with tasks of the image, and all others.
fn candidates(
    ctx: &Context,
    view: &StoreView,
    image: &str,
) -> (Vec<(String, String)>, Vec<(String, String)>) {
    let mut running = BTreeSet::new();
    for service in view.services() {
        let of_image = view.revisions_of(&service.id).filter(|r| image_of(r.spec.as_ref()) == Some(image));
        let revisions: Vec<u64> = of_image.map(|r| r.number).collect();
        if !revisions.is_empty() {
            let tasks = view.tasks_of_service(&service.id);
            let live = tasks.filter(|t| revisions.contains(&t.revision) && !task::finished(t));
            running.extend(live.map(|t| t.node_id.clone()));
        }
    }
    let (mut with_tasks, mut managers, mut others) = (Vec::new(), Vec::new(), Vec::new());
    for node in view.nodes().filter(|n| n.state() == v1::NodeState::Ready) {
        let Some(addr) = address_of(node) else { continue };
        let list = if running.contains(&node.id) {
            &mut with_tasks
        } else if node.role() == Role::Manager {
            &mut managers
        } else {
            &mut others
        };
        list.push((node.id.clone(), addr));
    }
    ctx.with_rng(|rng| {
        with_tasks.shuffle(rng);
        others.shuffle(rng);
    });
    others.extend(with_tasks.drain(RUNNING.min(with_tasks.len())..));
    with_tasks.extend(managers);
    (with_tasks, others)
}

/// Where a node serves images, and takes in where managers are.
pub(crate) fn address_of(node: &v1::Node) -> Option<String> {
    let port = u16::try_from(node.description.as_ref()?.exchange_port).ok().filter(|p| *p != 0)?;
    let ip: IpAddr = node.addr.parse().ok()?;
    Some(SocketAddr::new(ip, port).to_string())
}

/// Asks nodes, some at once, until `enough` of them have all of it, and a moment longer.
async fn ask_nodes(
    ctx: &Context,
    image: &str,
    nodes: Vec<(String, String)>,
    enough: Option<usize>,
) -> Vec<ImageHolder> {
    let mut waiting = nodes.into_iter();
    let mut asked = FuturesUnordered::new();
    let mut holders: Vec<ImageHolder> = Vec::new();
    let mut found_at = None;
    loop {
        while asked.len() < AT_ONCE
            && let Some((node_id, addr)) = waiting.next()
        {
            asked.push(ask_node(ctx, image, node_id, addr));
        }
        let patience = found_at.map_or(ANSWER * 2, |at: Instant| MORE.saturating_sub(at.elapsed()));
        match timeout(patience, asked.next()).await {
            Ok(Some(Some(holder))) => {
                if enough.is_some() && is_whole(&holder) {
                    found_at.get_or_insert_with(Instant::now);
                }
                holders.push(holder);
                if enough.is_some_and(|n| holders.iter().filter(|h| is_whole(h)).count() >= n) {
                    return holders;
                }
            }
            Ok(Some(None)) => {}
            Ok(None) | Err(_) => return holders,
        }
    }
}

async fn ask_node(ctx: &Context, image: &str, node_id: String, addr: String) -> Option<ImageHolder> {
    let id = node_id.as_str().into();
    let channel = skep_identity::channel_to_node(&ctx.identity, &ctx.network, &addr, &id);
    let request = v1::LocateImageRequest { image: image.to_owned() };
    match timeout(ANSWER, ExchangeClient::new(channel).locate(request)).await {
        Ok(Ok(image)) => Some(ImageHolder { node_id, addr, image: Some(image.into_inner()) }),
        Ok(Err(status)) if status.code() == tonic::Code::NotFound => None,
        Ok(Err(status)) => {
            let error = skep_identity::explain(&addr, &status);
            tracing::debug!(node = node_id, %error, "a node does not say what it has of an image");
            None
        }
        Err(_) => {
            tracing::debug!(node = node_id, addr, "a node does not say in time what it has of an image");
            None
        }
    }
}
