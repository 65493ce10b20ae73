//! The dispatcher: sessions of agents with this manager. Assignments come from this manager's own copy of
//! the store; heartbeats and statuses go to the leader in batches.

mod acks;
mod assignments;
mod attachments;
mod liveness;
mod network;
mod report;
mod reporter;
mod sessions;
mod usage;
mod world;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use skep_identity::{peer, require_any};
use skep_proto::v1::dispatcher_client::DispatcherClient;
use skep_proto::v1::{self, dispatcher_server::Dispatcher};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::authority::{self, surely_removed};
use crate::context::{Context, forward, is_forwarded};
use crate::images;
use acks::Acks;
use liveness::Liveness;
use reporter::Reporter;
use sessions::Sessions;
use usage::Usage;
use world::World;

/// The dispatcher of one manager.
#[derive(Clone)]
pub(crate) struct DispatcherService {
    ctx: Arc<Context>,
    sessions: Arc<Sessions>,
    reporter: Reporter,
    liveness: Arc<Liveness>,
    usage: Arc<Usage>,
    acks: Arc<Acks>,
    worlds: watch::Receiver<Arc<World>>,
    stop: CancellationToken,
}

impl DispatcherService {
    /// Starts the dispatcher; its loops end when `stop` is cancelled.
    pub fn start(ctx: Arc<Context>, stop: &CancellationToken) -> Self {
        let sessions = Arc::new(Sessions::default());
        let liveness = Arc::new(Liveness::default());
        let usage = Arc::new(Usage::default());
        let worlds = world::start(ctx.store().clone(), stop.clone());
        let reporter = Reporter::start(
            ctx.clone(),
            report::Heard { liveness: liveness.clone(), usage: usage.clone() },
            sessions.clone(),
            stop.clone(),
        );
        let acks = Acks::start(ctx.clone(), stop.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(liveness::watch(ctx.clone(), liveness.clone())));
        tokio::spawn(stop.clone().run_until_cancelled_owned(usage::watch(ctx.clone(), usage.clone())));
        Self { ctx, sessions, reporter, liveness, usage, acks, worlds, stop: stop.clone() }
    }

    fn period(&self) -> Duration {
        heartbeat_period(&self.ctx)
    }

    /// The node a request is about: the one it comes from, or, passed on by a manager, the one that manager names.
    fn on_behalf_of<T>(&self, request: &Request<T>, named: &str) -> Result<(bool, String), Status> {
        if is_forwarded(request.metadata()) {
            authority::manager(self.ctx.store(), request.extensions())?;
            return Ok((true, named.to_owned()));
        }
        let node = authority::node(self.ctx.store(), request.extensions())?.node_id;
        Ok((false, node.into()))
    }
}

fn heartbeat_period(ctx: &Context) -> Duration {
    let view = ctx.view();
    let asked = view.cluster().and_then(|c| c.spec.as_ref()).map_or(0, |s| s.heartbeat_ms);
    if asked == 0 { skep_proto::defaults::HEARTBEAT } else { Duration::from_millis(asked) }
}

