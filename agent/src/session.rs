//! The agent's session with one manager: registration, heartbeats, assignments in, statuses out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use skep_identity::{Identity, Role, Trust};
use skep_proto::v1::{self, dispatcher_client::DispatcherClient};
use tokio::sync::watch;
use tonic::Streaming;
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
/// How often a manager is told at once what this node is, where it knows of registrations that this node does not.
const ATTEMPTS: u32 = 3;

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
    /// Whether a manager has said, since this daemon started, what is assigned to this node.
    pub assigned: watch::Sender<bool>,
    /// The node's registrations that this daemon knows of (`SessionRequest.registration`).
    pub registration: AtomicU64,
}

/// Holds a session over `channel` until it breaks; the error says how. `established` is called once the
/// manager has taken the session.
pub(crate) async fn hold(
    channel: Channel,
    shared: &Shared,
    established: impl FnOnce(),
) -> Result<(), tonic::Status> {
    let mut client = DispatcherClient::new(channel).max_decoding_message_size(64 << 20);
    let (mut messages, first, told) = register(&mut client, shared).await?;
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
        r = told.outdated(&shared.identity) => r,
    }
}

/// Says what this node is, with the number of its registrations that it knows of; where that is not so any more (its daemon
/// was started again, or an answer got lost), once more with what it is by then.
async fn register(
    client: &mut DispatcherClient<Channel>,
    shared: &Shared,
) -> Result<(Streaming<v1::SessionMessage>, v1::SessionMessage, Told), tonic::Status> {
    let mut attempts = 1;
    loop {
        let known = shared.registration.load(Ordering::Relaxed);
        let mut told = Told::new(shared);
        let request = told.request(known);
        match timely(client.session(request)).await {
            Ok(answer) => {
                shared.registration.store(known + 1, Ordering::Relaxed);
                let mut messages = answer.into_inner();
                let first = timely(messages.message()).await?;
                let ended = || tonic::Status::unavailable("the manager ended the session at once");
                return Ok((messages, first.ok_or_else(ended)?, told));
            }
            Err(status) => match skep_identity::registration(&status) {
                Some(number) if attempts < ATTEMPTS => {
                    shared.registration.store(number, Ordering::Relaxed);
                    attempts += 1;
                }
                _ => return Err(status),
            },
        }
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
        shared.assigned.send_replace(true);
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

/// What a node has said of itself.
struct Told {
    description: watch::Receiver<v1::NodeDescription>,
    addresses: watch::Receiver<Addresses>,
    renewals: watch::Receiver<u64>,
    tls: v1::TlsInfo,
    role: v1::NodeRole,
}

impl Told {
    fn new(shared: &Shared) -> Self {
        let renewals = shared.identity.renewals();
        let (tls, role) = certified_as(&shared.identity);
        let (description, addresses) = (shared.description.clone(), shared.addresses.clone());
        Self { description, addresses, renewals, tls, role }
    }

    fn request(&mut self, registration: u64) -> v1::SessionRequest {
        let description = self.description.borrow_and_update().clone();
        let addresses = self.addresses.borrow_and_update().clone();
        let (tls, certified_role) = (Some(self.tls.clone()), self.role.into());
        v1::SessionRequest {
            description: Some(v1::NodeDescription { tls, certified_role, ..description }),
            session_id: String::new(),
            advertise_addr: addresses.advertise,
            data_path_addr: addresses.data_path,
            registration: Some(registration),
        }
    }

    /// Ends the session once that is not so any more: a change of the description or the addresses, or a certificate of
    /// another role or issuer, or with other roots. The next session carries what is.
    async fn outdated(mut self, identity: &Identity) -> Result<(), tonic::Status> {
        let certified = async {
            while certified_as(identity) == (self.tls.clone(), self.role) {
                if self.renewals.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let what = tokio::select! {
            Ok(()) = self.description.changed() => "description",
            Ok(()) = self.addresses.changed() => "addresses",
            () = certified => "certificate",
        };
        Err(tonic::Status::cancelled(format!("this node's {what} changed, registering anew")))
    }
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
