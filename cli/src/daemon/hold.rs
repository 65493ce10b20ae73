//! One daemon to a data root and to an exec root. Taken before anything of either is looked at: a daemon that is
//! refused must not have touched what belongs to the other.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Both roots, for as long as this lives.
pub struct Hold {
    _locks: [Flock<File>; 2],
}

impl Hold {
    /// Takes both, or says who has one.
    pub fn take(data_root: &Path, exec_root: &Path) -> Result<Self> {
        let data = lock(data_root, "data-root")?;
        Ok(Self { _locks: [data, lock(exec_root, "exec-root")?] })
    }
}

/// The lock goes with the process, however it ends; the file stays, with the holder's process ID for messages.
fn lock(root: &Path, name: &str) -> Result<Flock<File>> {
    let path = root.join(format!("{name}.lock"));
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(&path).with_context(|| format!("open {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            let write = |f: &mut File| {
                f.set_len(0)?;
                f.rewind()?;
                writeln!(f, "{}", std::process::id())
            };
            write(&mut lock).with_context(|| format!("write {}", path.display()))?;
            Ok(lock)
        }
        Err((mut file, Errno::EWOULDBLOCK)) => {
            let mut pid = String::new();
            file.read_to_string(&mut pid).with_context(|| format!("read {}", path.display()))?;
            let pid = if pid.trim().is_empty() { "unknown" } else { pid.trim() };
            let what = name.replace('-', " ");
            bail!(
                "{what} {} is in use by another skep daemon (pid {pid}); stop it, or give this one its own --{name}",
                root.display()
            )
        }
        Err((_, e)) => Err(e).with_context(|| format!("lock {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_root_is_held_by_one_daemon() {
        let dir = tempfile::tempdir().expect("temp dir");
        let [a, b, c] = ["a", "b", "c"].map(|name| {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).expect("directory");
            path
        });
        let held = Hold::take(&a, &b).expect("nobody has them");
        for (data, exec, flag) in [(&a, &c, "--data-root"), (&c, &b, "--exec-root")] {
            let error = Hold::take(data, exec).map(drop).expect_err("one is taken").to_string();
            let pid = format!("pid {}", std::process::id());
            assert!(error.contains(flag) && error.contains(&pid), "{error}");
        }
        drop(held);
        Hold::take(&a, &b).map(drop).expect("they are free again");
    }
}
