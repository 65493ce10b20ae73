//! What a container that wants out tries: run inside one by the tests of `tests/runtime/escapes`.
//!
//! Usage: `escape PROBE...`. Each probe runs in a process of its own; a line tells what came of it: the probe, then
//! `ok`, the name of an error, or `signal N`.

mod calls;
mod files;
mod processes;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::io;

use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

/// What a probe tells when it fails, or has more to say than `ok`.
pub enum Told {
    /// An error of the kernel.
    Errno(i32),
    /// Words.
    Words(String),
}

impl From<io::Error> for Told {
    fn from(e: io::Error) -> Self {
        e.raw_os_error().map_or_else(|| Self::Words(e.to_string()), Self::Errno)
    }
}

/// A probe's result.
pub type Outcome = Result<(), Told>;

/// What a system call gave.
pub fn called(r: libc::c_long) -> Outcome {
    match r {
        -1 => Err(io::Error::last_os_error().into()),
        _ => Ok(()),
    }
}

fn main() {
    for probe in std::env::args().skip(1) {
        // SAFETY: this process has one thread.
        match unsafe { fork() }.expect("forks") {
            ForkResult::Child => {
                let (name, argument) = probe.split_once(':').unwrap_or((&probe, ""));
                let outcome = calls::run(name)
                    .or_else(|| files::run(name, argument))
                    .or_else(|| processes::run(name, argument));
                #[cfg(target_arch = "x86_64")]
                let outcome = outcome.or_else(|| x86::run(name));
                let outcome = outcome.unwrap_or_else(|| Err(Told::Words("no such probe".into())));
                let text = match outcome {
                    Ok(()) => "ok".to_owned(),
                    Err(Told::Errno(e)) => format!("{:?}", Errno::from_raw(e)),
                    Err(Told::Words(words)) => words,
                };
                println!("{probe} {text}");
                std::process::exit(0);
            }
            ForkResult::Parent { child } => match waitpid(child, None) {
                Ok(WaitStatus::Signaled(_, signal, _)) => println!("{probe} signal {}", signal as i32),
                Ok(_) => {}
                Err(e) => println!("{probe} lost: {e}"),
            },
        }
    }
}
