//! The raft node as others see it: propose, read, change members, stop.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use skep_proto::v1;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::codec::{self, BadMessage};
use super::core::Input;
use super::error::{MembershipError, ProposeError, ReadError};
use super::node::RaftOptions;
use super::status::{Leadership, RaftStatus, Role};

/// Cheap handle to a running raft node.
#[derive(Clone)]
pub struct Raft(Arc<Shared>);

struct Shared {
    inbox: mpsc::Sender<Input>,
    identity: v1::RaftIdentity,
    options: RaftOptions,
    status: watch::Receiver<RaftStatus>,
    leadership: watch::Receiver<Leadership>,
    applied: watch::Receiver<u64>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Raft {
    pub(super) fn new(
        inbox: mpsc::Sender<Input>,
        identity: v1::RaftIdentity,
        options: RaftOptions,
        status: watch::Receiver<RaftStatus>,
        leadership: watch::Receiver<Leadership>,
        applied: watch::Receiver<u64>,
        task: JoinHandle<()>,
    ) -> Self {
        Self(Arc::new(Shared {
            inbox,
            identity,
            options,
            status,
            leadership,
            applied,
            task: Mutex::new(Some(task)),
        }))
    }

    /// Whose node this is.
    pub fn identity(&self) -> &v1::RaftIdentity {
        &self.0.identity
    }

    /// The node's state, as it changes.
    pub fn status(&self) -> watch::Receiver<RaftStatus> {
        self.0.status.clone()
    }

    /// Who leads, as it changes.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.0.leadership.clone()
    }

