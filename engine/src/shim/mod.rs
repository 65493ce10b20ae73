//! The shim: one small process per container that owns its stdio, log, exit status and cgroup.
//!
//! It outlives the daemon: a daemon that comes back finds it through the bundle directory
//! ([`Shim::connect`]). It has one thread, no runtime, and reads its whole task from [`SPEC_FILE`].

pub mod client;
pub mod spec;

mod connection;
mod exit_file;
pub(crate) mod log;
pub(crate) mod protocol;
mod relay;
mod server;
mod stdio;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, FromRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::unistd::{ForkResult, fork, setsid};

pub use client::{AttachInput, AttachOutput, AttachStream, Exec, ExecEvent, ExecOutput, Shim, ShimError};
pub use spec::*;

use self::log::Log;
use self::relay::Relays;
use self::server::Server;
use self::stdio::Stdio;
use crate::runtime::{Container, Error, descriptors, mounts};

/// Runs `skep shim BUNDLE`. Standard input is the socket of whoever launched it. Returns the exit
/// code of the calling process; the shim itself goes on in the background.
pub fn shim_main(args: &[OsString]) -> i32 {
    let [bundle] = args else {
        let _ = writeln!(io::stderr(), "usage: skep shim BUNDLE (started by the daemon, not by hand)");
        return 2;
    };
    // SAFETY: this process has one thread.
    match unsafe { fork() } {
        Ok(ForkResult::Parent { .. }) => 0,
        Ok(ForkResult::Child) => {
            let code = serve(Path::new(bundle));
            // SAFETY: ends the process; nothing is buffered.
            unsafe { libc::_exit(code) }
        }
        Err(e) => {
            let _ = writeln!(io::stderr(), "fork: {e}");
            1
        }
    }
}

fn serve(bundle: &Path) -> i32 {
    let launcher = match detach(bundle) {
        Ok(stream) => stream,
        Err(e) => {
            let _ = writeln!(io::stderr(), "shim for {}: {e}", bundle.display());
            return 1;
        }
    };
    match make(&launcher) {
        Ok(()) => 0,
        Err(e) => {
            let mut frame = Vec::new();
            let text = e.to_string();
            protocol::put(&mut frame, protocol::FAILED, &[&e.exit_code().to_be_bytes(), text.as_bytes()]);
            let _ = (&launcher).write_all(&frame);
            1
        }
    }
}

/// Leaves the daemon's session and directory, and takes the socket off standard input.
fn detach(bundle: &Path) -> io::Result<UnixStream> {
    setsid()?;
    std::env::set_current_dir(bundle)?;
    // SAFETY: F_DUPFD_CLOEXEC of standard input gives a descriptor known to nobody else.
    let launcher = unsafe {
        let fd = libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 3);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        UnixStream::from_raw_fd(fd)
    };
    let null = File::open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    drop(null);
    // What the daemon was started with is no business of a container's, nor of ours.
    descriptors::close_all_but(&[launcher.as_fd()]).map_err(io::Error::other)?;
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM, libc::SIGPIPE] {
        // SAFETY: installs no handler. What ends the daemon must not end the container.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    Ok(launcher)
}

/// Variables, those of [`VARIABLES_FILE`] in the place of others of the same name.
fn with_more(mut env: Vec<String>) -> io::Result<Vec<String>> {
    let more: Vec<String> = match std::fs::read(VARIABLES_FILE) {
        Ok(json) => serde_json::from_slice(&json)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(env),
        Err(e) => return Err(e),
    };
    let name = |v: &String| v.split('=').next().unwrap_or_default().to_owned();
    env.retain(|v| more.iter().all(|m| name(m) != name(v)));
    env.extend(more);
    Ok(env)
}

fn make(launcher: &UnixStream) -> Result<(), Error> {
    // Relative from here on: a socket's path may not be longer than 107 bytes.
    let bundle = Path::new(".");
    let fault = |operation, subject: &str| {
        let subject = subject.to_owned();
        move |source| Error::System { operation, subject, source }
    };
    let json = std::fs::read(SPEC_FILE).map_err(fault("read", SPEC_FILE))?;
    let mut spec: ShimSpec =
        serde_json::from_slice(&json).map_err(|e| Error::Refused(format!("{SPEC_FILE}: {e}")))?;
    drop(json);
    spec.env = with_more(spec.env).map_err(fault("read", VARIABLES_FILE))?;
    let log_path = spec.log_path.display().to_string();
    let log = Log::open(&spec).map_err(|e| match e.kind() {
        // It says itself what it is about.
        _ if spec.log.is_remote() => Error::Refused(e.to_string()),
        _ => fault("open log", &log_path)(e),
    })?;
    let listener = UnixListener::bind(SOCKET_FILE).map_err(fault("listen on", SOCKET_FILE))?;
    let (piped, pipes) = match spec.tty {
        true => (None, None),
        false => {
            let (ours, theirs) = Stdio::pipes(spec.open_stdin).map_err(fault("make", "stdio pipes"))?;
            (Some(ours), Some(theirs))
        }
    };
    if spec.shm == Shm::Shared {
        mounts::share_memory(&spec)?;
    }
    // SAFETY: the shim has one thread.
    let container = unsafe { Container::create(&spec, bundle, pipes) };
    let mut container = container.inspect_err(|_| unshare(&spec, bundle))?;
    let stdio = match (piped, &container.terminal) {
        (Some(stdio), _) => stdio,
        (None, Some(master)) => {
            Stdio::terminal(master, spec.open_stdin).map_err(fault("open", "terminal"))?
        }
        (None, None) => {
            container.discard();
            return Err(Error::Refused("container init opened no terminal".into()));
        }
    };
    let pids = format!("{} {}\n", std::process::id(), container.pid);
    let first = std::fs::write(PID_FILE, pids).and_then(|()| launcher.try_clone());
    let first = first.map_err(fault("write", PID_FILE)).inspect_err(|_| container.discard())?;
    // After the container's first process was made, which has no descriptor of them then.
    let relays = Relays::open(&spec.relays).inspect_err(|_| {
        container.discard();
        unshare(&spec, bundle);
    })?;
    let server = Server::new(&spec, bundle, container, stdio, log, listener, relays);
    let server = server.map_err(fault("set up", "shim"))?;
    server.run(first).map_err(fault("poll", "clients"))
}

/// Takes shared memory away that other containers could have had. What is left is swept by the daemon.
fn unshare(spec: &ShimSpec, bundle: &Path) {
    if spec.shm == Shm::Shared {
        let _ = mounts::unshare_memory(bundle);
    }
}
