//! One daemon to a data root and to an exec root: locks that go with the process, however it ends. Taken before
//! anything of either root is looked at, as who is refused must not have touched what belongs to the other.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::data_root::make_dir;
use crate::error::Error;

/// What a daemon has for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// What must survive a restart.
    Data,
    /// Run-time state.
    Exec,
}

impl Root {
    /// The daemon's flag for it, without dashes.
    pub fn flag(self) -> &'static str {
        match self {
            Self::Data => "data-root",
            Self::Exec => "exec-root",
        }
    }
}

/// Both roots, held (flock(2)) for as long as this lives. A lock's file stays, with the process ID of who holds it,
/// for messages.
#[derive(Debug)]
pub struct RootLocks {
    _files: [Flock<File>; 2],
}

impl RootLocks {
    /// Makes the roots where they are missing and takes both, or says who has one ([`Error::RootInUse`]).
    pub fn take(data: &Path, exec: &Path) -> Result<Self, Error> {
        make_dir(data, 0o710)?;
        make_dir(exec, 0o711)?;
        Ok(Self { _files: [lock(Root::Data, data)?, lock(Root::Exec, exec)?] })
    }
}

fn lock(root: Root, path: &Path) -> Result<Flock<File>, Error> {
    // Both roots may be one directory.
    let file = path.join(format!("{}.lock", root.flag()));
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let open = options.open(&file).map_err(Error::io("open", &file))?;
    let mut lock = match Flock::lock(open, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((mut held, Errno::EWOULDBLOCK)) => {
            let mut pid = String::new();
            held.read_to_string(&mut pid).map_err(Error::io("read", &file))?;
            let pid = if pid.trim().is_empty() { "unknown".into() } else { pid.trim().to_owned() };
            let left = if is_gone(&pid) { once_released(held) } else { None };
            left.ok_or_else(|| Error::RootInUse { root, path: path.to_owned(), pid })?
        }
        Err((_, e)) => return Err(Error::Io { operation: "lock", path: file, source: e.into() }),
    };
    let write = |f: &mut File| {
        f.set_len(0)?;
        f.rewind()?;
        writeln!(f, "{}", std::process::id())
    };
    write(&mut lock).map_err(Error::io("write", &file))?;
    Ok(lock)
}

/// Whether no process of that ID is there any more.
fn is_gone(pid: &str) -> bool {
    let Ok(pid) = pid.parse() else { return false };
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None) == Err(Errno::ESRCH)
}

/// The lock of a daemon that is dead. One killed while it started a shim leaves a child that has not executed the
/// shim yet, and holds the lock until it has.
fn once_released(held: File) -> Option<Flock<File>> {
    const PATIENCE: Duration = Duration::from_secs(5);
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || tell.send(Flock::lock(held, FlockArg::LockExclusive)));
    told.recv_timeout(PATIENCE).ok()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_root_is_held_by_one_and_free_again_afterwards() {
        let dir = tempfile::tempdir().expect("temp dir");
        let [a, b, c] = ["a", "b", "c"].map(|name| dir.path().join(name));
        let held = RootLocks::take(&a, &b).expect("nobody has them");
        for (data, exec, flag) in [(&a, &c, "--data-root"), (&c, &b, "--exec-root")] {
            let error = RootLocks::take(data, exec).map(drop).expect_err("one is taken").to_string();
            let pid = format!("pid {}", std::process::id());
            assert!(error.contains(flag) && error.contains(&pid), "{error}");
        }
        drop(held);
        RootLocks::take(&a, &b).map(drop).expect("they are free again");
        RootLocks::take(&c, &c).map(drop).expect("both may be one");
    }
}
