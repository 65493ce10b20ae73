//! The agent's session with one manager: registration, heartbeats, assignments in, statuses out.

use std::sync::Arc;
use std::time::Duration;

use skep_identity::{Identity, Role, Trust};
use skep_proto::v1::{self, dispatcher_client::DispatcherClient};
use tokio::sync::watch;
use tonic::transport::Channel;

use crate::Addresses;
use crate::assignments::Assignments;
use crate::remotes::Remotes;
use crate::status::Outbox;
use crate::task::TaskRuntime;
use crate::usage::Usage;

/// How long statuses gather before they are sent together.
const GATHER: Duration = Duration::from_millis(10);
/// Longest wait for a manager's answer to one call.
const ANSWER: Duration = Duration::from_secs(5);

/// What a session reads and writes.
pub(crate) struct Shared {
    pub identity: Identity,
    pub description: watch::Receiver<v1::NodeDescription>,
    pub addresses: watch::Receiver<Addresses>,
    pub assignments: watch::Sender<Assignments>,
    pub node: watch::Sender<Option<v1::Node>>,
    pub managers: watch::Sender<Vec<v1::ManagerPeer>>,
    /// To the manager that holds the session, while one does.
    pub channel: watch::Sender<Option<Channel>>,
    pub outbox: Arc<Outbox>,
    pub remotes: Arc<Remotes>,
    pub runtime: Arc<dyn TaskRuntime>,
    pub usage: Arc<Usage>,
}

/// Holds a session over `channel` until it breaks; the error says how. `established` is called once the
/// manager has taken the session.
pub(crate) async fn hold(
    channel: Channel,
    shared: &Shared,
    established: impl FnOnce(),
) -> Result<(), tonic::Status> {
    let mut client = DispatcherClient::new(channel).max_decoding_message_size(64 << 20);
    let addresses = shared.addresses.borrow().clone();
    let renewals = shared.identity.renewals();
    let told = certified_as(&shared.identity);
    let (tls, certified_role) = (Some(told.0.clone()), told.1.into());
    let description = v1::NodeDescription { tls, certified_role, ..shared.description.borrow().clone() };
    let request = v1::SessionRequest {
        description: Some(description),
        session_id: String::new(),
        advertise_addr: addresses.advertise,
        data_path_addr: addresses.data_path,
    };
    let mut messages = timely(client.session(request)).await?.into_inner();
    let first = timely(messages.message())
        .await?
        .ok_or_else(|| tonic::Status::unavailable("the manager ended the session at once"))?;
    let session_id = first.session_id.clone();
    take_session(shared, first).await;
    established();

    let messages = async {
        while let Some(message) = messages.message().await? {
            take_session(shared, message).await;
        }
        Err::<(), _>(tonic::Status::unavailable("the manager ended the session"))
    };
    tokio::select! {
        r = messages => r,
        r = heartbeats(client.clone(), &session_id, &shared.usage) => r,
        r = shared.usage.follow(shared.runtime.clone(), shared.assignments.subscribe()) => r,
        r = assignments(client.clone(), &session_id, shared) => r,
        r = statuses(client.clone(), &session_id, shared) => r,
        r = described(shared) => r,
        r = certified(&shared.identity, renewals, &told) => r,
    }
}

/// A call that must be answered in time: a manager that hangs is left for another.
async fn timely<T>(call: impl Future<Output = Result<T, tonic::Status>>) -> Result<T, tonic::Status> {
    tokio::time::timeout(ANSWER, call)
        .await
        .map_err(|_| tonic::Status::deadline_exceeded(format!("no answer from the manager in {ANSWER:?}")))?
}

