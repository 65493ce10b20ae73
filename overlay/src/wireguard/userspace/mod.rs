//! `skep wireguard`: WireGuard as a process of our own, for kernels without it.
//!
//! It puts itself into the background once it serves, outlives the daemon that started it, and ends
//! when its interface is deleted, when its lock file is (somebody removed the daemon's state), or on
//! SIGTERM. The interface stays when the process dies, with its address and routes, as a kernel
//! interface would; the next process takes it over.

mod control;
mod options;
mod serve;
mod tun;
mod uapi;
mod udp;

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, dup2_stderr, dup2_stdout, fork, pipe, setsid};

use self::options::Options;
use super::helper::{lock, log, whole_file};

/// Most packets that the process takes joined into one; the interface's `gso_max_segs` keeps the
/// kernel to it.
pub(super) const SEGMENTS: u32 = 128;
/// How long the end of the device may take, which a read of the interface may hold up.
const END: Duration = Duration::from_secs(1);
/// What the process tells its parent when it serves.
const READY: &[u8] = b"ready";

/// Entry point of `wireguard <arguments>`: starts the process and returns the exit status once it
/// serves (0) or has failed, saying why on standard error. To be called before any thread is started.
pub fn wireguard_main(args: &[OsString]) -> i32 {
    let options = match Options::parse(args) {
        Ok(options) => options,
        Err(reason) => {
            eprintln!("skep wireguard: {reason}");
            return 2;
        }
    };
    match background(options) {
        Ok(status) => status,
        Err(e) => {
            eprintln!("skep wireguard: {e}");
            1
        }
    }
}

/// Forks; the parent waits for word from the child.
fn background(options: Options) -> std::io::Result<i32> {
    let (reader, writer) = pipe()?;
    // SAFETY: no thread has been started, by this function's contract with the binary.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            drop(writer);
            let mut said = Vec::new();
            std::fs::File::from(reader).read_to_end(&mut said)?;
            if said == READY {
                return Ok(0);
            }
            // With the process its interface goes: whoever hears of the failure can try again at once.
            if let Err(e) = waitpid(child, None) {
                eprintln!("waiting for its end: {e}");
            }
            let text = String::from_utf8_lossy(&said);
            eprintln!(
                "{}",
                if said.is_empty() { "the process died before it was ready" } else { text.trim() }
            );
            Ok(1)
        }
        ForkResult::Child => {
            drop(reader);
            let mut parent = Some(std::fs::File::from(writer));
            let result = child(&options, &mut parent);
            if let (Err(reason), Some(mut parent)) = (&result, parent.take()) {
                // The parent may be gone; the log has it too.
                let _ = parent.write_all(reason.as_bytes());
            }
            Ok(match result {
                Ok(()) => 0,
                Err(reason) => {
                    tracing::error!("{reason}");
                    1
                }
            })
        }
    }
}

/// The background process from its first step to its end. `parent` is taken once it has been told.
fn child(options: &Options, parent: &mut Option<std::fs::File>) -> Result<(), String> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |e: std::io::Error| format!("{what}: {e}")
    };
    setsid().map_err(|e| format!("setsid: {e}"))?;
    umask(Mode::from_bits_truncate(0o077));
    start_log(&log(&options.exec_root, &options.name)).map_err(failed("opening the log"))?;
    std::env::set_current_dir("/").map_err(failed("leaving the working directory"))?;
    let lock_path = lock(&options.exec_root, &options.name);
    let held = take_lock(&lock_path)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(serve::threads())
        .enable_all()
        .build()
        .map_err(failed("starting the runtime"))?;
    let ready = || {
        if let Some(mut parent) = parent.take() {
            // Whoever started us may have given up waiting; that is no reason not to serve.
            let _ = parent.write_all(READY);
        }
    };
    let result = runtime.block_on(serve::serve(options, &lock_path, ready));
    // Whoever finds the lock free finds the port free, too.
    runtime.shutdown_timeout(END);
    drop(held);
    result
}

/// Takes the lock that says this process serves the interface, and leaves the PID in it.
fn take_lock(path: &Path) -> Result<std::fs::File, String> {
    let say = |e: std::io::Error| format!("lock {}: {e}", path.display());
    let open = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let mut file = open.map_err(say)?;
    match fcntl(&file, FcntlArg::F_SETLK(&whole_file())) {
        Ok(_) => {}
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => {
            return Err(format!("{} is held: another process serves this interface", path.display()));
        }
        Err(e) => return Err(say(e.into())),
    }
    file.set_len(0).map_err(say)?;
    writeln!(file, "{}", std::process::id()).map_err(say)?;
    Ok(file)
}

/// Sends standard output, standard error and the trace to the log.
fn start_log(path: &Path) -> std::io::Result<()> {
    let file = std::fs::OpenOptions::new().append(true).create(true).open(path)?;
    let null = std::fs::File::open("/dev/null")?;
    nix::unistd::dup2_stdin(null.as_fd())?;
    dup2_stdout(file.as_fd())?;
    dup2_stderr(file.as_fd())?;
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // A second subscriber cannot be set: then the first one goes on, to the same standard error.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .try_init();
    Ok(())
}
