//! The daemon's side of the userspace WireGuard process: finding a live one, starting one, ending one.
//!
//! The process holds a POSIX lock on `<exec_root>/<name>.lock` for life. The kernel then tells us
//! whether it lives and under which PID, so no stale PID file can make us signal a stranger.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Error;
use super::device::{DeviceOptions, blocking};

/// Where control sockets are, by the convention of every WireGuard implementation.
pub(super) const SOCKETS: &str = "/var/run/wireguard";
/// How long a process may take to come up or to go.
const PATIENCE: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(10);

/// Control socket of an interface.
pub(super) fn socket(name: &str) -> PathBuf {
    Path::new(SOCKETS).join(format!("{name}.sock"))
}

/// Lock file of an interface's process, which also holds its PID for people to read.
pub(super) fn lock(exec_root: &Path, name: &str) -> PathBuf {
    exec_root.join(format!("{name}.lock"))
}

/// Log file of an interface's process.
pub(super) fn log(exec_root: &Path, name: &str) -> PathBuf {
    exec_root.join(format!("{name}.log"))
}

/// A whole-file write lock, for `F_SETLK` and `F_GETLK`.
pub(super) fn whole_file() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// The process that holds the lock, if any.
fn holder(path: &Path) -> io::Result<Option<Pid>> {
    let file = match std::fs::OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut found = whole_file();
    fcntl(&file, FcntlArg::F_GETLK(&mut found))?;
    let held = i32::from(found.l_type) != libc::F_UNLCK && found.l_pid > 0;
    Ok(held.then(|| Pid::from_raw(found.l_pid)))
}

/// Makes sure that a process serves the interface, in this network namespace. `true` if one already did.
pub(super) async fn ensure(options: &DeviceOptions, mtu: u16) -> Result<bool, Error> {
    let options = options.clone();
    blocking(move || ensure_blocking(&options, mtu)).await
}

/// Ends the process, if there is one, and removes its socket.
pub(super) async fn stop(name: &str, exec_root: &Path) -> Result<(), Error> {
    let (name, exec_root) = (name.to_owned(), exec_root.to_owned());
    blocking(move || stop_blocking(&name, &exec_root)).await
}

/// Removes the control socket of a process that is dead, as it lies after a power cut. One that answers stays.
pub(crate) fn sweep(name: &str) -> Result<(), Error> {
    let path = socket(name);
    match UnixStream::connect(&path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {}
        _ => return Ok(()),
    }
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::Helper {
            name: name.to_owned(),
            operation: "removing the socket of a dead one",
            reason: e.to_string(),
        }),
        _ => Ok(()),
    }
}

fn ensure_blocking(options: &DeviceOptions, mtu: u16) -> Result<bool, Error> {
    let name = &options.name;
    let failed = |operation, reason: String| Error::Helper { name: name.clone(), operation, reason };
    std::fs::create_dir_all(&options.exec_root)
        .map_err(|e| failed("making its folder", format!("{}: {e}", options.exec_root.display())))?;
    let lock_path = lock(&options.exec_root, name);
    if let Some(pid) = holder(&lock_path).map_err(|e| failed("reading its lock", e.to_string()))? {
        match usable(pid, name) {
            Ok(()) => return Ok(true),
            Err(reason) => {
                tracing::warn!(interface = %name, %pid, %reason, "replacing the userspace WireGuard process");
                stop_blocking(name, &options.exec_root)?;
            }
        }
    }
    start(options, mtu)?;
    Ok(false)
}

/// Whether a live process is the one we need: same network namespace, answering.
fn usable(pid: Pid, name: &str) -> Result<(), String> {
    let namespace = |of: &str| std::fs::metadata(format!("/proc/{of}/ns/net")).map(|m| (m.dev(), m.ino()));
    // Of this thread: each has its own, where the hosts of a test are in one process.
    match (namespace("thread-self"), namespace(&pid.to_string())) {
        (Ok(ours), Ok(its)) if ours == its => {}
        (Ok(_), Ok(_)) => return Err("it lives in another network namespace".into()),
        (Err(e), _) | (_, Err(e)) => return Err(format!("its namespace cannot be read: {e}")),
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(socket(name)) {
            Ok(_) => return Ok(()),
            // It may be coming up: another call of ours started it a moment ago.
            Err(_) if Instant::now() < deadline => std::thread::sleep(STEP),
            Err(e) => return Err(format!("it does not answer at {}: {e}", socket(name).display())),
        }
    }
}

/// Starts a process and waits until it serves; it puts itself into the background only then.
fn start(options: &DeviceOptions, mtu: u16) -> Result<(), Error> {
    let failed = |reason| Error::Helper { name: options.name.clone(), operation: "starting it", reason };
    let output = std::process::Command::new(&options.helper_exe)
        .arg("wireguard")
        .args(["--name", &options.name])
        .arg("--private-key-file")
        .arg(&options.private_key_path)
        .args(["--listen-port", &options.listen_port.to_string()])
        .args(["--mtu", &mtu.to_string()])
        .arg("--exec-root")
        .arg(&options.exec_root)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|e| failed(format!("{}: {e}", options.helper_exe.display())))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let log = log(&options.exec_root, &options.name);
    Err(failed(format!("{} ({}); see {}", said.trim(), output.status, log.display())))
}

fn stop_blocking(name: &str, exec_root: &Path) -> Result<(), Error> {
    let failed =
        |operation, e: io::Error| Error::Helper { name: name.to_owned(), operation, reason: e.to_string() };
    let lock_path = lock(exec_root, name);
    let started = Instant::now();
    let mut signal = Signal::SIGTERM;
    while let Some(pid) = holder(&lock_path).map_err(|e| failed("reading its lock", e))? {
        match kill(pid, signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(e) => return Err(failed("ending it", e.into())),
        }
        if started.elapsed() > PATIENCE {
            let e = io::Error::new(io::ErrorKind::TimedOut, format!("process {pid} does not end"));
            return Err(failed("ending it", e));
        }
        if started.elapsed() > PATIENCE / 2 {
            signal = Signal::SIGKILL;
        }
        std::thread::sleep(STEP);
    }
    for path in [socket(name), lock_path] {
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("removing its files", e)),
            _ => {}
        }
    }
    Ok(())
}
