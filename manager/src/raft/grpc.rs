//! Raft over gRPC: one stream of messages to each peer, opened when there is something to say.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use skep_proto::v1;
use skep_proto::v1::raft_client::RaftClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::transport::{Reports, Transport};

/// The largest message taken: a snapshot travels as one.
pub const MESSAGE_LIMIT: usize = 1 << 30;

/// Says to a sender that it is no member any more.
pub(super) const REMOVED: &str = "skep-raft-removed";

const QUEUE: usize = 1024;
const PAUSE: Duration = Duration::from_millis(100);
const SNAPSHOT: u32 = raft::eraftpb::MessageType::MsgSnapshot as u32;

/// Makes the channel to a peer; the channel connects by itself when used.
pub type Connect = Arc<dyn Fn(&v1::RaftPeer) -> Channel + Send + Sync>;

/// The transport between real managers.
pub struct GrpcTransport {
    connect: Connect,
    links: Mutex<HashMap<u64, Link>>,
}

struct Link {
    addr: String,
    channel: Channel,
    queue: mpsc::Sender<v1::RaftMessage>,
}

impl GrpcTransport {
    /// A transport over the channels that `connect` makes.
    pub fn new(connect: Connect) -> Self {
        Self { connect, links: Mutex::default() }
    }

    fn link(&self, to: &v1::RaftPeer, reports: &Reports) -> (Channel, mpsc::Sender<v1::RaftMessage>) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if links.get(&to.raft_id).is_none_or(|link| link.addr != to.addr || link.queue.is_closed()) {
            let channel = (self.connect)(to);
            let (queue, messages) = mpsc::channel(QUEUE);
            tokio::spawn(serve(to.raft_id, channel.clone(), messages, reports.clone()));
            links.insert(to.raft_id, Link { addr: to.addr.clone(), channel, queue });
        }
        let link = &links[&to.raft_id];
        (link.channel.clone(), link.queue.clone())
    }
}

impl Transport for GrpcTransport {
    fn send(&self, to: &v1::RaftPeer, messages: Vec<v1::RaftMessage>, reports: &Reports) {
        let (channel, queue) = self.link(to, reports);
        for message in messages {
            if message.r#type == SNAPSHOT {
                // Apart from the stream, so that heartbeats do not queue behind it.
                tokio::spawn(send_snapshot(to.raft_id, channel.clone(), message, reports.clone()));
            } else if queue.try_send(message).is_err() {
                reports.unreachable(to.raft_id);
            }
        }
    }
}

fn client(channel: Channel) -> RaftClient<Channel> {
    RaftClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT).max_encoding_message_size(MESSAGE_LIMIT)
}

fn report_failure(raft_id: u64, status: &tonic::Status, reports: &Reports) {
    tracing::debug!(raft_id, %status, "raft peer not reached");
    if status.metadata().contains_key(REMOVED) {
        reports.removed();
    }
    reports.unreachable(raft_id);
}

async fn send_snapshot(raft_id: u64, channel: Channel, message: v1::RaftMessage, reports: Reports) {
    let result = client(channel).send(tokio_stream::once(message)).await;
    if let Err(status) = &result {
        report_failure(raft_id, status, &reports);
    }
    reports.snapshot(raft_id, result.is_ok());
}

/// Keeps a stream to one peer going, until the transport lets go of the link.
async fn serve(raft_id: u64, channel: Channel, mut queue: mpsc::Receiver<v1::RaftMessage>, reports: Reports) {
    while let Some(first) = queue.recv().await {
        let (feed, stream) = mpsc::channel(QUEUE);
        // The channel was just made and has room.
        let _ = feed.try_send(first);
        let mut client = client(channel.clone());
        let call = client.send(ReceiverStream::new(stream));
        tokio::pin!(call);
        let result = loop {
            tokio::select! {
                result = &mut call => break result,
                message = queue.recv() => match message {
                    None => return,
                    // Full: the peer does not keep up, and raft sends again what counts.
                    Some(message) => if feed.try_send(message).is_err() { reports.unreachable(raft_id); },
                }
            }
        };
        if let Err(status) = result {
            report_failure(raft_id, &status, &reports);
            tokio::time::sleep(PAUSE).await;
            // What queued up meanwhile is stale.
            while queue.try_recv().is_ok() {}
        }
    }
}
