//! Starting a shim's process, from an executable that no container can write to.

use std::io::Write as _;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::ShimError;
use crate::runtime::mount_api;
use crate::shim::spec::SPEC_FILE;

/// Writes the specification and runs a shim that finds `orders` waiting. The connection is ours alone.
pub(super) fn spawn(
    exe: &Path,
    bundle: &Path,
    spec: &[u8],
    orders: &[u8],
) -> Result<std::os::unix::net::UnixStream, ShimError> {
    std::fs::write(bundle.join(SPEC_FILE), spec)
        .map_err(ShimError::system("write", &bundle.join(SPEC_FILE)))?;
    let (ours, theirs) =
        std::os::unix::net::UnixStream::pair().map_err(ShimError::system("open socket for", bundle))?;
    (&ours).write_all(orders).map_err(ShimError::system("leave orders for shim in", bundle))?;
    let program = protected(exe)?;
    let mut child = Command::new(program)
        .arg0("skep")
        .arg("shim")
        .arg(bundle)
        // The daemon's may hold secrets, and the reaper (`--init`) is this process's image.
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(ShimError::system("run", exe))?;
    // The process itself forks and ends at once.
    child.wait().map_err(ShimError::system("wait for", exe))?;
    Ok(ours)
}

/// A path to `exe` on a detached read-only mount, so that no container can write to it through
/// /proc (CVE-2019-5736). The mounts live as long as the daemon.
fn protected(exe: &Path) -> Result<PathBuf, ShimError> {
    static MOUNTS: OnceLock<Mutex<Vec<(PathBuf, OwnedFd)>>> = OnceLock::new();
    let mut mounts = MOUNTS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    let at = match mounts.iter().position(|(path, _)| path == exe) {
        Some(at) => at,
        None => {
            let mount = mount_api::clone_path(exe, false)
                .and_then(|m| mount_api::set_attributes(&m, mount_api::RDONLY, false).map(|()| m))
                .map_err(ShimError::system("protect", exe))?;
            mounts.push((exe.to_owned(), mount));
            mounts.len() - 1
        }
    };
    Ok(PathBuf::from(format!("/proc/self/fd/{}", mounts[at].1.as_raw_fd())))
}
