//! The shim's loop: one thread, one poll(2), over the container's end, its output, and the clients.

mod execs;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use self::execs::Execs;
use super::connection::Connection;
use super::exit_file;
use super::log::Log;
use super::protocol::{self, ATTACH_BEGUN, ATTACH_STDERR, ATTACH_STDIN, ATTACH_STDOUT, CHUNK};
use super::relay::Relays;
use super::spec::{Exit, Namespace, Relay, SHIM_LOG_FILE, ShimSpec, State};
use super::stdio::{ReadOutcome, Stdio};
use crate::cdi::Stage;
use crate::runtime::{self, Container, Error, hooks};

/// How long after the container's end its log is still sent on.
const AFTERWARDS: Duration = Duration::from_secs(10);

/// A shim with its container.
pub struct Server<'a> {
    spec: &'a ShimSpec,
    bundle: &'a Path,
    container: Container,
    stdio: Stdio,
    log: Log,
    listener: UnixListener,
    clients: Vec<Connection>,
    execs: Execs,
    /// Only where there are ports to serve.
    relays: Option<Box<Relays>>,
    started: bool,
    exit: Option<Exit>,
    /// Until when the log is still sent on.
    patience: Option<Instant>,
    log_error: Option<String>,
    buffer: Vec<u8>,
}

/// What a polled descriptor belongs to.
#[derive(Clone, Copy)]
enum Source {
    Exit,
    Listener,
    Log,
    Relays,
    Children,
    Input,
    Output(usize),
    Client(usize),
    ExecGate(u32),
    ExecEnd(u32),
    ExecInput(u32),
    ExecOutput(u32, usize),
}

