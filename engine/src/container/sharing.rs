//! Namespaces that a container has in common with the host or with another container.

use std::path::PathBuf;

use super::slot::Slot;
use crate::config::{Container, ContainerConfig, IpcMode, NetworkMode, PidMode};
use crate::engine::Engine;
use crate::error::Error;
use crate::shim::spec::{Namespace, SHM_DIRECTORY, Shm};

impl Engine {
    /// Where a container's cgroup is, below the root of each hierarchy.
    pub(super) fn cgroup_path(&self, c: &Container) -> String {
        let parent = c.config.cgroup_parent.as_deref().unwrap_or_else(|| self.cgroup_parent());
        format!("{}/{}", parent.trim_matches('/'), c.id)
    }

    /// Names the containers whose namespaces a new one is to share by their IDs, as they may be given other names.
    pub(super) fn identify_shared(&self, config: &mut ContainerConfig) -> Result<(), Error> {
        // As with Docker, this one may be made later.
        if let NetworkMode::Container(other) = &mut config.network
            && let Ok(found) = self.table().find(other)
        {
            other.clone_from(&found.id);
        }
        let pid = match &mut config.pid_mode {
            PidMode::Container(other) => Some(other),
            _ => None,
        };
        let ipc = match &mut config.ipc_mode {
            Some(IpcMode::Container(other)) => Some(other),
            _ => None,
        };
        for other in pid.into_iter().chain(ipc) {
            // A client that reads "not found" here takes it for the image.
            let found = self.table().find(other).map_err(|e| Error::Invalid(e.to_string()))?;
            other.clone_from(&found.id);
        }
        Ok(())
    }

    /// The user namespace of the container whose PID or IPC namespace one is to be in, which it has to be in then.
    pub(super) fn shared_userns(&self, c: &Container) -> Option<PathBuf> {
        let ((PidMode::Container(other), _) | (_, Some(IpcMode::Container(other)))) =
            (&c.config.pid_mode, &c.config.ipc_mode)
        else {
            return None;
        };
        let other = self.table().find(other).ok()?.container();
        let pid = other.pid.filter(|_| other.id_maps.is_some())?;
        Some(format!("/proc/{pid}/ns/user").into())
    }

    pub(super) fn pid_namespace(&self, c: &Container) -> Result<Namespace, Error> {
        Ok(match &c.config.pid_mode {
            PidMode::Private => Namespace::New,
            PidMode::Host => Namespace::Host,
            PidMode::Container(other) => Namespace::Path(self.namespace_of(other, "PID", "pid")?.1.into()),
        })
    }

    pub(super) fn ipc_namespace(&self, c: &Container) -> Result<(Namespace, Shm), Error> {
        Ok(match c.config.ipc_mode.as_ref().unwrap_or(&IpcMode::Private) {
            IpcMode::Private => (Namespace::New, Shm::Private),
            IpcMode::None => (Namespace::New, Shm::None),
            IpcMode::Shareable => (Namespace::New, Shm::Shared),
            IpcMode::Host => (Namespace::Host, Shm::Path("/dev/shm".into())),
            IpcMode::Container(other) => {
                let (slot, path) = self.namespace_of(other, "IPC", "ipc")?;
                if slot.container().config.ipc_mode != Some(IpcMode::Shareable) {
                    return Err(Error::Conflict(format!(
                        "failed to join IPC namespace: container {other}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)"
                    )));
                }
                (Namespace::Path(path.into()), Shm::Path(self.bundle(&slot.id).join(SHM_DIRECTORY)))
            }
        })
    }

    fn namespace_of(
        &self,
        other: &str,
        word: &str,
        name: &str,
    ) -> Result<(std::sync::Arc<Slot>, String), Error> {
        let failed = |why: String| Error::Conflict(format!("failed to join {word} namespace: {why}"));
        let slot = self.table().find(other).map_err(|e| failed(e.to_string()))?;
        let pid =
            slot.container().pid.ok_or_else(|| failed(format!("container {} is not running", slot.id)))?;
        Ok((slot, format!("/proc/{pid}/ns/{name}")))
    }
}
