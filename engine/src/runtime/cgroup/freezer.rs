//! Freezing all processes of a cgroup (`pause`) and letting them go on.

use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Cgroup, Kind, write};
use crate::runtime::error::{Context, Error};

/// How long the kernel may take: a process in the midst of disk I/O is frozen after it.
const PATIENCE: Duration = Duration::from_secs(10);

impl Cgroup {
    /// Freezes it, or lets it go on; returns once that is done. Blocks.
    pub fn freeze(&self, frozen: bool) -> Result<(), Error> {
        let done = match &self.kind {
            Kind::V1(directories) => {
                let found = directories.iter().find(|d| d.has("freezer"));
                let directory = found.ok_or_else(|| {
                    Error::Refused(
                        "pause needs the cgroup controller \"freezer\", which is not mounted on this host"
                            .into(),
                    )
                })?;
                v1(&directory.path, frozen)
            }
            Kind::V2 { directory, .. } => v2(directory, frozen),
        };
        if done.is_err() && frozen {
            // Half of it frozen would be worse than none.
            let _ = self.freeze(false);
        }
        done
    }

    /// Whether it is frozen.
    pub fn is_frozen(&self) -> bool {
        match &self.kind {
            Kind::V1(directories) => directories.iter().find(|d| d.has("freezer")).is_some_and(|d| {
                std::fs::read_to_string(d.path.join("freezer.state")).is_ok_and(|s| s.trim() != "THAWED")
            }),
            Kind::V2 { directory, .. } => {
                std::fs::read_to_string(directory.join("cgroup.freeze")).is_ok_and(|s| s.trim() == "1")
            }
        }
    }
}

/// The v1 freezer tells nobody when it is done, and may have to be told again (a process that forked in the
/// meantime): kernel documentation, cgroup-v1/freezer-subsystem.
fn v1(directory: &Path, frozen: bool) -> Result<(), Error> {
    let state = if frozen { "FROZEN" } else { "THAWED" };
    let began = Instant::now();
    loop {
        write(directory, "freezer.state", state)?;
        let path = directory.join("freezer.state");
        let now = std::fs::read_to_string(&path).on("read", path.display())?;
        if now.trim() == state {
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            return Err(Error::Refused(format!(
                "{} is still {} after {} s: a process waits for a device",
                path.display(),
                now.trim(),
                PATIENCE.as_secs()
            )));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// `cgroup.events` becomes readable with POLLPRI when its content changes: cgroup-v2 documentation.
fn v2(directory: &Path, frozen: bool) -> Result<(), Error> {
    let path = directory.join("cgroup.events");
    let file = std::fs::File::open(&path).on("open", path.display())?;
    write(directory, "cgroup.freeze", u8::from(frozen))?;
    let wanted = format!("frozen {}", u8::from(frozen));
    let began = Instant::now();
    loop {
        // Read anew each time: what poll tells of is a change since the last read of this descriptor.
        let mut buffer = [0u8; 512];
        let n = std::os::unix::fs::FileExt::read_at(&file, &mut buffer, 0).on("read", path.display())?;
        if String::from_utf8_lossy(&buffer[..n]).lines().any(|l| l == wanted) {
            return Ok(());
        }
        let left = PATIENCE.saturating_sub(began.elapsed());
        if left.is_zero() {
            return Err(Error::Refused(format!(
                "{} does not say {wanted:?} after {} s: a process waits for a device",
                path.display(),
                PATIENCE.as_secs()
            )));
        }
        let mut fd = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLPRI, revents: 0 };
        // SAFETY: one live pollfd.
        let r = unsafe { libc::poll(&raw mut fd, 1, left.as_millis().max(1) as libc::c_int) };
        if r < 0 && io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return Err(io::Error::last_os_error()).on("poll", path.display());
        }
    }
}
