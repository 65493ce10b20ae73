//! The keys of this host's membership, as they are on disk: read at start, or kept locked until somebody brings the
//! swarm's unlock key.

use skep_agent::TASK_LABEL;
use skep_api::swarm::SwarmError;
use skep_identity::{Identity, Role, UnlockKey};
use skep_manager::key_file;

use super::super::membership::Membership;
use super::{Node, failed, lock};

/// What an unlock key makes of the identity on disk.
pub(super) enum Keys {
    /// The identity, if there is one.
    Open(Option<Identity>),
    /// A manager's, sealed.
    Locked,
}

impl Node {
    /// Reads the node's keys; `unlock` opens those of a locked manager.
    pub(super) fn keys(&self, unlock: Option<&UnlockKey>) -> Result<Keys, SwarmError> {
        let dir = self.dir("identity");
        let kept = key_file(&self.dir("manager")).read().map_err(failed)?;
        let kept = match (Identity::load(&dir, None), kept) {
            (Err(skep_identity::Error::Sealed { .. }), Some(kept)) => kept,
            // A crash, or joining as a manager, may have left the node's own key readable.
            (Ok(Some(identity)), Some(kept)) if kept.is_sealed() && identity.role() == Role::Manager => kept,
            (other, _) => return other.map(Keys::Open).map_err(failed),
        };
        let key = match kept.open(unlock) {
            Ok(key) => key,
            Err(_) if unlock.is_none() => return Ok(Keys::Locked),
            Err(_) => return Err(SwarmError::InvalidUnlockKey),
        };
        Identity::load(&dir, Some(key)).map(Keys::Open).map_err(failed)
    }

    /// Whether the manager here waits for its unlock key.
    pub(super) fn is_locked(&self) -> bool {
        lock(&self.inner.state).locked.is_some()
    }

    /// This host is a member whose manager is locked: what runs here goes on.
    pub(super) fn stay_locked(&self, membership: Membership) {
        tracing::warn!(
            "this manager is locked: unlock it with `docker swarm unlock`; containers are not affected"
        );
        lock(&self.inner.state).locked = Some(membership);
    }

    pub(super) async fn try_unlock(&self, key: &str) -> Result<(), SwarmError> {
        if !self.is_locked() {
            return Err(SwarmError::NotLocked);
        }
        let key: UnlockKey = key.parse().map_err(|e| SwarmError::Invalid(format!("{e}")))?;
        self.resume(Some(&key)).await.map_err(|e| match e {
            SwarmError::InvalidUnlockKey => e,
            other => SwarmError::Failed(format!("swarm component could not be started: {other}")),
        })?;
        lock(&self.inner.state).locked = None;
        tracing::info!("this manager is unlocked");
        Ok(())
    }

    /// `leave --force` of a locked manager: nobody can be told, and what the swarm had here goes.
    pub(super) async fn leave_locked(&self, force: bool) -> Result<(), SwarmError> {
        if !force {
            return Err(SwarmError::LockedNeedsForce);
        }
        let engine = &self.inner.options.engine;
        let mut errors = Vec::new();
        for task in engine.list().into_iter().filter(|c| c.config.labels.contains_key(TASK_LABEL)) {
            let stopped = match engine.stop(task.id.as_str(), None).await {
                Ok(()) | Err(skep_engine::Error::NotRunning { .. }) => Ok(()),
                Err(e) => Err(e),
            };
            errors.extend(stopped.err().map(|e| e.to_string()));
            errors
                .extend(engine.remove_with(task.id.as_str(), true, true).await.err().map(|e| e.to_string()));
        }
        self.inner.options.attachments.alone();
        errors.extend(self.inner.options.plane.leave_swarm().await.err().map(|e| e.to_string()));
        errors.extend(self.wipe().await.err().map(|e| e.to_string()));
        if !errors.is_empty() {
            return Err(SwarmError::Failed(errors.join("; ")));
        }
        lock(&self.inner.state).locked = None;
        Ok(())
    }
}
