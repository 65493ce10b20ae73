//! Who may call what. A connection is verified once, by its certificate; what its node may do is judged at
//! every request, by what the cluster says of that node now: one demoted or removed since then keeps its
//! connections open, and must not keep its rights with them.

use skep_identity::{PeerIdentity, Role, require, require_any};
use tonic::{Extensions, Status};

use crate::store::{Store, StoreView};

/// What this manager's copy of the cluster says of a node.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    /// Part of the swarm, in this role.
    Member(Role),
    /// Not part of it, as far as is known here.
    Unknown,
    /// Nothing is known of any node yet: this manager has just joined.
    Blank,
}

fn standing(view: &StoreView, node_id: &str) -> Standing {
    match view.node(node_id) {
        Some(node) => Standing::Member(node.role()),
        None if view.cluster().is_none() => Standing::Blank,
        None => Standing::Unknown,
    }
}

fn no_manager(node_id: &str) -> Status {
    Status::permission_denied(format!(
        "node {node_id} is not a manager any more: this call is for managers (docker node promote)"
    ))
}

pub(crate) fn removed(node_id: &str) -> Status {
    Status::permission_denied(format!(
        "node {node_id} is not part of the swarm any more: run docker swarm leave on it, and join again"
    ))
}

/// The answer to a node of which the leader, or this manager's own history, is sure that it was removed: it
/// carries a mark, by which the node ends its tasks.
pub(crate) fn surely_removed(node_id: &str) -> Status {
    skep_identity::removed(format!(
        "node {node_id} was removed from the swarm: run `docker swarm leave --force` on it, and join again"
    ))
}

/// The manager a request comes from.
pub(crate) fn manager(store: &Store, extensions: &Extensions) -> Result<PeerIdentity, Status> {
    let peer = require(extensions, Role::Manager)?;
    match standing(&store.view(), peer.node_id.as_str()) {
        Standing::Member(Role::Manager) | Standing::Blank => Ok(peer),
        Standing::Member(Role::Worker) => Err(no_manager(peer.node_id.as_str())),
        Standing::Unknown => Err(removed(peer.node_id.as_str())),
    }
}

/// The sender of raft messages. One unknown here passes: it may have become a manager while this one was cut
/// off, and without its messages this one would never learn of it. Raft itself knows removed members.
pub(crate) fn raft_peer(store: &Store, extensions: &Extensions) -> Result<PeerIdentity, Status> {
    let peer = require(extensions, Role::Manager)?;
    match standing(&store.view(), peer.node_id.as_str()) {
        Standing::Member(Role::Worker) => Err(no_manager(peer.node_id.as_str())),
        _ => Ok(peer),
    }
}

/// The node a request comes from, whatever its role.
pub(crate) fn node(store: &Store, extensions: &Extensions) -> Result<PeerIdentity, Status> {
    let peer = require_any(extensions)?;
    match standing(&store.view(), peer.node_id.as_str()) {
        Standing::Unknown => Err(removed(peer.node_id.as_str())),
        Standing::Member(_) | Standing::Blank => Ok(peer),
    }
}