type Messages<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl Dispatcher for DispatcherService {
    type SessionStream = Messages<v1::SessionMessage>;
    type AssignmentsStream = Messages<v1::AssignmentsMessage>;

    async fn session(
        &self,
        request: Request<v1::SessionRequest>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let identity = require_any(request.extensions())?;
        let from = peer(request.extensions()).map(|p| p.addr.ip().to_string()).unwrap_or_default();
        let message = request.into_inner();
        let node_id = String::from(identity.node_id);
        let addr = if message.advertise_addr.is_empty() { from } else { host_of(&message.advertise_addr) };
        let report = v1::NodeReport {
            node_id: node_id.clone(),
            description: Some(message.description.unwrap_or_default()),
            addr,
            data_path_addr: message.data_path_addr,
            registration: message.registration,
            ..Default::default()
        };
        self.reporter.deliver(report).await?;
        let session = self.sessions.open(&node_id, self.ctx.new_id());
        let (tx, rx) = mpsc::channel(4);
        let stop = self.stop.clone();
        let told = tell(self.ctx.clone(), self.sessions.clone(), session, self.worlds.clone(), tx);
        tokio::spawn(async move { stop.run_until_cancelled(told).await });
        Ok(Response::new(ReceiverStream::new(rx)))
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatResponse>, Status> {
        let node = require_any(request.extensions())?.node_id;
        let message = request.into_inner();
        self.sessions.check(node.as_str(), &message.session_id)?;
        self.reporter.beat(node.as_str(), message.usage);
        let period_ms = u64::try_from(self.period().as_millis()).unwrap_or(u64::MAX);
        let usage_wanted = usage::wanted(&self.ctx.view(), node.as_str());
        Ok(Response::new(v1::HeartbeatResponse { period_ms, usage_wanted }))
    }

    async fn update_task_status(
        &self,
        request: Request<v1::UpdateTaskStatusRequest>,
    ) -> Result<Response<v1::Empty>, Status> {
        let node = require_any(request.extensions())?.node_id;
        let message = request.into_inner();
        self.sessions.check(node.as_str(), &message.session_id)?;
        if !message.acks.is_empty() {
            self.acks.take(node.as_str(), message.acks);
        }
        if !message.updates.is_empty() {
            let node_id = node.into();
            self.reporter
                .deliver(v1::NodeReport { node_id, updates: message.updates, ..Default::default() })
                .await?;
        }
        Ok(Response::new(v1::Empty {}))
    }

    async fn assignments(
        &self,
        request: Request<v1::AssignmentsRequest>,
    ) -> Result<Response<Self::AssignmentsStream>, Status> {
        let node = require_any(request.extensions())?.node_id;
        let session = self.sessions.check(node.as_str(), &request.into_inner().session_id)?;
        let (tx, rx) = mpsc::channel(4);
        let (worlds, acks, stop) = (self.worlds.clone(), self.acks.clone(), self.stop.clone());
        let ctx = self.ctx.clone();
        tokio::spawn(async move {
            stop.run_until_cancelled(assignments::stream(node.into(), session, ctx, worlds, acks, tx)).await
        });
        Ok(Response::new(ReceiverStream::new(rx)))
    }

    async fn report(
        &self,
        request: Request<v1::ReportRequest>,
    ) -> Result<Response<v1::ReportResponse>, Status> {
        authority::manager(self.ctx.store(), request.extensions())?;
        let forwarded = is_forwarded(request.metadata());
        let message = request.into_inner();
        let ctx = self.ctx.clone();
        let heard = report::Heard { liveness: self.liveness.clone(), usage: self.usage.clone() };
        let local = move || -> BoxFuture<'static, _> {
            let (ctx, heard, message) = (ctx.clone(), heard.clone(), message.clone());
            Box::pin(async move { report::apply(&ctx, &heard, &message).await })
        };
        let remote = |_| -> BoxFuture<'static, _> {
            Box::pin(async { Err(Status::internal("a report goes from the agent's manager to the leader")) })
        };
        self.ctx.on_leader(forwarded, local, remote).await.map(Response::new)
    }

    async fn share_acks(
        &self,
        request: Request<v1::ShareAcksRequest>,
    ) -> Result<Response<v1::Empty>, Status> {
        authority::manager(self.ctx.store(), request.extensions())?;
        self.acks.merge(request.into_inner());
        Ok(Response::new(v1::Empty {}))
    }

    async fn attach(
        &self,
        request: Request<v1::AttachRequest>,
    ) -> Result<Response<v1::AttachResponse>, Status> {
        let (forwarded, node_id) = self.on_behalf_of(&request, &request.get_ref().node_id)?;
        let message = v1::AttachRequest { node_id, ..request.into_inner() };
        let (ctx, again) = (self.ctx.clone(), message.clone());
        let local = move || -> BoxFuture<'static, _> {
            let (ctx, message) = (ctx.clone(), message.clone());
            Box::pin(async move { attachments::attach(&ctx, message).await })
        };
        let remote = move |channel| -> BoxFuture<'static, _> {
            let (mut client, request) = (DispatcherClient::new(channel), forward(again.clone()));
            Box::pin(async move { client.attach(request).await.map(Response::into_inner) })
        };
        self.ctx.on_leader(forwarded, local, remote).await.map(Response::new)
    }

    async fn detach(&self, request: Request<v1::DetachRequest>) -> Result<Response<v1::Empty>, Status> {
        let (forwarded, node_id) = self.on_behalf_of(&request, &request.get_ref().node_id)?;
        let message = v1::DetachRequest { node_id, ..request.into_inner() };
        let (ctx, again) = (self.ctx.clone(), message.clone());
        let local = move || -> BoxFuture<'static, _> {
            let (ctx, message) = (ctx.clone(), message.clone());
            Box::pin(async move { attachments::detach(&ctx, message).await })
        };
        let remote = move |channel| -> BoxFuture<'static, _> {
            let (mut client, request) = (DispatcherClient::new(channel), forward(again.clone()));
            Box::pin(async move { client.detach(request).await.map(Response::into_inner) })
        };
        self.ctx.on_leader(forwarded, local, remote).await.map(Response::new)
    }

    async fn find_image(
        &self,
        request: Request<v1::FindImageRequest>,
    ) -> Result<Response<v1::FindImageResponse>, Status> {
        let node = authority::node(self.ctx.store(), request.extensions())?.node_id;
        let image = request.into_inner().image;
        if !images::is_needed_by(&self.ctx.view(), node.as_str(), &image) {
            let why = format!("node {node} has no task that needs image {image}");
            return Err(Status::permission_denied(why));
        }
        let mut holders = images::find(&self.ctx, &image).await;
        holders.retain(|h| h.node_id != node.as_str());
        Ok(Response::new(v1::FindImageResponse { holders }))
    }
}

