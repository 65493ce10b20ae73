//! A worker whose address nobody named follows its host when that gets another one.

use std::net::SocketAddr;
use std::sync::Arc;

use skep_api::swarm::SwarmError;

use super::super::address;
use super::{Member, Node, failed, lock, reached_at};

impl Node {
    /// Looks at the address whenever the node has come in touch with a manager: connections break with the old one.
    pub(super) async fn follow_address(self, member: Arc<Member>) {
        let mut connection = member.agent.connection();
        loop {
            let manager = connection.borrow_and_update().manager.clone();
            if let Some(manager) = manager.and_then(|m| m.parse().ok()) {
                // Not in the midst of another change of the membership, whose record this would undo.
                let _one = self.inner.changing.lock().await;
                if let Err(e) = self.readdress(&member, manager) {
                    tracing::warn!(error = %e, "this host's new address is not kept");
                }
            }
            if connection.changed().await.is_err() {
                return;
            }
        }
    }

    fn readdress(&self, member: &Member, manager: SocketAddr) -> Result<(), SwarmError> {
        let mut membership = lock(&member.membership).clone();
        // Other managers look for a manager where it joined from.
        if !membership.advertise_found || lock(&member.manager).is_some() {
            return Ok(());
        }
        let before = membership.advertise_addr.ip();
        let Some(now) = address::source_towards(manager).filter(|now| *now != before) else { return Ok(()) };
        tracing::info!(%before, %now, "this host's address has changed");
        membership.advertise_addr.set_ip(now);
        membership.save(&self.inner.options.dir).map_err(failed)?;
        member.addresses.send_replace(reached_at(&membership));
        *lock(&member.membership) = membership;
        Ok(())
    }
}
