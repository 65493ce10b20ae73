//! Tunnels to the containers of tasks: through whichever manager the node listens at, and for managers only.

use std::time::Duration;

use skep_identity::{TUNNEL_BUFFER, tunnel};
use skep_proto::v1::tunnel_frame::Kind;
use skep_proto::v1::tunnels_client::TunnelsClient;
use skep_proto::v1::{self, TunnelFrame, TunnelOpen};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use super::harness::{Agent, swarm};

/// Begins a call whose first frame is this one.
fn begun(kind: Kind) -> (mpsc::Sender<TunnelFrame>, ReceiverStream<TunnelFrame>) {
    let (to, frames) = mpsc::channel(4);
    to.try_send(TunnelFrame { kind: Some(kind) }).expect("room");
    (to, ReceiverStream::new(frames))
}

async fn take(
    channel: Channel,
    id: &str,
) -> Result<(Streaming<TunnelFrame>, mpsc::Sender<TunnelFrame>), Status> {
    let (to, frames) = begun(Kind::Take(id.to_owned()));
    Ok((TunnelsClient::new(channel).take(frames).await?.into_inner(), to))
}

/// Listens, and tells when it does.
async fn listen(agent: &Agent) -> Streaming<v1::TunnelOffer> {
    TunnelsClient::new(agent.channel.clone()).listen(v1::Empty {}).await.expect("listens").into_inner()
}

async fn offered(offers: &mut Streaming<v1::TunnelOffer>) -> v1::TunnelOffer {
    offers.message().await.expect("message").expect("an offer")
}

/// Sends back all it is sent, and then one word more.
async fn echo(io: DuplexStream) {
    let (mut from, mut to) = tokio::io::split(io);
    tokio::io::copy(&mut from, &mut to).await.expect("copied");
    to.write_all(b" end").await.expect("open");
    to.shutdown().await.expect("open");
}

#[tokio::test]
async fn bytes_pass_both_ways_through_the_manager_that_the_node_is_in_touch_with() {
    let swarm = swarm().await;
    let agent = swarm.agent(1, "w").await;
    let described = v1::NodeDescription { takes_tunnels: true, ..Default::default() };
    swarm
        .until("described", |v| v.node(&agent.node_id).is_some_and(|n| n.state() == v1::NodeState::Ready))
        .await;
    // Its agent says nothing of tunnels yet.
    let old = swarm.managers[0].tunnels.reach(&agent.node_id, "t").await.expect_err("old");
    assert_eq!(old.code(), Code::Unimplemented, "{old}");
    assert!(old.message().contains("update it"), "{old}");
    swarm.describe(&agent.node_id, described).await;
    let deaf = swarm.managers[0].tunnels.reach(&agent.node_id, "t").await.expect_err("does not listen");
    assert_eq!(deaf.code(), Code::Unavailable, "{deaf}");

    let mut offers = listen(&agent).await;
    for manager in &swarm.managers {
        let serving = async {
            let offer = offered(&mut offers).await;
            assert_eq!(offer.task_id, "t");
            let (from, to) = take(agent.channel.clone(), &offer.id).await.expect("taken");
            let (near, far) = tokio::io::duplex(TUNNEL_BUFFER);
            tokio::join!(tunnel(near, from, to, std::convert::identity), echo(far));
        };
        let asking = async {
            let io = manager.tunnels.reach(&agent.node_id, "t").await.expect("reached");
            let (mut from, mut to) = tokio::io::split(io);
            // More than all windows and buffers on the way hold: it only ends if each side waits for the other.
            let sent: Vec<u8> = (0..8u32 << 20).map(|i| (i % 251) as u8).collect();
            let write = async {
                to.write_all(&sent).await.expect("open");
                to.shutdown().await.expect("open");
            };
            let mut got = Vec::new();
            let read = async { from.read_to_end(&mut got).await.expect("ends") };
            tokio::join!(write, read);
            assert_eq!(got.len(), sent.len() + 4);
            assert!(got.starts_with(&sent) && got.ends_with(b" end"));
        };
        tokio::join!(serving, asking);
    }
}

#[tokio::test]
async fn only_managers_open_tunnels_and_only_the_node_itself_takes_them() {
    let swarm = swarm().await;
    let (agent, other) = (swarm.agent(0, "one").await, swarm.agent(0, "two").await);
    for node in [&agent, &other] {
        swarm
            .until("ready", |v| v.node(&node.node_id).is_some_and(|n| n.state() == v1::NodeState::Ready))
            .await;
    }
    swarm.describe(&agent.node_id, v1::NodeDescription { takes_tunnels: true, ..Default::default() }).await;
    let open = TunnelOpen { node_id: agent.node_id.clone(), task_id: "t".into() };
    let (_to, frames) = begun(Kind::Open(open));
    let refused = TunnelsClient::new(other.channel.clone()).open(frames).await.expect_err("a worker");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");

    let mut offers = listen(&agent).await;
    let theft = async {
        let offer = offered(&mut offers).await;
        let stolen = take(other.channel.clone(), &offer.id).await.expect_err("another node's");
        assert_eq!(stolen.code(), Code::NotFound, "{stolen}");
        take(agent.channel.clone(), &offer.id).await.expect("its own")
    };
    let (taken, reached) = tokio::join!(theft, swarm.managers[0].tunnels.reach(&agent.node_id, "t"));
    let mut io = reached.expect("reached");
    // A side that breaks off takes the other with it.
    drop(taken);
    let ended = tokio::time::timeout(Duration::from_secs(60), io.read(&mut [0])).await;
    assert_eq!(ended.expect("in time").expect("the end"), 0);
}