/// The host of `host[:port]`.
fn host_of(addr: &str) -> String {
    match addr.parse::<std::net::SocketAddr>() {
        Ok(addr) => addr.ip().to_string(),
        Err(_) => addr.rsplit_once(':').map_or(addr, |(host, _)| host).to_owned(),
    }
}

/// Tells a session of its node and of the managers, at first and whenever either changes.
async fn tell(
    ctx: Arc<Context>,
    sessions: Arc<Sessions>,
    session: Arc<sessions::Session>,
    mut worlds: watch::Receiver<Arc<World>>,
    tx: mpsc::Sender<Result<v1::SessionMessage, Status>>,
) {
    let _open = sessions.closing(&session);
    let mut told = None;
    loop {
        // The registration is committed on the leader; here it may still be on its way.
        let view = ctx.view();
        worlds.borrow_and_update();
        let Some(node) = view.node(&session.node_id) else {
            if told.is_some() {
                let _ = tx.send(Err(surely_removed(&session.node_id))).await;
                return;
            }
            tokio::select! {
                changed = worlds.changed() => if changed.is_err() { return },
                () = session.closed.cancelled() => return,
                () = tx.closed() => return,
            }
            continue;
        };
        let trust = view.cluster().map(|c| crate::ca::trust(c)).unwrap_or_default();
        let message = v1::SessionMessage {
            session_id: session.id.clone(),
            node: Some(v1::Node::clone(node)),
            managers: managers(&view),
            root_ca_pem: trust.roots_pem,
            trust_epoch: trust.epoch,
        };
        if told.as_ref() != Some(&message) {
            if tx.send(Ok(message.clone())).await.is_err() {
                return;
            }
            told = Some(message);
        }
        tokio::select! {
            changed = worlds.changed() => if changed.is_err() { return },
            () = tx.closed() => return,
            () = session.closed.cancelled() => {
                let _ = tx.send(Err(Status::aborted("this node has opened another session"))).await;
                return;
            }
        }
    }
}

fn managers(view: &crate::store::StoreView) -> Vec<v1::ManagerPeer> {
    let status = |n: &Arc<v1::Node>| n.manager.as_ref().map(|m| (n.id.clone(), m.addr.clone()));
    let known = view.nodes().filter_map(status).filter(|(_, addr)| !addr.is_empty());
    known.map(|(node_id, addr)| v1::ManagerPeer { node_id, addr }).collect()
}
