//! PID 1 of a laboratory host: makes the host's namespaces, then only reaps. Killing it is pulling the
//! host's plug: the kernel kills every process of the namespace at once.
//!
//! Usage: `skep-lab-init HOSTNAME`; prints the PID of the host's init and goes to the background.

use std::ffi::CString;
use std::io::Write;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, sethostname, setsid};

fn main() -> anyhow::Result<()> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "host".into());
    unshare(
        CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWNS,
    )?;
    sethostname(&name)?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    // SAFETY: this process has one thread.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            println!("{child}");
            std::io::stdout().flush()?;
            Ok(())
        }
        ForkResult::Child => init(),
    }
}

fn init() -> anyhow::Result<()> {
    setsid()?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), None::<&str>)?;
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    for fd in 0..3 {
        // SAFETY: replaces this process's own standard streams.
        if unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&null), fd) } < 0 {
            return Err(std::io::Error::last_os_error().into());
        }
    }
    let name = CString::new("skep-lab-init").expect("no NUL inside");
    // SAFETY: sets this thread's name from a valid C string.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
    // Orphans of the host end up here; with no children at all, wait for the signal that one came and went.
    loop {
        match waitpid(Pid::from_raw(-1), None) {
            Ok(_) => {}
            Err(nix::errno::Errno::ECHILD) => wait_for_child_signal(),
            Err(_) => {}
        }
    }
}

fn wait_for_child_signal() {
    let mut set = nix::sys::signal::SigSet::empty();
    set.add(nix::sys::signal::Signal::SIGCHLD);
    // Blocked, so that a child's end between the two calls is not missed; errors cannot happen for a valid set.
    let _ = set.thread_block();
    if waitpid(Pid::from_raw(-1), Some(nix::sys::wait::WaitPidFlag::WNOHANG)).is_err() {
        let _ = set.wait();
    }
}
