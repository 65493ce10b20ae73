//! The processes of a container, in the columns of ps(1).

use super::ps::{Asked, Host, Process};
use crate::config::ContainerState;
use crate::engine::Engine;
use crate::error::{Error, blocking};

/// A table of processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Top {
    /// One a column.
    pub titles: Vec<String>,
    /// One row a process.
    pub processes: Vec<Vec<String>>,
}

impl Engine {
    /// The processes of a container that runs. `ps_args` are arguments as ps(1) takes them; empty is `-ef`.
    pub async fn top(&self, id: &str, ps_args: &str) -> Result<Top, Error> {
        let slot = self.table().find(id)?;
        let asked = Asked::parse(ps_args)?;
        match slot.container().state {
            ContainerState::Running | ContainerState::Paused => {}
            ContainerState::Restarting => {
                return Err(Error::Conflict(format!(
                    "Container {} is restarting, wait until the container is running",
                    slot.id
                )));
            }
            _ => return Err(Error::NotRunning { id: slot.id.clone() }),
        }
        let cgroup = self.cgroup(&slot)?;
        let of = slot.clone();
        let top = blocking(move || {
            let mut pids = cgroup
                .all_processes()
                .map_err(|e| Error::Shim { id: slot.id.clone(), reason: format!("read its cgroup: {e}") })?;
            pids.sort_unstable();
            let host = Host::read();
            let found = pids.into_iter().flat_map(|pid| match asked.threads {
                true => Process::read_threads(pid),
                false => Process::read(pid, None).into_iter().collect(),
            });
            let row = |p: &Process| asked.columns.iter().map(|c| (c.cell)(p, &host)).collect();
            Ok(Top {
                titles: asked.columns.iter().map(|c| c.title.clone()).collect(),
                processes: asked.choose(found.collect(), &host).iter().map(row).collect(),
            })
        })
        .await?;
        self.emit(&of, "top", &[]);
        Ok(top)
    }
}
