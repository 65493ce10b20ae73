//! The sessions open at this manager: at most one per node, the newest.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;
use tonic::Status;

/// One agent's session.
pub(super) struct Session {
    pub id: String,
    pub node_id: String,
    /// Cancelled when another session of the node takes its place, or the node is removed.
    pub closed: CancellationToken,
}

#[derive(Default)]
pub(super) struct Sessions {
    by_node: Mutex<HashMap<String, Arc<Session>>>,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Session>>> {
        self.by_node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a session for a node; one it has is closed.
    pub fn open(&self, node_id: &str, id: String) -> Arc<Session> {
        let closed = CancellationToken::new();
        let session = Arc::new(Session { id, node_id: node_id.to_owned(), closed });
        if let Some(old) = self.lock().insert(node_id.to_owned(), session.clone()) {
            old.closed.cancel();
        }
        session
    }

    /// The session a call names, if it is the node's.
    pub fn check(&self, node_id: &str, id: &str) -> Result<Arc<Session>, Status> {
        let sessions = self.lock();
        let session = sessions.get(node_id).filter(|s| s.id == id);
        session.cloned().ok_or_else(|| {
            Status::not_found(format!("session {id} of node {node_id} is not known here: open a new one"))
        })
    }

    /// Closes a node's session: it is not part of the swarm any more.
    pub fn close(&self, node_id: &str) {
        if let Some(session) = self.lock().remove(node_id) {
            session.closed.cancel();
        }
    }

    /// Takes the session off the table when dropped.
    pub fn closing(self: &Arc<Self>, session: &Arc<Session>) -> Closing {
        Closing { sessions: self.clone(), session: session.clone() }
    }
}

pub(super) struct Closing {
    sessions: Arc<Sessions>,
    session: Arc<Session>,
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.session.closed.cancel();
        let mut sessions = self.sessions.lock();
        if sessions.get(&self.session.node_id).is_some_and(|s| s.id == self.session.id) {
            sessions.remove(&self.session.node_id);
        }
    }
}