impl<'a> Server<'a> {
    /// A server for a container that has just been created.
    pub fn new(
        spec: &'a ShimSpec,
        bundle: &'a Path,
        container: Container,
        stdio: Stdio,
        log: Log,
        listener: UnixListener,
        relays: Option<Box<Relays>>,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self {
            spec,
            bundle,
            container,
            stdio,
            log,
            listener,
            clients: Vec::new(),
            execs: Execs::default(),
            relays,
            started: false,
            exit: None,
            patience: None,
            log_error: None,
            buffer: vec![0; CHUNK],
        })
    }

    /// Serves until the container has ended and everybody connected has been told.
    pub fn run(mut self, first: UnixStream) -> io::Result<()> {
        let pid = self.container.pid.as_raw() as u32;
        let mut launcher = Connection::new(first)?;
        launcher.send(protocol::CREATED, &[&pid.to_be_bytes()]);
        if launcher.is_done() {
            // Nobody knows of this container: the daemon died while it was made.
            self.container.discard();
            return Ok(());
        }
        self.clients.push(launcher);
        loop {
            self.clients.retain(|c| !c.is_done());
            if self.exit.is_some()
                && !self.clients.iter().any(Connection::has_output)
                && (!self.log.is_pending() || self.patience.is_none_or(|t| t <= Instant::now()))
            {
                return Ok(());
            }
            for (source, events) in self.poll()? {
                self.handle(source, events);
            }
            if self.exit.is_none() {
                self.execs.reap(&self.container);
            }
            if let Some(relays) = &mut self.relays {
                relays.turn();
            }
        }
    }

    fn poll(&self) -> io::Result<Vec<(Source, i16)>> {
        let mut sources = Vec::with_capacity(8);
        let mut fds: Vec<libc::pollfd> = Vec::with_capacity(8);
        let mut add = |source, fd: RawFd, events| {
            sources.push(source);
            fds.push(libc::pollfd { fd, events, revents: 0 });
        };
        if self.exit.is_none() {
            add(Source::Exit, self.container.pidfd.as_raw_fd(), libc::POLLIN);
            add(Source::Listener, self.listener.as_raw_fd(), libc::POLLIN);
            if let Some(fd) = self.container.children() {
                add(Source::Children, fd, libc::POLLIN);
            }
            if let Some(fd) = self.stdio.waiting_input() {
                add(Source::Input, fd, libc::POLLOUT);
            }
            // A client that does not keep up holds the container's output back, as a slow pipe would.
            if !self.log.is_full() && !self.clients.iter().any(|c| c.attached != 0 && c.is_full()) {
                for (i, output) in self.stdio.outputs.iter().enumerate() {
                    if let Some(fd) = output.fd() {
                        add(Source::Output(i), fd, libc::POLLIN);
                    }
                }
            }
            let is_full = |number| self.clients.iter().any(|c| c.exec == Some(number) && c.is_full());
            self.execs.poll(&mut add, is_full);
        }
        if let Some(relays) = &self.relays {
            add(Source::Relays, relays.fd(), libc::POLLIN);
        }
        if let Some((fd, write)) = self.log.fd() {
            add(Source::Log, fd, if write { libc::POLLIN | libc::POLLOUT } else { libc::POLLIN });
        }
        for (i, c) in self.clients.iter().enumerate() {
            let takes = c.is_readable() && !self.is_stalled(i) && self.exit.is_none();
            let read = if takes { libc::POLLIN } else { 0 };
            let write = if c.has_output() { libc::POLLOUT } else { 0 };
            add(Source::Client(i), c.fd(), read | write);
        }
        loop {
            let own = self.patience.map(|t| t.saturating_duration_since(Instant::now()));
            let relays = self.relays.as_ref().and_then(|r| r.patience());
            let left = own.into_iter().chain(relays).min();
            let timeout = left.map_or(-1, |t| i32::try_from(t.as_millis()).unwrap_or(i32::MAX));
            // SAFETY: a live slice and its length.
            let r = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout) };
            if r >= 0 {
                break;
            }
            let e = io::Error::last_os_error();
            if e.kind() != io::ErrorKind::Interrupted {
                return Err(e);
            }
        }
        let ready = sources.into_iter().zip(&fds).filter(|(_, f)| f.revents != 0);
        Ok(ready.map(|(s, f)| (s, f.revents)).collect())
    }

    fn handle(&mut self, source: Source, events: i16) {
        match source {
            Source::Exit => self.ended(),
            Source::Listener => self.accept(),
            Source::Log => {
                if let Some(said) = self.log.progress() {
                    self.note("log", &io::Error::other(said));
                }
            }
            // Every turn of the loop looks after them.
            Source::Children | Source::Relays => {}
            Source::Input => self.stdio.pump(),
            Source::Output(i) => drop(self.read_output(i)),
            Source::Client(i) => self.serve(i, events),
            Source::ExecGate(number) => self.exec_progress(number),
            Source::ExecEnd(number) => self.exec_ended(number),
            Source::ExecInput(number) => self.execs.pump(number),
            Source::ExecOutput(number, i) => drop(self.read_exec_output(number, i)),
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            match Connection::new(stream) {
                Ok(c) => self.clients.push(c),
                Err(e) => self.note("accept", &e),
            }
        }
    }

    /// Reads an output once. False when there is nothing now or any more.
    fn read_output(&mut self, i: usize) -> bool {
        let output = &mut self.stdio.outputs[i];
        let n = match output.read(&mut self.buffer) {
            ReadOutcome::Data(n) => n,
            ReadOutcome::Empty | ReadOutcome::Closed => return false,
        };
        let data = &self.buffer[..n];
        let logged = self.log.write(&mut output.lines, data);
        let wanted = flag_of(output.number);
        for c in self.clients.iter_mut().filter(|c| c.attached & wanted != 0) {
            c.send(protocol::OUTPUT, &[&[output.number], data]);
        }
        if let Err(e) = logged {
            self.note("write log", &e);
        }
        true
    }

    fn serve(&mut self, i: usize, events: i16) {
        let c = &mut self.clients[i];
        if events & libc::POLLOUT != 0 {
            c.flush();
        }
        if events & libc::POLLIN != 0 {
            let open = c.fill(&mut self.buffer);
            while let Some((kind, payload)) = self.clients[i].next() {
                self.request(i, kind, &payload);
            }
            if !open {
                self.input_ended(i);
            }
        } else if events & (libc::POLLHUP | libc::POLLERR) != 0 {
            // Both directions are gone.
            c.give_up();
            self.input_ended(i);
        }
    }

    fn attach(&mut self, i: usize, flags: u8) {
        let c = &mut self.clients[i];
        c.attached = flags & (ATTACH_STDIN | ATTACH_STDOUT | ATTACH_STDERR);
        c.send(protocol::OK, &[&now_ns().to_be_bytes()]);
        for output in
            self.stdio.outputs.iter().filter(|o| flags & ATTACH_BEGUN != 0 && flags & flag_of(o.number) != 0)
        {
            if !output.lines.begun().is_empty() {
                c.send(protocol::OUTPUT, &[&[output.number], output.lines.begun()]);
            }
        }
    }

    fn input_ended(&mut self, i: usize) {
        let c = &mut self.clients[i];
        if let Some(number) = c.exec {
            return self.execs.input_ended(number);
        }
        if c.attached & ATTACH_STDIN != 0 && !std::mem::replace(&mut c.input_ended, true) {
            // On a terminal the end of one client's input is not the end of the terminal.
            if self.spec.stdin_once && !self.spec.tty {
                self.stdio.close_input();
            }
        }
    }

    fn request(&mut self, i: usize, kind: u8, payload: &[u8]) {
        let done = match (kind, payload) {
            (protocol::STDIN, data) => {
                return match self.clients[i].exec {
                    Some(number) => self.execs.feed(number, data),
                    None => self.stdio.feed(data),
                };
            }
            (protocol::ATTACH, [flags]) => return self.attach(i, *flags),
            (protocol::WAIT, []) => {
                self.clients[i].waiting = true;
                if let Some(text) = &self.log_error {
                    self.clients[i].send(protocol::NOTE, &[text.as_bytes()]);
                }
                return;
            }
            (protocol::GET_STATE, []) => {
                let state = serde_json::to_vec(&self.state()).unwrap_or_default();
                return self.clients[i].send(protocol::STATE, &[&state]);
            }
            // Answered later, unless it is refused.
            (protocol::EXEC, json) => match self.exec(i, json) {
                Ok(()) => return,
                Err(e) => Err(e),
            },
            (protocol::WAIT_EXEC, id) => match self.wait_exec(i, id) {
                Ok(()) => return,
                Err(e) => Err(e),
            },
            (protocol::LIST_EXECS, []) => {
                let list = serde_json::to_vec(&self.execs.list()).unwrap_or_default();
                return self.clients[i].send(protocol::STATE, &[&list]);
            }
            (protocol::RESIZE_EXEC, [a, b, c, d, id @ ..]) => {
                self.execs.resize(id, u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]))
            }
            (protocol::SIGNAL_EXEC, [a, b, c, d, id @ ..]) => {
                self.execs.signal(id, u32::from_be_bytes([*a, *b, *c, *d]) as i32)
            }
            (protocol::START, []) => self.start(),
            (protocol::SIGNAL, [a, b, c, d, all]) => {
                self.container.signal(u32::from_be_bytes([*a, *b, *c, *d]) as i32, *all != 0)
            }
            (protocol::FREEZE, [frozen]) => self.container.freeze(*frozen != 0),
            (protocol::CLOSE_STDIN, []) => {
                self.stdio.close_input();
                Ok(())
            }
            (protocol::RESIZE, [a, b, c, d]) => {
                self.resize(u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]))
            }
            (protocol::UPDATE, json) => match serde_json::from_slice(json) {
                Ok(limits) => self.container.update(&limits),
                Err(e) => Err(Error::Refused(format!("resource limits: {e}"))),
            },
            (protocol::RELAY, json) => match serde_json::from_slice::<Vec<Relay>>(json) {
                Ok(wanted) => self.relay(&wanted),
                Err(e) => Err(Error::Refused(format!("ports to serve: {e}"))),
            },
            (other, _) => Err(Error::Refused(format!("the shim does not know request {other}"))),
        };
        match done {
            Ok(()) => self.clients[i].send(protocol::OK, &[]),
            Err(e) => {
                let text = e.to_string();
                self.clients[i].send(protocol::FAILED, &[&e.exit_code().to_be_bytes(), text.as_bytes()]);
            }
        }
    }

    fn start(&mut self) -> Result<(), Error> {
        if std::mem::replace(&mut self.started, true) {
            return Err(Error::Refused("the container has been started already".into()));
        }
        self.container.start()?;
        // The command runs, whatever comes of them.
        if let Err(e) = self.run_hooks(Stage::Poststart, "running") {
            self.note("start", &io::Error::other(e));
        }
        Ok(())
    }

    fn relay(&mut self, wanted: &[Relay]) -> Result<(), Error> {
        match &mut self.relays {
            Some(relays) => relays.set(wanted),
            None => {
                self.relays = Relays::open(wanted)?;
                Ok(())
            }
        }
    }

    /// Another runtime has run its own.
    fn run_hooks(&self, stage: Stage, status: &str) -> Result<(), Error> {
        if self.spec.external.is_some() || !hooks::any(self.spec, &[stage]) {
            return Ok(());
        }
        let bundle = std::env::current_dir().unwrap_or_else(|_| self.bundle.to_path_buf());
        hooks::run(self.spec, &[stage], status, self.container.pid.as_raw(), &bundle)
    }

    fn resize(&self, rows: u16, cols: u16) -> Result<(), Error> {
        match &self.container.terminal {
            Some(master) => runtime::resize(master, rows, cols).map_err(|source| Error::System {
                operation: "resize",
                subject: "terminal".into(),
                source,
            }),
            // As runc's shim has it: clients resize without asking whether there is a terminal.
            None => Ok(()),
        }
    }

    fn state(&self) -> State {
        State {
            pid: self.container.pid.as_raw() as u32,
            started: self.started,
            log_error: self.log_error.clone(),
        }
    }

    /// The container's first process has ended, and in a PID namespace of its own the kernel has ended the others.
    fn ended(&mut self) {
        let code = match self.container.try_wait() {
            Ok(Some(code)) => code,
            Ok(None) => return,
            Err(e) => {
                self.note("wait", &io::Error::other(e));
                255
            }
        };
        let finished_at_ns = now_ns();
        if let Some(relays) = self.relays.take() {
            relays.finish();
        }
        // Before its output is read to the end: what lives may write on for ever.
        if self.spec.pid != Namespace::New
            && let Err(e) = self.container.cgroup.kill()
        {
            self.note("end what the container left running", &io::Error::other(e));
        }
        self.end_execs();
        for i in 0..self.stdio.outputs.len() {
            while self.read_output(i) {}
            if let Err(e) = self.log.finish(&mut self.stdio.outputs[i].lines) {
                self.note("write log", &e);
            }
        }
        let exit = Exit { code, oom_killed: self.container.cgroup.oom_killed(), finished_at_ns };
        if let Err(e) = self.container.let_go() {
            self.note("have the runtime forget the container", &io::Error::other(e));
        }
        super::unshare(self.spec, self.bundle);
        if let Err(e) = self.container.cgroup.remove() {
            self.note("remove cgroup", &io::Error::other(e));
        }
        if let Err(e) = self.run_hooks(Stage::Poststop, "stopped") {
            self.note("clean up", &io::Error::other(e));
        }
        if let Err(e) = exit_file::write(self.bundle, &exit) {
            self.note("write exit status", &e);
        }
        // Whoever is connecting right now was not told, and finds the file instead.
        self.accept();
        let json = serde_json::to_vec(&exit).unwrap_or_default();
        for c in &mut self.clients {
            if c.waiting {
                c.send(protocol::EXITED, &[&json]);
            }
        }
        self.exit = Some(exit);
        self.patience = Some(Instant::now() + AFTERWARDS);
    }

    fn note(&mut self, operation: &str, e: &io::Error) {
        let text = format!("{operation}: {e}\n");
        if self.log_error.as_deref() != Some(&text) {
            let file = OpenOptions::new().create(true).append(true).open(self.bundle.join(SHIM_LOG_FILE));
            // There is nobody left to tell if this fails as well.
            let _ = file.and_then(|mut f| f.write_all(text.as_bytes()));
            for c in self.clients.iter_mut().filter(|c| c.waiting) {
                c.send(protocol::NOTE, &[text.as_bytes()]);
            }
            self.log_error = Some(text);
        }
    }
}

/// Nanoseconds since the Unix epoch.
fn now_ns() -> i64 {
    i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos()).unwrap_or(0)
}

/// What a client asks for an output with.
fn flag_of(output: u8) -> u8 {
    if output == 1 { ATTACH_STDOUT } else { ATTACH_STDERR }
}
