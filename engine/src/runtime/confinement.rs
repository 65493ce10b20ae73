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
            let profile = &self.to.apparmor;
            let opened = self.open_apparmor("exec");
            let written = opened.and_then(|mut f| f.write_all(format!("exec {profile}").as_bytes()));
            written.on("enter AppArmor profile", profile)?;
        }
        if !self.to.process_label.is_empty() {
            let label = &self.to.process_label;
            let written = self.open("exec").and_then(|mut f| f.write_all(label.as_bytes()));
            written.on("enter SELinux label", label)?;
        }
        Ok(())
    }

    /// A way for this very process, which executes nothing, into the profile. SELinux has no such change but for who its
    /// policy names.
    pub fn entry(&self) -> Result<Option<Entry>, Error> {
        if self.to.apparmor.is_empty() {
            return Ok(None);
        }
        let file = self.open_apparmor("current").on("enter AppArmor profile", &self.to.apparmor)?;
        Ok(Some(Entry { file, profile: self.to.apparmor.clone() }))
    }

    fn open_apparmor(&self, file: &str) -> io::Result<File> {
        match self.open(&format!("apparmor/{file}")) {
            // Before Linux 5.8 there is one file for all modules.
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.open(file),
            other => other,
        }
    }

    fn open(&self, file: &str) -> io::Result<File> {
        let path = format!("thread-self/attr/{file}");
        let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        Ok(File::from(openat(&self.proc, path.as_str(), flags, Mode::empty())?))
    }
}

/// Opened while this process may still have descriptors, and used once it has no more than its own privileges: who
/// opened it must write it, and that is judged by the address space.
pub struct Entry {
    file: File,
    profile: String,
}

impl Entry {
    /// Enters the profile.
    pub fn enter(mut self) -> Result<(), Error> {
        let text = format!("changeprofile {}", self.profile);
        self.file.write_all(text.as_bytes()).on("enter AppArmor profile", &self.profile)
    }
}

impl AsFd for Confinement {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.proc.as_fd()
    }
}
