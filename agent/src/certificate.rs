//! Keeps the node's certificate fresh: renewed at random between half and four fifths of its life, and
//! at once when the node's role in the swarm is no longer the one it certifies, or the swarm asks for it.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use skep_identity::{Identity, Network};
use skep_proto::v1;
use tokio::sync::watch;

use crate::reach::any_manager;
use crate::remotes::Remotes;

/// Pause after a renewal that failed.
const RETRY: Duration = Duration::from_secs(2);
/// Longest sleep in one go, so that a changed clock is noticed.
const LOOK: Duration = Duration::from_secs(3600);

/// Runs for ever.
pub(crate) async fn keep_fresh(
    identity: Identity,
    network: Arc<dyn Network>,
    remotes: Arc<Remotes>,
    mut node: watch::Receiver<Option<v1::Node>>,
) {
    let share = identity.host().rng().random_range(0.5..0.8);
    loop {
        let outdated = |node: &v1::Node| {
            node.role() != identity.role() || node.renew_epoch > identity.current().issued_epoch()
        };
        let asked = node.borrow_and_update().as_ref().is_some_and(outdated);
        let due = identity.renew_at(share).duration_since(identity.host().now()).unwrap_or_default();
        if asked || due.is_zero() {
            if let Err(e) = renew(&identity, &network, &remotes).await {
                tracing::warn!(error = %e, "this node's certificate could not be renewed, trying again");
                tokio::time::sleep(RETRY).await;
            } else {
                tracing::info!(role = ?identity.role(), "this node has a new certificate");
                if node.borrow().as_ref().is_some_and(outdated) {
                    // The manager that signed it is behind.
                    tokio::time::sleep(RETRY).await;
                }
            }
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep(due.min(LOOK)) => {}
            r = node.changed() => if r.is_err() { return },
        }
    }
}

async fn renew(identity: &Identity, network: &Arc<dyn Network>, remotes: &Remotes) -> Result<(), String> {
    let (addr, channel) = any_manager(identity, network, remotes).await?;
    skep_identity::renew(identity, channel).await.map(drop).map_err(|e| format!("manager {addr}: {e}"))
}
