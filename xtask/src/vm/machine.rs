//! The virtual machine: qemu without hardware help, its console, and what it reports.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use super::kernel::Kernel;

/// What to boot.
pub struct Machine<'a> {
    /// Its kernel.
    pub kernel: &'a Kernel,
    /// Its root file system.
    pub image: &'a Path,
    /// Folder for the console's log and the report.
    pub dir: &'a Path,
}

/// What a run left.
pub struct Report {
    /// Exit status of each test that ended.
    pub statuses: BTreeMap<String, i32>,
    /// Names of the cases that passed, by test.
    pub passed: BTreeMap<String, Vec<String>>,
    /// Everything the console showed.
    pub console: PathBuf,
}

impl Machine<'_> {
    fn command(&self, more: &str) -> Command {
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "3072"]);
        qemu.args(["-nodefaults", "-display", "none", "-no-reboot"]);
        qemu.arg("-kernel").arg(&self.kernel.image).arg("-initrd").arg(self.image);
        qemu.arg("-append").arg(format!("console=ttyS0 quiet panic=-1 mitigations=off {more}"));
        // However this process ends, the machine does not outlive it.
        // SAFETY: only prctl is called between fork and exec.
        unsafe { qemu.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?)) };
        qemu
    }

    /// A shell on the machine's console.
    pub fn shell(&self) -> Result<()> {
        let mut qemu = self.command("skep.shell");
        let status = qemu.args(["-serial", "mon:stdio"]).status().context("run qemu-system-x86_64")?;
        if !status.success() {
            bail!("qemu ended with {status}");
        }
        Ok(())
    }

    /// Runs the tests; shows the console as it goes. A machine that is not off after `limit` is killed.
    pub fn run(&self, limit: Duration) -> Result<Report> {
        let (console, results) = (self.dir.join("console.log"), self.dir.join("results"));
        let _ = std::fs::remove_file(&results);
        let mut log = std::fs::File::create(&console)?;
        let mut qemu = self.command("");
        qemu.args(["-serial", "stdio", "-serial"]).arg(format!("file:{}", results.display()));
        let mut child = qemu
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("run qemu-system-x86_64 (of the Debian package qemu-system-x86)")?;
        let output = BufReader::new(child.stdout.take().context("qemu's output")?);
        let (over, wait) = mpsc::channel();
        let reader = std::thread::spawn(move || -> Result<BTreeMap<String, Vec<String>>> {
            let mut passed: BTreeMap<String, Vec<String>> = BTreeMap::new();
            let mut test = String::new();
            for line in output.split(b'\n') {
                let line = String::from_utf8_lossy(&line?).trim_end_matches('\r').to_owned();
                writeln!(log, "{line}")?;
                println!("{line}");
                if let Some(name) = line.strip_prefix("=== ").filter(|n| !n.contains(' ')) {
                    test = name.to_owned();
                }
                if let Some(case) = line.strip_prefix("test ").and_then(|l| l.strip_suffix(" ... ok")) {
                    passed.entry(test.clone()).or_default().push(case.to_owned());
                }
            }
            drop(over);
            Ok(passed)
        });
        // The channel says nothing: it closes with the console, when the machine is off.
        let timely: Result<(), _> = wait.recv_timeout(limit);
        let hung = timely == Err(mpsc::RecvTimeoutError::Timeout);
        if hung {
            child.kill()?;
        }
        let status = child.wait()?;
        let passed = reader.join().map_err(|_| anyhow::anyhow!("the console's reader panicked"))??;
        if hung {
            bail!("the virtual machine was not done after {limit:?}; its console: {}", console.display());
        }
        if !status.success() {
            bail!("qemu ended with {status}; the machine's console: {}", console.display());
        }
        let text = std::fs::read_to_string(&results).unwrap_or_default();
        let read = |l: &str| {
            let (name, status) = l.trim().split_once(' ')?;
            Some((name.to_owned(), status.parse().ok()?))
        };
        Ok(Report { statuses: text.lines().filter_map(read).collect(), passed, console })
    }
}