async fn take_session(shared: &Shared, message: v1::SessionMessage) {
    let (identity, epoch) = (shared.identity.clone(), message.trust_epoch);
    let trust = Trust { roots_pem: message.root_ca_pem, epoch };
    match identity.host().clone().blocking(move || identity.trust(&trust)).await {
        Ok(true) => {
            tracing::info!(epoch, "the swarm's roots have changed, this node trusts the present ones")
        }
        Ok(false) => {}
        Err(error) => tracing::error!(%error, "this node cannot trust the swarm's present roots"),
    }
    shared.remotes.replace(message.managers.iter().map(|m| m.addr.clone()).collect()).await;
    shared.managers.send_replace(message.managers);
    if let Some(node) = message.node {
        shared.node.send_if_modified(|have| {
            let changed = have.as_ref() != Some(&node);
            *have = Some(node);
            changed
        });
    }
}

async fn heartbeats(
    mut client: DispatcherClient<Channel>,
    session_id: &str,
    usage: &Usage,
) -> Result<(), tonic::Status> {
    loop {
        let request = v1::HeartbeatRequest { session_id: session_id.to_owned(), usage: usage.take() };
        let answer = timely(client.heartbeat(request)).await?.into_inner();
        usage.ask(answer.usage_wanted);
        tokio::time::sleep(Duration::from_millis(answer.period_ms.max(100))).await;
    }
}

async fn assignments(
    mut client: DispatcherClient<Channel>,
    session_id: &str,
    shared: &Shared,
) -> Result<(), tonic::Status> {
    let request = v1::AssignmentsRequest { session_id: session_id.to_owned() };
    let mut stream = timely(client.assignments(request)).await?.into_inner();
    while let Some(message) = stream.message().await? {
        let mut outcome = Ok(());
        shared.assignments.send_modify(|set| outcome = set.apply(message));
        outcome.map_err(|e| tonic::Status::aborted(e.to_string()))?;
    }
    Err(tonic::Status::unavailable("the manager ended the assignments"))
}

async fn statuses(
    mut client: DispatcherClient<Channel>,
    session_id: &str,
    shared: &Shared,
) -> Result<(), tonic::Status> {
    loop {
        while let Some(batch) = shared.outbox.take() {
            let request = v1::UpdateTaskStatusRequest {
                session_id: session_id.to_owned(),
                updates: batch.updates.clone(),
                acks: batch.acks.clone(),
            };
            // Dropped half-way (the session broke elsewhere) counts as not sent: statuses are idempotent.
            let mut guard = PutBack { outbox: &shared.outbox, batch: Some(batch) };
            timely(client.update_task_status(request)).await?;
            guard.batch = None;
        }
        shared.outbox.filled().await;
        tokio::time::sleep(GATHER).await;
    }
}

struct PutBack<'a> {
    outbox: &'a Outbox,
    batch: Option<crate::status::Batch>,
}

impl Drop for PutBack<'_> {
    fn drop(&mut self) {
        if let Some(batch) = self.batch.take() {
            self.outbox.put_back(batch);
        }
    }
}

/// Ends the session when the node's description or addresses change, so that the next one carries the new ones.
async fn described(shared: &Shared) -> Result<(), tonic::Status> {
    let (mut description, mut addresses) = (shared.description.clone(), shared.addresses.clone());
    description.mark_unchanged();
    addresses.mark_unchanged();
    tokio::select! {
        Ok(()) = description.changed() => {}
        Ok(()) = addresses.changed() => {}
        else => std::future::pending().await,
    }
    Err(tonic::Status::cancelled("this node's description changed, registering anew"))
}

/// What the managers are told of this node's certificate.
fn certified_as(identity: &Identity) -> (v1::TlsInfo, v1::NodeRole) {
    let current = identity.current();
    let role = match current.identity().role {
        Role::Manager => v1::NodeRole::Manager,
        Role::Worker => v1::NodeRole::Worker,
    };
    (current.tls_info().clone(), role)
}

/// The same for a certificate of another role or issuer, or other roots.
async fn certified(
    identity: &Identity,
    mut renewals: watch::Receiver<u64>,
    told: &(v1::TlsInfo, v1::NodeRole),
) -> Result<(), tonic::Status> {
    while certified_as(identity) == *told {
        if renewals.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
    Err(tonic::Status::cancelled("this node's certificate is of another role or root, registering anew"))
}
