//! `RUN --mount=type=ssh`: a socket in the container, each of whose connections is handed to the client of the build, which
//! joins it with its own agent. The client is told of one beside all that the build says, and comes for it by its name.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use serde_json::json;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::task::AbortOnDropHandle;

use super::output::{BuildEvent, Output};
use crate::dockerfile::Mount;
use crate::engine::Engine;
use crate::error::Error;
use crate::image::unused_name;
use crate::runtime::resolve::fd_path;

/// Connections of one socket that the client has not come for yet; more than that wait in the kernel.
const PENDING: usize = 64;

/// Connections that a client is to come for.
static WAITING: LazyLock<Mutex<BTreeMap<String, UnixStream>>> = LazyLock::new(Mutex::default);

fn waiting() -> std::sync::MutexGuard<'static, BTreeMap<String, UnixStream>> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A socket of a command. Dropped, it takes no more connections, and those that nobody came for end.
pub(super) struct Forwarded {
    /// Its path on the host.
    pub(super) path: PathBuf,
    directory: File,
    _accepting: AbortOnDropHandle<()>,
}

impl Forwarded {
    /// The address that other processes of the host reach it by: as short as those of sockets must be (unix(7)), however
    /// long its path is.
    pub(super) fn address(&self) -> PathBuf {
        let name = self.path.file_name().unwrap_or_default();
        let fd = self.directory.as_raw_fd();
        PathBuf::from(format!("/proc/{}/fd/{fd}", std::process::id())).join(name)
    }
}

/// Those of one socket.
struct Own(Vec<String>);

impl Drop for Own {
    fn drop(&mut self) {
        let mut all = waiting();
        self.0.iter().for_each(|name| drop(all.remove(name)));
    }
}

/// Listens in a directory of the step's own, as `name`; whom the socket belongs to is said by a mount.
pub(super) fn forward(
    m: Option<&Mount>,
    id: &str,
    dir: &Path,
    name: &str,
    aside: &Output,
) -> Result<Forwarded, Error> {
    let path = dir.join(name);
    let failed = |operation| Error::io(operation, &path);
    // The address of a socket is shorter than paths may be.
    let directory = File::open(dir).map_err(Error::io("open", dir))?;
    let listener = UnixListener::bind(fd_path(directory.as_fd()).join(name)).map_err(failed("listen at"))?;
    let (uid, gid) = (m.and_then(|m| m.uid).unwrap_or(0), m.and_then(|m| m.gid).unwrap_or(0));
    std::os::unix::fs::chown(&path, Some(uid), Some(gid)).map_err(failed("own"))?;
    let mode = std::fs::Permissions::from_mode(m.and_then(|m| m.mode).unwrap_or(0o600));
    std::fs::set_permissions(&path, mode).map_err(failed("set the mode of"))?;
    let (id, aside) = (id.to_owned(), aside.clone());
    let accepting = tokio::spawn(async move {
        let mut own = Own(Vec::new());
        while let Ok((stream, _)) = listener.accept().await {
            {
                let all = waiting();
                own.0.retain(|name| all.contains_key(name));
            }
            if own.0.len() >= PENDING {
                // Whoever connects sees it end.
                continue;
            }
            let name = unused_name();
            waiting().insert(name.clone(), stream);
            own.0.push(name.clone());
            aside.event(BuildEvent::Aux(json!({ "Skep.Agent": { "Id": id, "Connection": name } }))).await;
        }
    });
    Ok(Forwarded { path, directory, _accepting: AbortOnDropHandle::new(accepting) })
}

impl Engine {
    /// A connection to the agent that a build's client forwards, by the name that the client was told.
    ///
    /// # Errors
    /// There is none of that name any more.
    pub fn agent_connection(&self, name: &str) -> Result<UnixStream, Error> {
        waiting().remove(name).ok_or_else(|| {
            Error::Conflict(format!("no command of a build waits for a connection {name} to an agent"))
        })
    }
}
