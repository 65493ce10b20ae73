//! The security modules' part of a start: which profile and labels a container gets, and files that get its label.

use std::sync::Arc;

use super::slot::Slot;
use crate::engine::Engine;
use crate::error::{Error, blocking};
use crate::lsm::{Confined, apparmor, selinux};
use crate::mount::{MountConfig, MountKind};

impl Engine {
    /// Decides and shows what the container runs in; relabels what it is given by `:z` and `:Z`.
    pub(super) async fn confine(&self, slot: &Arc<Slot>, mounts: &[MountConfig]) -> Result<Confined, Error> {
        let c = slot.container();
        let asked = c.config.security.clone();
        let shared =
            |m: &MountConfig| m.mode.split(',').find_map(|w| ["z", "Z"].contains(&w).then_some(w == "z"));
        let relabeled: Vec<_> = mounts
            .iter()
            .filter_map(|m| match &m.kind {
                MountKind::Bind { source, .. } => Some((source.clone(), shared(m)?)),
                _ => None,
            })
            .collect();
        let confined = blocking(move || {
            let privileged = c.config.privileged;
            let (process_label, mount_label) = selinux::labels(&asked.selinux, privileged, c.id.as_str());
            for (source, shared) in relabeled.iter().filter(|_| !mount_label.is_empty()) {
                selinux::relabel(source, &mount_label, *shared)?;
            }
            let apparmor = apparmor::profile(asked.apparmor.as_deref(), privileged)?;
            Ok(Confined { apparmor, process_label, mount_label })
        })
        .await?;
        slot.update(|c| c.confined.clone_from(&confined));
        Ok(confined)
    }
}
