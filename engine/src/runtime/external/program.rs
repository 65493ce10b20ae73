//! The runtime's command line: how it is called, and what it says when it fails.

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::unistd::Pid;

use super::super::command::DEFAULT_PATH;
use super::super::error::{Context, Error};
use super::super::process;
use super::orphans::{self, Waited};
use crate::runtimes::ExternalRuntime;

/// Where the runtime keeps its state of this container, in the bundle: it goes with it.
const STATE: &str = "state";
const LOG: &str = "runtime.log";
/// Longest time a runtime may take to forget a container that has ended: the container's exit is told only then.
const LONGEST_DELETE: Duration = Duration::from_secs(60);

/// A runtime with the container it is to do something to.
#[derive(Clone)]
pub struct Program {
    path: PathBuf,
    args: Vec<String>,
    id: String,
    bundle: PathBuf,
}

impl Program {
    /// `bundle` must be absolute.
    pub fn new(runtime: &ExternalRuntime, id: &str, bundle: &Path) -> Self {
        let (path, args) = (runtime.path.clone(), runtime.args.clone());
        Self { path, args, id: id.to_owned(), bundle: bundle.to_owned() }
    }

    /// The call of an operation, without the container's ID. It runs in our working directory.
    pub fn command(&self, log: &Path, verb: &str) -> Command {
        let mut command = Command::new(&self.path);
        // The shim has no environment; some runtimes look for others.
        command.env("PATH", DEFAULT_PATH).args(&self.args).arg("--root").arg(self.bundle.join(STATE));
        command.arg("--log").arg(log).args(["--log-format", "json", verb]);
        // SAFETY: only system calls that are safe after a fork. What the shim ignores, the container must not.
        unsafe { command.pre_exec(|| process::reset_signals().map_err(io::Error::other)) };
        command
    }

    /// The container's ID.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Name of the program, for messages.
    pub fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// An operation on the container, with these ends for its stdio.
    pub fn run(&self, verb: &str, options: &[&OsStr], stdio: [Stdio; 3]) -> Result<(), Error> {
        self.call(verb, options, &[], stdio)
    }

    /// An operation on the container that has nothing to do with its stdio.
    pub fn tell(&self, verb: &str, options: &[&str]) -> Result<(), Error> {
        self.tell_with(verb, options, &[])
    }

    /// The same with words after the container's ID.
    pub fn tell_with(&self, verb: &str, options: &[&str], words: &[&str]) -> Result<(), Error> {
        let options: Vec<&OsStr> = options.iter().map(OsStr::new).collect();
        self.call(verb, &options, words, [Stdio::null(), Stdio::null(), Stdio::null()])
    }

    /// Has it forget the container, whatever there is of it.
    pub fn delete(&self) -> Result<(), Error> {
        self.tell("delete", &["--force"])
    }

    /// The same of a container whose own end has been seen. What else the runtime left to us (gVisor's file server,
    /// for one) it waits for, and so its exit status is taken meanwhile.
    pub fn delete_with_the_rest(&self) -> Result<(), Error> {
        let log = self.bundle.join(LOG);
        forget(&log)?;
        let mut command = self.command(&log, "delete");
        command.arg("--force").arg(&self.id);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().on("run", self.path.display())?;
        let pid = Pid::from_raw(child.id() as i32);
        match orphans::wait_for_within(pid, LONGEST_DELETE) {
            Waited::Ended(0) => Ok(()),
            Waited::Ended(code) => Err(self.failure("delete", &log, ExitStatus::from_raw(code << 8))),
            Waited::Gone => Err(self.failure("delete", &log, ExitStatus::from_raw(255 << 8))),
            Waited::Running => {
                // SAFETY: plain integers; it is our child, whose exit status is not taken yet.
                unsafe { libc::kill(pid.as_raw(), libc::SIGKILL) };
                let _ = orphans::wait_for(pid);
                Err(Error::Refused(format!(
                    "{} delete did not end within {LONGEST_DELETE:?}, and was killed",
                    self.name()
                )))
            }
        }
    }

    fn call(
        &self,
        verb: &str,
        options: &[&OsStr],
        words: &[&str],
        [stdin, stdout, stderr]: [Stdio; 3],
    ) -> Result<(), Error> {
        let log = self.bundle.join(LOG);
        forget(&log)?;
        let mut command = self.command(&log, verb);
        command.args(options).arg(&self.id).args(words).stdin(stdin).stdout(stdout).stderr(stderr);
        let status = command.status().on("run", self.path.display())?;
        match status.success() {
            true => Ok(()),
            false => Err(self.failure(verb, &log, status)),
        }
    }

    /// What a call that failed left in its log, in the words Docker has for it.
    pub fn failure(&self, verb: &str, log: &Path, status: ExitStatus) -> Error {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let reason = last_error(&text).unwrap_or_else(|| format!("{} ended with {status}", self.name()));
        let exit_code = exit_code(&reason);
        // What the engine says of every exec that fails.
        let reason =
            reason.strip_prefix("exec failed: unable to start container process: ").unwrap_or(&reason);
        let message = match verb {
            "exec" => reason.to_owned(),
            _ => format!("OCI runtime {verb} failed: {reason}"),
        };
        Error::Init { message, exit_code }
    }
}

/// A log is of one call only.
fn forget(log: &Path) -> Result<(), Error> {
    match std::fs::remove_file(log) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).on("remove", log.display()),
        _ => Ok(()),
    }
}

/// The last message of a log in lines of JSON that is an error.
fn last_error(text: &str) -> Option<String> {
    let message = |line: &str| -> Option<String> {
        let entry: serde_json::Value = serde_json::from_str(line).ok()?;
        let grave = matches!(entry["level"].as_str(), Some("error" | "fatal" | "panic"));
        entry["msg"].as_str().filter(|_| grave).map(|m| m.trim().to_owned())
    };
    text.lines().rev().find_map(message)
}

/// What Docker makes of the words.
fn exit_code(reason: &str) -> i32 {
    let reason = reason.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|w| reason.contains(w));
    if has(&["executable file", "no such file or directory"]) {
        127
    } else if has(&["permission denied", "is a directory", "not a directory", "exec format error"]) {
        126
    } else {
        128
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_is_the_reason() {
        let log = concat!(
            r#"{"level":"warning","msg":"odd"}"#,
            "\n",
            r#"{"level":"error","msg":"exec: \"nope\": executable file not found in $PATH"}"#,
            "\nnot json\n"
        );
        let reason = last_error(log).expect("an error");
        assert_eq!(
            (reason.as_str(), exit_code(&reason)),
            ("exec: \"nope\": executable file not found in $PATH", 127)
        );
        assert_eq!(last_error("{}\n[]\n\n"), None);
        assert_eq!(exit_code("exec /x: Permission denied"), 126);
        assert_eq!(exit_code("no space"), 128);
    }
}
