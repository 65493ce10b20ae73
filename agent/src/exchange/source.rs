//! One node that an image is taken from: what it has is followed, and pieces of that are asked for, some at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use skep_engine::Share;
use skep_proto::v1::exchange_client::ExchangeClient;
use skep_proto::v1::{self, ImageHolder};
use tokio::time::timeout;
use tonic::Streaming;
use tonic::transport::Channel;

use super::picker::{Job, Picker};
use super::{Link, makeup_from_proto};

/// Pieces asked of one node at once.
const AT_ONCE: usize = 3;
/// Longest wait for the first answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Longest wait for the next bytes.
const BYTES: Duration = Duration::from_secs(15);
/// How often is looked for pieces that a slow node holds up.
const LOOK: Duration = Duration::from_secs(1);

/// Why nothing more comes from a node.
#[derive(Debug)]
pub(super) enum Ended {
    /// It cannot be asked, or not any more.
    Lost(String),
    /// What came cannot be written here.
    Disk(std::io::Error),
}

/// A node that has the image open for us.
pub(super) struct Opened {
    pub(super) node: String,
    addr: String,
    client: ExchangeClient<Channel>,
    messages: Streaming<v1::OpenImageMessage>,
    pub(super) makeup: v1::ImageMakeup,
    partial: HashMap<usize, Vec<u8>>,
}

/// Opens an image at a node.
pub(super) async fn open(link: &Link, holder: &ImageHolder, image_id: &str) -> Result<Opened, String> {
    let (node, addr) = (holder.node_id.clone(), holder.addr.clone());
    let id = node.as_str().into();
    let channel = skep_identity::channel_to_node(&link.identity, &link.network.0, &addr, &id);
    let mut client = ExchangeClient::new(channel).max_decoding_message_size(64 << 20);
    let opening = async {
        let request = v1::OpenImageRequest { image_id: image_id.to_owned() };
        let mut messages = client.open(request).await?.into_inner();
        let first = messages.message().await?;
        Ok::<_, tonic::Status>((messages, first.unwrap_or_default()))
    };
    let (messages, first) = match timeout(ANSWER, opening).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(status)) => return Err(skep_identity::explain(&addr, &status)),
        Err(_) => return Err(format!("no answer in {ANSWER:?}")),
    };
    let makeup = first.makeup.ok_or("it does not say what the image is made of")?;
    let partial = first.partial.into_iter().map(|b| (b.blob as usize, b.pieces)).collect();
    Ok(Opened { node, addr, client, messages, makeup, partial })
}

impl Opened {
    /// Takes pieces until nothing more comes; dropped, it stops.
    pub(super) async fn take(self, share: Arc<Share>, image_id: String, picker: Arc<Picker>) -> Ended {
        let Self { node, addr, client, mut messages, makeup, mut partial } = self;
        if makeup_from_proto(makeup).blobs != share.makeup().blobs {
            return Ended::Lost("its layers are in other clothes".into());
        }
        let blobs = share.makeup().blobs.len();
        partial.retain(|blob, _| *blob < blobs);
        let fetches = !partial.is_empty();
        // However it ends.
        let _gone = Gone { node: &node, picker: &picker };
        picker.update(&node, &partial, fetches);
        let follow = async {
            loop {
                match messages.message().await {
                    Ok(Some(message)) => {
                        let told = message.partial.into_iter().map(|b| (b.blob as usize, b.pieces));
                        partial.extend(told.filter(|(blob, _)| *blob < blobs));
                        picker.update(&node, &partial, fetches);
                    }
                    Ok(None) => return Ended::Lost("it ended the transfer".into()),
                    Err(status) => return Ended::Lost(skep_identity::explain(&addr, &status)),
                }
            }
        };
        let takers = (0..AT_ONCE).map(|_| taker(&node, &addr, &image_id, client.clone(), &picker));
        tokio::select! {
            ended = follow => ended,
            ended = try_join_all(takers) => ended.map_or_else(|e| e, |_: Vec<()>| Ended::Lost("it ended".into())),
        }
    }
}

struct Gone<'a> {
    node: &'a str,
    picker: &'a Picker,
}

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        self.picker.gone(self.node);
    }
}

/// Asks for one piece after the other.
async fn taker(
    node: &str,
    addr: &str,
    image_id: &str,
    mut client: ExchangeClient<Channel>,
    picker: &Arc<Picker>,
) -> Result<(), Ended> {
    let mut news = picker.news();
    loop {
        news.borrow_and_update();
        let Some(job) = picker.next(node) else {
            // Ended by whoever waits for the image.
            let _ = timeout(LOOK, news.changed()).await;
            continue;
        };
        match read(&mut client, image_id, job, picker).await {
            Ok(bytes) => {
                let (picker, node) = (picker.clone(), node.to_owned());
                let written = tokio::task::spawn_blocking(move || picker.put(job, &node, &bytes)).await;
                match written {
                    Ok(Ok(())) => {}
                    Ok(Err(e)) => return Err(Ended::Disk(e)),
                    Err(_) => return Err(Ended::Lost("this daemon is stopping".into())),
                }
            }
            Err(status) => {
                picker.failed(job, node);
                return Err(Ended::Lost(skep_identity::explain(addr, &status)));
            }
        }
    }
}

async fn read(
    client: &mut ExchangeClient<Channel>,
    image_id: &str,
    job: Job,
    picker: &Picker,
) -> Result<Vec<u8>, tonic::Status> {
    let (offset, length) = picker.span(job);
    let request = v1::ReadBlobRequest {
        image_id: image_id.to_owned(),
        blob: job.blob as u32,
        offset,
        length: u32::try_from(length).unwrap_or(u32::MAX),
    };
    let late = |_| tonic::Status::deadline_exceeded(format!("nothing came for {BYTES:?}"));
    let mut chunks = timeout(BYTES, client.read(request)).await.map_err(late)??.into_inner();
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    while let Some(chunk) = timeout(BYTES, chunks.message()).await.map_err(late)?? {
        bytes.extend_from_slice(&chunk.data);
        if bytes.len() as u64 > length {
            return Err(tonic::Status::data_loss("it sends more than it was asked for"));
        }
    }
    if (bytes.len() as u64) < length {
        return Err(tonic::Status::data_loss("it sends less than it was asked for"));
    }
    Ok(bytes)
}
