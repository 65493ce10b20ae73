//! The services of one manager and the loops behind them, assembled over a raft node: what listens, what
//! runs always, and what runs only while this manager leads.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use skep_identity::{Listener, ServerIo};
use skep_proto::v1::ca_server::CaServer;
use skep_proto::v1::control_server::ControlServer;
use skep_proto::v1::dispatcher_server::DispatcherServer;
use skep_proto::v1::logs_server::LogsServer;
use skep_proto::v1::raft_server::{Raft, RaftServer};
use skep_proto::v1::tunnels_server::TunnelsServer;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

use crate::authority;
use crate::autolock::Autolock;
use crate::ca::{CaService, rotation};
use crate::context::Context;
use crate::control::{ControlHandle, roles};
use crate::dispatcher::DispatcherService;
use crate::leader;
use crate::logs::LogsHandle;
use crate::tunnels::TunnelsHandle;

/// Largest message taken from a peer: a raft snapshot or a large complete set of assignments.
const MAX_MESSAGE: usize = 256 << 20;
/// Longest wait for calls under way when the manager stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Everything of a running manager but its raft node.
pub(crate) struct Services {
    pub control: ControlHandle,
    pub logs: LogsHandle,
    pub tunnels: TunnelsHandle,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Services {
    /// Starts serving on `listener` and following the leadership; all of it ends once this manager is `removed`
    /// from the group: its copy of the store stands still, and whoever asked it would be told what was.
    pub fn start(
        ctx: Arc<Context>,
        listener: Box<dyn Listener>,
        raft: RaftServer<impl Raft>,
        autolock: Option<Autolock>,
        removed: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let stop = CancellationToken::new();
        let control = ControlHandle::new(ctx.clone());
        let logs = LogsHandle::new(ctx.clone(), stop.clone());
        let tunnels = TunnelsHandle::new(ctx.clone(), stop.clone());
        let dispatcher = DispatcherService::start(ctx.clone(), &stop);
        let mut services = Self {
            control: control.clone(),
            logs: logs.clone(),
            tunnels: tunnels.clone(),
            stop,
            tasks: Vec::new(),
        };

        let store = ctx.store().clone();
        #[allow(clippy::result_large_err, reason = "the signature is tonic's")]
        let managers_only = move |request: Request<()>| -> Result<Request<()>, Status> {
            authority::manager(&store, request.extensions())?;
            Ok(request)
        };
        let incoming = skep_identity::incoming(&ctx.identity, listener);
        let router = skep_identity::server()
            .add_service(CaServer::new(CaService::new(ctx.clone())))
            .add_service(DispatcherServer::new(dispatcher).max_decoding_message_size(MAX_MESSAGE))
            .add_service(LogsServer::new(logs).max_decoding_message_size(MAX_MESSAGE))
            .add_service(TunnelsServer::new(tunnels))
            .add_service(ControlServer::with_interceptor(control, managers_only))
            .add_service(raft);
        services.spawn(serve(router, incoming, services.stop.clone()));
        services.spawn_until_stop(roles::reconcile(ctx.clone()));
        services.spawn_until_stop(rotation::reconcile(ctx.clone()));
        if let Some(autolock) = autolock {
            services.spawn_until_stop(autolock.follow(ctx.clone()));
        }
        services.spawn_until_stop(lead(ctx, services.stop.child_token()));
        let stop = services.stop.clone();
        services.spawn_until_stop(async move {
            removed.await;
            tracing::info!("this manager is no longer one of the swarm's: it serves nobody any more");
            stop.cancel();
        });
        services
    }

    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.push(tokio::spawn(task));
    }

    fn spawn_until_stop(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }

    /// Ends all streams, refuses new calls and waits for those under way.
    pub async fn stop(&mut self) {
        self.stop.cancel();
        for task in self.tasks.drain(..) {
            let abort = task.abort_handle();
            if tokio::time::timeout(STOP_TIMEOUT, task).await.is_err() {
                abort.abort();
            }
        }
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn serve(
    router: tonic::transport::server::Router,
    incoming: ReceiverStream<io::Result<ServerIo>>,
    stop: CancellationToken,
) {
    let ended = stop.clone().cancelled_owned();
    let serving = router.serve_with_incoming_shutdown(incoming, ended);
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(STOP_TIMEOUT).await;
    };
    tokio::select! {
        result = serving => if let Err(error) = result {
            tracing::error!(%error, "the manager cannot serve any more");
        },
        () = overdue => {}
    }
}

/// Runs the leader's loop while this manager leads, beginning once it has seen all its predecessors wrote.
async fn lead(ctx: Arc<Context>, stop: CancellationToken) {
    let mut leadership = ctx.consensus.leader();
    loop {
        leadership.borrow_and_update();
        if !ctx.is_leader() {
            if leadership.changed().await.is_err() {
                return;
            }
            continue;
        }
        let Ok(index) = ctx.consensus.read_index().await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        ctx.store().wait_for(index).await;
        tracing::info!(node = %ctx.node_id, "this manager leads the swarm");
        let term = stop.child_token();
        let clock = ctx.clone();
        let options = leader::Options {
            writer: ctx.writer.clone(),
            clock: Arc::new(move || clock.now_ms()),
            seed: ctx.with_rng(rand::Rng::random),
        };
        let deposed = async { while ctx.is_leader() && leadership.changed().await.is_ok() {} };
        tokio::select! {
            ended = leader::run(options, term.clone()) => if let Err(error) = ended {
                tracing::info!(%error, "the leader's loop ended");
                tokio::time::sleep(Duration::from_millis(20)).await;
            },
            () = deposed => {}
        }
        term.cancel();
    }
}
