//! The command: found as a shell would find it, with Docker's answers when it is not there.

use std::convert::Infallible;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, eaccess};

use super::descriptors;
use super::error::Error;
use super::foreign;
use super::user::User;
use crate::shim::ShimSpec;

/// Where programs are looked for by default.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Ready for execve(2).
pub struct Command {
    given: String,
    path: CString,
    argv: Vec<CString>,
    env: Vec<CString>,
}

impl Command {
    /// Looks the command up, as the user it will run as and in its working directory.
    pub fn find(spec: &ShimSpec, user: &User) -> Result<Self, Error> {
        let given = spec.argv.first().ok_or_else(|| Error::Refused("no command specified".into()))?.clone();
        let env = environment(spec, user);
        let path = if given.contains('/') {
            check(&given, Path::new(&given)).map(|()| PathBuf::from(&given))?
        } else {
            search(&given, env.iter().find_map(|e| e.strip_prefix("PATH=")).unwrap_or_default())?
        };
        Ok(Self {
            path: c_string(&path.to_string_lossy())?,
            argv: spec.argv.iter().map(|a| c_string(a)).collect::<Result<_, _>>()?,
            env: env.iter().map(|e| c_string(e)).collect::<Result<_, _>>()?,
            given,
        })
    }

    /// Its words.
    pub fn words(&self) -> &[CString] {
        &self.argv
    }

    /// Becomes it.
    pub fn execute(&self) -> Result<Infallible, Error> {
        descriptors::close_on_exec()?;
        let errno = match nix::unistd::execve(&self.path, &self.argv, &self.env) {
            Err(errno) => errno,
            Ok(never) => match never {},
        };
        let path = Path::new(OsStr::from_bytes(self.path.as_bytes()));
        Err(match failure(&self.given, errno.into()) {
            Error::NotFound { command, reason } => {
                Error::NotFound { command, reason: reason + &foreign::unreachable(path) }
            }
            Error::NotExecutable { command, reason } if errno == Errno::ENOEXEC => {
                Error::NotExecutable { command, reason: reason + &foreign::unregistered(path) }
            }
            other => other,
        })
    }
}

/// The command's environment with what every command has.
pub fn environment(spec: &ShimSpec, user: &User) -> Vec<String> {
    let mut env = spec.env.clone();
    let mut add = |name: &str, value: &str| {
        if !env.iter().any(|e| e.split('=').next() == Some(name)) {
            env.push(format!("{name}={value}"));
        }
    };
    add("PATH", DEFAULT_PATH);
    add("HOSTNAME", &spec.hostname);
    add("HOME", &user.home);
    if spec.tty {
        add("TERM", "xterm");
    }
    env
}

fn c_string(text: &str) -> Result<CString, Error> {
    CString::new(text).map_err(|_| Error::Refused(format!("{text:?} contains a NUL byte")))
}

fn failure(given: &str, e: io::Error) -> Error {
    let command = given.to_owned();
    match e.raw_os_error() {
        Some(libc::ENOENT) => Error::NotFound { command, reason: "no such file or directory".into() },
        Some(libc::ENOEXEC) => Error::NotExecutable { command, reason: "exec format error".into() },
        Some(libc::EACCES) => Error::NotExecutable { command, reason: "permission denied".into() },
        _ => Error::NotExecutable { command, reason: e.to_string() },
    }
}

fn check(given: &str, path: &Path) -> Result<(), Error> {
    let meta = std::fs::metadata(path).map_err(|e| match failure(given, e) {
        Error::NotFound { command, reason } => {
            let reason = format!("stat {}: {reason}", path.display());
            Error::NotFound { command, reason }
        }
        other => other,
    })?;
    if meta.is_dir() {
        return Err(Error::NotExecutable {
            command: given.to_owned(),
            reason: "is a directory: permission denied".into(),
        });
    }
    eaccess(path, AccessFlags::X_OK).map_err(|e| failure(given, e.into()))
}

fn search(given: &str, path: &str) -> Result<PathBuf, Error> {
    let mut refused = None;
    for directory in path.split(':').filter(|_| !given.is_empty()) {
        let candidate = Path::new(if directory.is_empty() { "." } else { directory }).join(given);
        match check(given, &candidate) {
            Ok(()) => return Ok(candidate),
            Err(e @ Error::NotExecutable { .. }) => refused = refused.or(Some(e)),
            Err(_) => {}
        }
    }
    let reason = "executable file not found in $PATH".into();
    Err(refused.unwrap_or(Error::NotFound { command: given.to_owned(), reason }))
}
