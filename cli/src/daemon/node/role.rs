//! Runs a manager on this host exactly while the node's certificate has the manager's role.

use std::sync::Arc;

use skep_api::swarm::SwarmError;
use skep_identity::Role;
use skep_manager::Start;

use super::{Member, Node, lock, remove_dir};

impl Node {
    /// Runs a manager exactly while this node's certificate says manager.
    pub(super) async fn follow_role(self, member: Arc<Member>) {
        let mut renewals = member.identity.renewals();
        loop {
            let wanted = member.identity.role() == Role::Manager;
            let running = lock(&member.manager).is_some();
            let outcome = match (wanted, running) {
                (true, false) => self.promote(&member).await,
                (false, true) => self.demote(&member).await,
                // A crash cut a demotion off: this log is not to be gone on with when the node is promoted again.
                (false, false) => remove_dir(&self.dir("manager")),
                (true, true) => Ok(()),
            };
            *lock(&member.manager_error) =
                outcome.as_ref().err().map(ToString::to_string).unwrap_or_default();
            if let Err(e) = outcome {
                tracing::warn!(error = %e, "this node could not take its new role, trying again");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                continue;
            }
            if renewals.changed().await.is_err() {
                return;
            }
        }
    }

    async fn promote(&self, member: &Member) -> Result<(), SwarmError> {
        let membership = lock(&member.membership).clone();
        let own = membership.advertise_addr.to_string();
        let others = member.agent.managers().into_iter().filter(|a| *a != own);
        let mut last = SwarmError::Unavailable("no manager to join is known".into());
        for remote in others {
            let start = if self.dir("manager").exists() { Start::Restart } else { Start::Join { remote } };
            match self.start_manager(&member.identity, &membership, start).await {
                Ok(manager) => {
                    *lock(&member.manager) = Some(manager);
                    tracing::info!("this node is a manager now");
                    return Ok(());
                }
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    async fn demote(&self, member: &Member) -> Result<(), SwarmError> {
        let manager = lock(&member.manager).take();
        if let Some(manager) = manager {
            manager.stop().await;
        }
        remove_dir(&self.dir("manager"))?;
        tracing::info!("this node is a worker now");
        Ok(())
    }
}
