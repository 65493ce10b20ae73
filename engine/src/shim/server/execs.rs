//! Further commands in the shim's container: on their way in, their stdio, their ends.
//!
//! Each belongs to the connection it was asked for by, for as long as that lasts, and goes on without it. Its
//! output is not logged.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use super::{Server, Source};
use crate::runtime::exec::{Process, Progress};
use crate::runtime::{Container, Error};
use crate::shim::protocol::{self, ATTACH_STDIN};
use crate::shim::spec::{ExecSpec, ExecState, Exit};
use crate::shim::stdio::{ReadOutcome, Stdio};

/// What a pipe can hold at most, unless its owner is privileged (pipe(7), pipe-max-size).
const LARGEST_PIPE: usize = 1 << 20;
/// Ends kept for a daemon that was not there when they came.
const KEPT_ENDS: usize = 32;

/// A command in the container.
pub struct Exec {
    number: u32,
    state: ExecState,
    process: Process,
    /// None until the master of its terminal is there.
    stdio: Option<Stdio>,
    /// The command has been executed.
    running: bool,
}

/// All of them.
#[derive(Default)]
pub struct Execs {
    live: Vec<Exec>,
    ended: Vec<(ExecState, Exit)>,
    last: u32,
}

impl Execs {
    /// Adds what is to be polled. `is_full`: whether the client of an exec has to catch up first.
    pub fn poll(&self, mut add: impl FnMut(Source, RawFd, i16), is_full: impl Fn(u32) -> bool) {
        for e in &self.live {
            if !e.running {
                add(Source::ExecGate(e.number), e.process.gate(), libc::POLLIN);
            }
            if e.process.is_there() {
                add(Source::ExecEnd(e.number), e.process.pidfd.as_raw_fd(), libc::POLLIN);
            }
            let Some(stdio) = &e.stdio else { continue };
            if let Some(fd) = stdio.waiting_input() {
                add(Source::ExecInput(e.number), fd, libc::POLLOUT);
            }
            // Who asked for it is told first that it runs.
            if e.running && !is_full(e.number) {
                for (i, fd) in stdio.outputs.iter().enumerate().filter_map(|(i, o)| Some((i, o.fd()?))) {
                    add(Source::ExecOutput(e.number, i), fd, libc::POLLIN);
                }
            }
        }
    }

    /// Has the container take the exit status of children that are none of these. While one is on its way, its
    /// process may be a child that nobody knows yet.
    pub fn reap(&self, container: &Container) {
        if self.live.iter().all(|e| e.running) {
            container.reap(self.live.iter().map(|e| e.process.pid));
        }
    }

    /// Whether input for it can be taken.
    pub fn has_room(&self, number: u32) -> bool {
        let found = self.live.iter().find(|e| e.number == number);
        found.is_none_or(|e| e.running && e.stdio.as_ref().is_none_or(Stdio::has_room))
    }

    fn find(&mut self, number: u32) -> Option<&mut Exec> {
        self.live.iter_mut().find(|e| e.number == number)
    }

    fn named(&self, id: &[u8]) -> Result<&Exec, Error> {
        self.live
            .iter()
            .find(|e| e.state.spec.id.as_bytes() == id)
            .ok_or_else(|| Error::Refused(format!("exec {} does not run", String::from_utf8_lossy(id))))
    }

    /// Input for a command.
    pub fn feed(&mut self, number: u32, data: &[u8]) {
        if let Some(stdio) = self.find(number).and_then(|e| e.stdio.as_mut()) {
            stdio.feed(data);
        }
    }

    /// Its client has no more to say. On a terminal that is not the end of the terminal.
    pub fn input_ended(&mut self, number: u32) {
        if let Some(e) = self.find(number).filter(|e| !e.state.spec.tty)
            && let Some(stdio) = &mut e.stdio
        {
            stdio.close_input();
        }
    }

    /// Writes what it takes.
    pub fn pump(&mut self, number: u32) {
        if let Some(stdio) = self.find(number).and_then(|e| e.stdio.as_mut()) {
            stdio.pump();
        }
    }

