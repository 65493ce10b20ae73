//! Programs run on a container's way (runtime-spec config.md, "POSIX-platform Hooks"; runtime.md, "Lifecycle"), as the
//! devices it asked for want them. Another OCI runtime runs them itself.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde_json::json;

use super::cgroup::pidfd;
use super::descriptors;
use super::error::{Context, Error};
use super::process;
use crate::cdi::{Hook, Stage};
use crate::shim::ShimSpec;

/// The version of the state that a hook reads.
const VERSION: &str = "1.0.2";
/// For one that has no time of its own: the shim does nothing else meanwhile.
const PATIENCE: Duration = Duration::from_secs(120);
/// What an error quotes of a hook's words.
const MOST_WORDS: u64 = 2048;
/// Where in the bundle hooks find the root file system.
const ROOTFS: &str = "rootfs";

/// Makes a directory in the bundle for the root file system, and answers it, an absolute path. For hooks the bundle has a
/// configuration that names it.
pub fn prepare(spec: &ShimSpec, bundle: &Path) -> Result<PathBuf, Error> {
    let bundle = bundle.canonicalize().on("find", "bundle")?;
    let rootfs = bundle.join(ROOTFS);
    std::fs::create_dir_all(&rootfs).on("make", rootfs.display())?;
    // Whatever the umask: root of a user namespace begins here.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&rootfs, mode).on("open to all", rootfs.display())?;
    if spec.hooks.is_empty() {
        return Ok(rootfs);
    }
    let config = json!({
        "ociVersion": VERSION, "hostname": spec.hostname, "annotations": spec.annotations,
        "root": { "path": rootfs, "readonly": spec.read_only },
        "process": { "args": spec.argv, "env": spec.env, "cwd": if spec.cwd.is_empty() { "/" } else { &spec.cwd } },
    });
    let file = bundle.join("config.json");
    std::fs::write(&file, config.to_string()).on("write", file.display())?;
    Ok(rootfs)
}

/// Whether any is to be run at one of these stages.
pub fn any(spec: &ShimSpec, stages: &[Stage]) -> bool {
    spec.hooks.iter().any(|h| stages.contains(&h.hook_name))
}

/// Runs those of the given stages one after the other, up to the first that fails. `bundle` is told as it is.
pub fn run(spec: &ShimSpec, stages: &[Stage], status: &str, pid: i32, bundle: &Path) -> Result<(), Error> {
    let state = json!({
        "ociVersion": VERSION, "id": spec.id, "status": status, "pid": pid, "bundle": bundle,
        "annotations": spec.annotations,
    });
    for (i, hook) in spec.hooks.iter().filter(|h| stages.contains(&h.hook_name)).enumerate() {
        one(hook, &state.to_string()).map_err(|why| {
            Error::Refused(format!(
                "error running {} hook #{i} ({}): {why}",
                word(hook.hook_name),
                hook.path.display()
            ))
        })?;
    }
    Ok(())
}

fn word(stage: Stage) -> String {
    serde_json::to_value(stage).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

fn one(hook: &Hook, state: &str) -> Result<(), String> {
    let text = |e: io::Error| e.to_string();
    // Files in memory: nobody has to write or read while it runs.
    let file = || -> Result<File, String> {
        let fd = memfd_create(c"hook", MFdFlags::MFD_CLOEXEC).map_err(io::Error::from);
        fd.map(File::from).map_err(text)
    };
    let (mut input, mut words) = (file()?, file()?);
    input.write_all(state.as_bytes()).and_then(|()| input.rewind()).map_err(text)?;
    let mut command = Command::new(&hook.path);
    if let [name, rest @ ..] = hook.args.as_slice() {
        command.arg0(name).args(rest);
    }
    command.env_clear().envs(hook.env.iter().filter_map(|v| v.split_once('=')));
    command
        .stdin(Stdio::from(input))
        .stdout(Stdio::null())
        .stderr(Stdio::from(words.try_clone().map_err(text)?));
    let ready =
        || process::reset_signals().and_then(|()| descriptors::close_on_exec()).map_err(io::Error::other);
    // SAFETY: only system calls that are safe after a fork.
    unsafe { command.pre_exec(ready) };
    let mut child = command.spawn().map_err(text)?;
    let limit = hook.timeout.map_or(PATIENCE, Duration::from_secs);
    let status = wait(&mut child, limit).map_err(text)?;
    let why = match status {
        Some(status) if status.success() => return Ok(()),
        Some(status) => status.to_string(),
        None => format!("it has not ended after {} s", limit.as_secs()),
    };
    let mut said = String::new();
    let _ = words.seek(SeekFrom::Start(0)).and_then(|_| words.take(MOST_WORDS).read_to_string(&mut said));
    Err(format!("{why}, stderr: {}", said.trim()))
}

/// Its end, or that it had to be ended.
fn wait(child: &mut std::process::Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let end = pidfd(child.id() as i32)?;
    let until = Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(Instant::now()).as_millis();
        let left = PollTimeout::try_from(left.min(i32::MAX as u128) as i32).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(end.as_fd(), PollFlags::POLLIN)], left) {
            Err(nix::Error::EINTR) => {}
            Err(e) => return Err(e.into()),
            Ok(0) => {
                child.kill()?;
                child.wait()?;
                return Ok(None);
            }
            Ok(_) => return child.wait().map(Some),
        }
    }
}
