//! Namespaces that a container has in common with the host or with another container.

use super::slot::Slot;
use crate::config::{Container, IpcMode, PidMode};
use crate::engine::Engine;
use crate::error::Error;
use crate::shim::spec::{Namespace, SHM_DIRECTORY, Shm};

impl Engine {
    /// Where a container's cgroup is, below the root of each hierarchy.
    pub(super) fn cgroup_path(&self, c: &Container) -> String {
        let parent = c.config.cgroup_parent.as_deref().unwrap_or_else(|| self.cgroup_parent());
        format!("{}/{}", parent.trim_matches('/'), c.id)
    }

    pub(super) fn pid_namespace(&self, c: &Container) -> Result<Namespace, Error> {
        Ok(match &c.config.pid_mode {
            PidMode::Private => Namespace::New,
            PidMode::Host => Namespace::Host,
            PidMode::Container(other) => Namespace::Path(self.namespace_of(other, "PID", "pid")?.1.into()),
        })
    }

    pub(super) fn ipc_namespace(&self, c: &Container) -> Result<(Namespace, Shm), Error> {
        Ok(match &c.config.ipc_mode {
            IpcMode::Private => (Namespace::New, Shm::Private),
            IpcMode::None => (Namespace::New, Shm::None),
            IpcMode::Shareable => (Namespace::New, Shm::Shared),
            IpcMode::Host => (Namespace::Host, Shm::Path("/dev/shm".into())),
            IpcMode::Container(other) => {
                let (slot, path) = self.namespace_of(other, "IPC", "ipc")?;
                if slot.container().config.ipc_mode != IpcMode::Shareable {
                    return Err(Error::Conflict(format!(
                        "cannot join IPC of container {other}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)"
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
        let slot = self.table().find(other)?;
        let pid = slot.container().pid.ok_or_else(|| {
            Error::Conflict(format!("cannot join {word} of a non running container: {other}; start it first"))
        })?;
        Ok((slot, format!("/proc/{pid}/ns/{name}")))
    }
}