    /// Sets the size of its terminal.
    pub fn resize(&self, id: &[u8], rows: u16, cols: u16) -> Result<(), Error> {
        let exec = self.named(id)?;
        let terminal = exec.stdio.as_ref().filter(|_| exec.state.spec.tty).and_then(|s| s.outputs.first());
        // As runc's shim has it: clients resize without asking whether there is a terminal.
        let Some(terminal) = terminal else { return Ok(()) };
        terminal.resize(rows, cols).map_err(|source| Error::System {
            operation: "resize",
            subject: "terminal".into(),
            source,
        })
    }

    /// Sends it a signal.
    pub fn signal(&self, id: &[u8], signal: i32) -> Result<(), Error> {
        self.named(id)?.process.signal(signal)
    }

    /// Those that run, and the last ones that ended unseen.
    pub fn list(&self) -> Vec<&ExecState> {
        self.live.iter().map(|e| &e.state).chain(self.ended.iter().map(|(s, _)| s)).collect()
    }
}

impl Server<'_> {
    /// Starts a command for client `i`, who is answered when it is known what comes of it.
    pub(super) fn exec(&mut self, i: usize, json: &[u8]) -> Result<(), Error> {
        let mut spec: ExecSpec =
            serde_json::from_slice(json).map_err(|e| Error::Refused(format!("exec: {e}")))?;
        if !self.started || self.exit.is_some() {
            return Err(Error::Refused("the container does not run".into()));
        }
        let (piped, pipes) = match spec.tty {
            true => (None, None),
            false => {
                let made = Stdio::pipes(spec.open_stdin);
                let (ours, theirs) = made.map_err(|source| Error::System {
                    operation: "make",
                    subject: "stdio pipes".into(),
                    source,
                })?;
                (Some(ours), Some(theirs))
            }
        };
        // SAFETY: the shim has one thread.
        let process = unsafe { Process::spawn(&self.container, self.spec, &spec, pipes) }?;
        // Only needed to begin with, and perhaps large.
        spec.env = Vec::new();
        let state = ExecState { spec, pid: process.pid.as_raw() as u32 };
        self.execs.last = self.execs.last.wrapping_add(1);
        let number = self.execs.last;
        self.execs.live.push(Exec { number, state, process, stdio: piped, running: false });
        self.clients[i].exec = Some(number);
        Ok(())
    }

    /// Client `i` wants to know of the end of an exec.
    pub(super) fn wait_exec(&mut self, i: usize, id: &[u8]) -> Result<(), Error> {
        if let Ok(exec) = self.execs.named(id) {
            self.clients[i].exec = Some(exec.number);
            return Ok(());
        }
        let Some(at) = self.execs.ended.iter().position(|(s, _)| s.spec.id.as_bytes() == id) else {
            return Err(Error::Refused(format!("no exec {} is known", String::from_utf8_lossy(id))));
        };
        let (_, exit) = self.execs.ended.remove(at);
        self.clients[i].send(protocol::EXITED, &[&serde_json::to_vec(&exit).unwrap_or_default()]);
        Ok(())
    }

    /// A command on its way tells something.
    pub(super) fn exec_progress(&mut self, number: u32) {
        let Some(exec) = self.execs.find(number).filter(|e| !e.running) else { return };
        let progress = exec.process.progress().and_then(|p| match p {
            Progress::Terminal(master) => {
                let stdio = Stdio::terminal(&master, exec.state.spec.open_stdin);
                let failed = |source| Error::System { operation: "open", subject: "terminal".into(), source };
                exec.stdio = Some(stdio.map_err(failed)?);
                Ok(None)
            }
            Progress::Executed => {
                exec.state.pid = exec.process.pid.as_raw() as u32;
                Ok(Some(Ok(exec.state.pid)))
            }
            Progress::Failed { message, exit_code } => Ok(Some(Err((message, exit_code)))),
        });
        match progress {
            Ok(None) => {}
            Ok(Some(Ok(pid))) => {
                exec.running = true;
                for c in self.clients.iter_mut().filter(|c| c.exec == Some(number)) {
                    c.send(protocol::OK, &[&pid.to_be_bytes()]);
                }
            }
            Ok(Some(Err((message, exit_code)))) => self.exec_failed(number, &message, exit_code),
            Err(e) => self.exec_failed(number, &e.to_string(), e.exit_code()),
        }
    }

    fn exec_failed(&mut self, number: u32, message: &str, exit_code: i32) {
        if let Some(at) = self.execs.live.iter().position(|e| e.number == number) {
            let mut exec = self.execs.live.swap_remove(at);
            if let Err(e) = exec.process.kill() {
                self.note("end a command that failed", &io::Error::other(e));
            }
        }
        for c in self.clients.iter_mut().filter(|c| c.exec == Some(number)) {
            c.exec = None;
            c.send(protocol::FAILED, &[&exit_code.to_be_bytes(), message.as_bytes()]);
        }
    }

    /// Reads an output once; how many bytes. None when there is nothing now or any more.
    pub(super) fn read_exec_output(&mut self, number: u32, i: usize) -> usize {
        let stdio = self.execs.live.iter_mut().find(|e| e.number == number).and_then(|e| e.stdio.as_mut());
        let Some(output) = stdio.and_then(|s| s.outputs.get_mut(i)) else { return 0 };
        let n = match output.read(&mut self.buffer) {
            ReadOutcome::Data(n) => n,
            ReadOutcome::Empty | ReadOutcome::Closed => return 0,
        };
        for c in self.clients.iter_mut().filter(|c| c.exec == Some(number)) {
            c.send(protocol::OUTPUT, &[&[output.number], &self.buffer[..n]]);
        }
        n
    }

    /// A command's process has ended.
    pub(super) fn exec_ended(&mut self, number: u32) {
        // It may have been executed and have ended in one moment.
        while self.execs.find(number).is_some_and(|e| !e.running) {
            self.exec_progress(number);
        }
        let Some(exec) = self.execs.find(number) else { return };
        let code = match exec.process.try_wait() {
            Ok(Some(code)) => code,
            Ok(None) => return,
            Err(e) => {
                self.note("wait for a command", &io::Error::other(e));
                255
            }
        };
        self.exec_has_ended(number, code);
    }

    fn exec_has_ended(&mut self, number: u32, code: i32) {
        // What it left in its pipes; processes that it left behind and that hold them open are not waited for.
        // They may write on for ever: no more is read than a pipe can hold.
        for i in 0..2 {
            let mut left = LARGEST_PIPE;
            while left > 0 {
                match self.read_exec_output(number, i) {
                    0 => break,
                    n => left = left.saturating_sub(n),
                }
            }
        }
        let Some(at) = self.execs.live.iter().position(|e| e.number == number) else { return };
        let exec = self.execs.live.swap_remove(at);
        let exit = Exit { code, oom_killed: false, finished_at_ns: super::now_ns() };
        let json = serde_json::to_vec(&exit).unwrap_or_default();
        let mut told = false;
        for c in self.clients.iter_mut().filter(|c| c.exec == Some(number)) {
            c.exec = None;
            c.send(protocol::EXITED, &[&json]);
            told |= !c.is_broken();
        }
        if told {
            return;
        }
        if self.execs.ended.len() == KEPT_ENDS {
            self.execs.ended.remove(0);
        }
        self.execs.ended.push((exec.state, exit));
    }

    /// With the container's end all of it ends. The kernel has seen to that where the commands are in the
    /// container's PID namespace.
    pub(super) fn end_execs(&mut self) {
        while let Some(exec) = self.execs.live.first_mut() {
            let (number, running) = (exec.number, exec.running);
            match exec.process.kill() {
                Ok(code) if running => self.exec_has_ended(number, code.unwrap_or(255)),
                Ok(_) => self.exec_failed(number, "the container has ended", 137),
                Err(e) => {
                    self.note("end a command", &io::Error::other(e));
                    self.exec_has_ended(number, 255);
                }
            }
        }
    }

    /// Whether client `i` must wait before more of its input can be taken.
    pub(super) fn is_stalled(&self, i: usize) -> bool {
        let c = &self.clients[i];
        match c.exec {
            Some(number) => !self.execs.has_room(number),
            None => c.attached & ATTACH_STDIN != 0 && !self.stdio.has_room(),
        }
    }
}
