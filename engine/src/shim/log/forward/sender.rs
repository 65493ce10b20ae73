//! The process that sends messages on: reads entries from the shim, and tells it in lines how it goes.

use std::cell::Cell;
use std::io::{self, BufReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::fluentd::Fluentd;
use super::journald::{self, Journald};
use super::syslog::Syslog;
use crate::log_config::{FluentdOptions, SyslogOptions};
use crate::log_entry::{LENGTH, LogEntry, MAX_ENTRY};
use crate::shim::spec::{LogTold, ShimSpec};

/// What is said first when all is well.
pub(super) const READY: &str = "ready";
/// How long after the container's end messages are still handed over, in seconds.
const AFTERWARDS: u32 = 10;
/// Messages that are lost are told of so often.
const TELL: Duration = Duration::from_secs(30);

/// All that a sender needs to know.
pub(super) struct Errand {
    pub(super) id: String,
    pub(super) subject: LogTold,
    driver: Driver,
}

enum Driver {
    Syslog(SyslogOptions),
    Journald,
    Fluentd(FluentdOptions),
}

/// Where messages are sent.
pub(super) trait Receiver {
    /// Sends one; the error says why it is lost.
    fn send(&mut self, entry: &LogEntry, shim: &Shim<'_>) -> io::Result<()>;
}

impl Errand {
    pub(super) fn new(spec: &ShimSpec) -> Result<Self, String> {
        let driver = match spec.log.driver.as_str() {
            "syslog" => Driver::Syslog(SyslogOptions::read(&spec.log.options)?),
            "fluentd" => Driver::Fluentd(FluentdOptions::read(&spec.log.options)?),
            _ => Driver::Journald,
        };
        Ok(Self { id: spec.id.clone(), subject: spec.log_subject.clone(), driver })
    }

    fn receiver(&self) -> io::Result<Box<dyn Receiver>> {
        Ok(match &self.driver {
            Driver::Syslog(o) => Box::new(Syslog::connect(self, o)?),
            Driver::Fluentd(o) => Box::new(Fluentd::connect(self, o)?),
            Driver::Journald => Box::new(Journald::connect(self, journald::SOCKET)?),
        })
    }
}

/// The shim, as the sender sees it.
pub(super) struct Shim<'a> {
    stream: &'a UnixStream,
    /// The container has ended, and the alarm is set.
    limited: Cell<bool>,
}

impl Shim<'_> {
    /// Says something for the daemon's log.
    pub(super) fn say(&self, text: &str) {
        let line = format!("{}\n", text.replace('\n', " "));
        // A shim that is gone, or does not listen, is no reason to stop.
        // SAFETY: a live buffer and its length.
        unsafe {
            libc::send(
                self.stream.as_raw_fd(),
                line.as_ptr().cast(),
                line.len(),
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            );
        }
    }

    /// Waits before another attempt; from the container's end on, attempts are bounded in time.
    pub(super) fn pause(&self, time: Duration) {
        let mut fd = libc::pollfd { fd: self.stream.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
        let ms = i32::try_from(time.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one live pollfd.
        if unsafe { libc::poll(&raw mut fd, 1, ms) } > 0 {
            if !self.limited.replace(true) {
                // SAFETY: without a handler SIGALRM ends the process, which has nothing to put in order.
                unsafe { libc::alarm(AFTERWARDS) };
            }
            std::thread::sleep(time.min(Duration::from_millis(200)));
        }
    }
}

/// Runs until the container has ended and all is sent.
pub(super) fn run(errand: &Errand, shim: UnixStream) {
    for signal in [libc::SIGALRM, libc::SIGPIPE] {
        // SAFETY: installs no handler.
        unsafe { libc::signal(signal, if signal == libc::SIGALRM { libc::SIG_DFL } else { libc::SIG_IGN }) };
    }
    let tell = Shim { stream: &shim, limited: Cell::new(false) };
    let mut receiver = match errand.receiver() {
        Ok(receiver) => receiver,
        Err(e) => return tell.say(&format!("failed to initialize logging driver: {e}")),
    };
    tell.say(READY);
    let mut trouble = Trouble::default();
    let mut messages = BufReader::with_capacity(64 << 10, &shim);
    loop {
        match next(&mut messages) {
            Ok(Some(entry)) => match receiver.send(&entry, &tell) {
                Ok(()) => trouble.over(&tell),
                Err(e) => trouble.lost(&e, &tell),
            },
            Ok(None) => return,
            Err(e) => return tell.say(&format!("cannot read messages: {e}")),
        }
    }
}

fn next(shim: &mut impl Read) -> io::Result<Option<LogEntry>> {
    let mut length = [0; LENGTH];
    match shim.read_exact(&mut length) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_ENTRY {
        return Err(io::Error::other("a message of no valid length"));
    }
    let mut entry = vec![0; length + LENGTH];
    shim.read_exact(&mut entry)?;
    LogEntry::read(&entry[..length]).map(Some).map_err(io::Error::other)
}

/// Messages that were lost, and when that was last told.
#[derive(Default)]
struct Trouble {
    lost: u64,
    told: Option<Instant>,
}

impl Trouble {
    fn lost(&mut self, why: &io::Error, shim: &Shim<'_>) {
        self.lost += 1;
        if self.told.is_none_or(|t| t.elapsed() > TELL) {
            self.told = Some(Instant::now());
            shim.say(&format!(
                "messages do not reach their receiver and are lost ({} so far): {why}",
                self.lost
            ));
        }
    }

    fn over(&mut self, shim: &Shim<'_>) {
        if self.told.take().is_some() {
            let lost = std::mem::take(&mut self.lost);
            shim.say(&format!("messages reach their receiver again; {lost} were lost"));
        }
    }
}
