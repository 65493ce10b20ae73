//! Entering an AppArmor profile and an SELinux label: the kernel is told beforehand, and has the next execve(2) enter
//! them (proc(5), `/proc/PID/attr`).

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::error::{Context, Error};
use crate::lsm::{Confined, apparmor};

/// What a container's processes enter, by the host's /proc: the container's own could be made to lie.
pub struct Confinement {
    proc: OwnedFd,
    to: Confined,
}

impl Confinement {
    /// To be called while the host's /proc is in reach; none when there is nothing to enter.
    pub fn prepare(to: &Confined) -> Result<Option<Self>, Error> {
        let apparmor = !matches!(to.apparmor.as_str(), "" | apparmor::UNCONFINED);
        if !apparmor && to.process_label.is_empty() {
            return Ok(None);
        }
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let proc = nix::fcntl::open("/proc", flags, Mode::empty()).on("open", "/proc")?;
        let mut to = to.clone();
        if !apparmor {
            to.apparmor.clear();
        }
        Ok(Some(Self { proc, to }))
    }

    /// Has this process enter them with its next execve(2). Before its privileges change for the last time: the file
    /// must be written by who opened it.
    pub fn at_exec(&self) -> Result<(), Error> {
        if !self.to.apparmor.is_empty() {
            self.apparmor("exec", &format!("exec {}", self.to.apparmor))?;
        }
        if !self.to.process_label.is_empty() {
            let label = &self.to.process_label;
            self.write("exec", label).on("enter SELinux label", label)?;
        }
        Ok(())
    }

    /// Has this very process enter the profile: one that executes nothing. SELinux has no such change but for who its
    /// policy names.
    pub fn now(&self) -> Result<(), Error> {
        match self.to.apparmor.is_empty() {
            true => Ok(()),
            false => self.apparmor("current", &format!("changeprofile {}", self.to.apparmor)),
        }
    }

    fn apparmor(&self, file: &str, text: &str) -> Result<(), Error> {
        let written = match self.write(&format!("apparmor/{file}"), text) {
            // Before Linux 5.8 there is one file for all modules.
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.write(file, text),
            other => other,
        };
        written.on("enter AppArmor profile", &self.to.apparmor)
    }

    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        let path = format!("thread-self/attr/{file}");
        let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        File::from(openat(&self.proc, path.as_str(), flags, Mode::empty())?).write_all(text.as_bytes())
    }
}

impl AsFd for Confinement {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.proc.as_fd()
    }
}