    /// The last applied index, as it grows.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.0.applied.clone()
    }

    fn stopped(&self) -> String {
        self.0.status.borrow().failure.clone().unwrap_or_else(|| "it ended unexpectedly".into())
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.0.options.timing.request
    }

    /// Proposes changes computed on the state at `based_on` (0 = any). Resolves with the batch's index once
    /// it is applied to this manager's state machine.
    pub async fn propose(&self, based_on: u64, changes: Vec<v1::Change>) -> Result<u64, ProposeError> {
        let waited = self.0.options.timing.request;
        let deadline = self.deadline();
        let mut leadership = self.leadership();
        loop {
            let lost = ProposeError::QuorumLost { waited };
            match timeout_at(deadline, leadership.wait_for(|now| now.leader.is_some())).await {
                Err(_) => return Err(lost),
                Ok(Err(_)) => return Err(ProposeError::Stopped(self.stopped())),
                Ok(Ok(now))
                    if now.leader.as_ref().is_none_or(|leader| leader.raft_id != self.0.identity.raft_id) =>
                {
                    return Err(ProposeError::NotLeader { leader: now.leader.clone() });
                }
                Ok(Ok(_)) => {}
            }
            let (reply, answer) = oneshot::channel();
            let input = Input::Propose { based_on, changes: changes.clone(), reply };
            match timeout_at(deadline, self.0.inbox.send(input)).await {
                Err(_) => return Err(lost),
                Ok(Err(_)) => return Err(ProposeError::Stopped(self.stopped())),
                Ok(Ok(())) => {}
            }
            let unknown = |reason: String| ProposeError::Unknown { reason };
            match timeout_at(deadline, answer).await {
                Err(_) => {
                    let reason = format!(
                        "no quorum of the managers confirmed the change within {} s",
                        waited.as_secs()
                    );
                    return Err(unknown(reason));
                }
                Ok(Err(_)) => return Err(unknown(self.stopped())),
                // Nothing was written and nobody else is known to lead: the office is changing hands.
                Ok(Ok(Err(ProposeError::NotLeader { leader: None }))) => {
                    let changed = async { leadership.changed().await };
                    if timeout_at(deadline, changed).await.is_err() {
                        return Err(lost);
                    }
                }
                Ok(Ok(result)) => return result,
            }
        }
    }

    /// An index that includes every write acknowledged before the call, confirmed by a quorum; it is applied
    /// here when this resolves. Works on every member.
    pub async fn read_index(&self) -> Result<u64, ReadError> {
        let waited = self.0.options.timing.request;
        let deadline = self.deadline();
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.0.inbox.send(Input::Read { reply }).await.map_err(|_| ReadError::Stopped(self.stopped()))?;
            answer.await.map_err(|_| ReadError::Stopped(self.stopped()))
        };
        timeout_at(deadline, asked).await.unwrap_or(Err(ReadError::QuorumLost { waited }))
    }

    /// Whether a raft ID belonged to a member that was removed.
    pub fn is_removed(&self, raft_id: u64) -> bool {
        self.0.status.borrow().removed_members.contains(&raft_id)
    }

    /// Takes a message from a peer in. It may be dropped when the node is too busy; raft copes.
    pub fn receive(&self, message: v1::RaftMessage) -> Result<(), BadMessage> {
        let own = &self.0.identity.cluster_id;
        if message.cluster_id != *own {
            let problem = format!("a raft message of cluster {} came to cluster {own}", message.cluster_id);
            return Err(BadMessage(problem));
        }
        let message = codec::message_from_wire(message)?;
        // Full or closed: a lost message, as any network loses some.
        let _ = self.0.inbox.try_send(Input::Message(Box::new(message)));
        Ok(())
    }

    /// Asks the node and, while another change of members is under way, asks again.
    async fn change<T, F>(&self, input: F) -> Result<T, MembershipError>
    where
        F: Fn(oneshot::Sender<Result<T, MembershipError>>) -> Input,
    {
        let deadline = self.deadline();
        let mut status = self.status();
        loop {
            let (reply, answer) = oneshot::channel();
            let stopped = || MembershipError::Propose(ProposeError::Stopped(self.stopped()));
            self.0.inbox.send(input(reply)).await.map_err(|_| stopped())?;
            let late =
                || ProposeError::Unknown { reason: "no quorum confirmed the change of managers".into() };
            match within(deadline, answer).await {
                None => return Err(late().into()),
                Some(Err(_)) => return Err(stopped()),
                Some(Ok(Err(MembershipError::Busy))) => match within(deadline, status.changed()).await {
                    None => return Err(MembershipError::Busy),
                    Some(Err(_)) => return Err(stopped()),
                    Some(Ok(())) => {}
                },
                Some(Ok(result)) => return result,
            }
        }
    }

    /// On the leader: lets a node in, as a learner that votes once it has caught up. Asking again is harmless.
    pub async fn join(&self, node_id: &str, addr: &str) -> Result<v1::RaftJoinResponse, MembershipError> {
        self.change(|reply| Input::Join { node_id: node_id.into(), addr: addr.into(), reply }).await
    }

    /// Takes in where a member is reached now; on the leader, for good.
    pub async fn readdress(&self, node_id: &str, addr: &str) -> Result<(), MembershipError> {
        self.change(|reply| Input::Readdress { node_id: node_id.into(), addr: addr.into(), reply }).await
    }

    /// Has messages to a member sent where it was reached.
    pub fn reached(&self, node_id: &str, addr: &str) {
        // Full or closed: it is told again.
        let _ = self.0.inbox.try_send(Input::Moved { node_id: node_id.into(), addr: addr.into() });
    }

    /// On the leader: takes a node out.
    pub async fn remove(&self, node_id: &str) -> Result<(), MembershipError> {
        self.change(|reply| Input::Remove { node_id: node_id.into(), reply }).await
    }

    /// On the leader: hands the office to the most advanced voter and waits until it is taken.
    pub async fn transfer_leadership(&self) -> Result<(), MembershipError> {
        let mut leadership = self.leadership();
        let id = self.change(|reply| Input::Transfer { reply }).await?;
        let own = self.0.identity.raft_id;
        let deadline =
            Instant::now() + self.0.options.timing.tick * self.0.options.timing.max_election_ticks as u32 * 2;
        let taken =
            leadership.wait_for(|now| now.leader.as_ref().is_some_and(|leader| leader.raft_id != own));
        match within(deadline, taken).await {
            Some(Ok(_)) => Ok(()),
            _ => {
                tracing::warn!(to = id, "leadership was not taken over in time");
                Err(MembershipError::NoSuccessor)
            }
        }
    }

    /// Hands leadership over when this node has it, then ends the node and closes its log.
    pub async fn stop(&self) {
        let leads = self.0.status.borrow().role == Role::Leader;
        let others = self.0.status.borrow().members.iter().filter(|member| member.voter).count() > 1;
        if leads
            && others
            && let Err(error) = self.transfer_leadership().await
        {
            tracing::warn!(%error, "stopping without handing leadership over");
        }
        // Closed means ended already.
        let _ = self.0.inbox.send(Input::Stop).await;
        let task = self.0.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::error!(%error, "the raft task did not end by itself");
        }
    }
}

async fn within<F: Future>(deadline: Instant, future: F) -> Option<F::Output> {
    timeout_at(deadline, future).await.ok()
}
