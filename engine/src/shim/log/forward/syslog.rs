//! Driver `syslog`: RFC 3164 and RFC 5424, each with or without the framing of RFC 5425, as Docker writes them.

use std::io;
use std::time::{Duration, Instant};

use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};

use super::endpoint::Link;
use super::sender::{Errand, Receiver, Shim};
use super::tls::Trust;
use crate::log_config::{Address, SyslogFormat, SyslogOptions};
use crate::log_entry::LogEntry;

/// Severities (RFC 5424, section 6.2.1).
const ERROR: u8 = 3;
const INFO: u8 = 6;
/// A receiver that is away is asked again no sooner; doubled up to the second.
const SHORTEST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(15);

/// A receiver of syslog messages.
pub(super) struct Syslog {
    options: SyslogOptions,
    trust: Option<Trust>,
    tag: String,
    hostname: String,
    link: Option<Link>,
    wait: Duration,
    not_before: Option<Instant>,
}

impl Syslog {
    pub(super) fn connect(errand: &Errand, options: &SyslogOptions) -> io::Result<Self> {
        let trust = match options.address {
            Address::Tls(..) => Some(Trust::read(options)?),
            _ => None,
        };
        let link = Link::connect(&options.address, trust.as_ref())?;
        Ok(Self {
            options: options.clone(),
            trust,
            tag: errand.subject.tag.clone(),
            hostname: nix::unistd::gethostname()?.to_string_lossy().into_owned(),
            link: Some(link),
            wait: SHORTEST,
            not_before: None,
        })
    }

    fn try_once(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(link) = &mut self.link {
            match link.send(bytes) {
                Ok(()) => return Ok(()),
                // Longer than a datagram may be: another connection would not help.
                Err(e) if e.raw_os_error() == Some(libc::EMSGSIZE) => return Err(e),
                Err(_) => self.link = None,
            }
        }
        let mut link = Link::connect(&self.options.address, self.trust.as_ref())?;
        link.send(bytes)?;
        self.link = Some(link);
        Ok(())
    }
}

impl Drop for Syslog {
    fn drop(&mut self) {
        if let Some(link) = self.link.take() {
            link.end();
        }
    }
}

impl Receiver for Syslog {
    fn send(&mut self, entry: &LogEntry, shim: &Shim<'_>) -> io::Result<()> {
        if let Some(left) = self.not_before.and_then(|t| t.checked_duration_since(Instant::now())) {
            return Err(io::Error::other(format!("asked again in {} ms", left.as_millis())));
        }
        let severity = if entry.source == "stderr" { ERROR } else { INFO };
        let priority = self.options.facility << 3 | severity;
        let framed = matches!(self.options.address, Address::Tls(..));
        let bytes =
            message(self.options.format, priority, now(), &self.hostname, &self.tag, &entry.line, framed);
        match self.try_once(&bytes) {
            Ok(()) => {
                (self.wait, self.not_before) = (SHORTEST, None);
                Ok(())
            }
            Err(e) => {
                // Looks whether the container has ended, too.
                shim.pause(Duration::ZERO);
                self.not_before = Some(Instant::now() + self.wait);
                self.wait = (self.wait * 2).min(LONGEST);
                Err(e)
            }
        }
    }
}

/// The time as this host's clock shows it.
fn now() -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    let seconds = now.unix_timestamp();
    // SAFETY: plain values; the process has one thread.
    let offset = unsafe {
        let mut tm: libc::tm = std::mem::zeroed();
        libc::localtime_r(&raw const seconds, &raw mut tm);
        tm.tm_gmtoff
    };
    let offset = i32::try_from(offset).ok().and_then(|s| UtcOffset::from_whole_seconds(s).ok());
    now.to_offset(offset.unwrap_or(UtcOffset::UTC))
}

fn message(
    format: SyslogFormat,
    priority: u8,
    at: OffsetDateTime,
    hostname: &str,
    tag: &str,
    line: &[u8],
    framed: bool,
) -> Vec<u8> {
    let stamp = format_description!("[month repr:short] [day padding:space] [hour]:[minute]:[second]");
    let seconds = format_description!(
        "[year]-[month]-[day]T[hour]:[minute]:[second][offset_hour sign:mandatory]:[offset_minute]"
    );
    let micro = format_description!(
        "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6][offset_hour sign:mandatory]:[offset_minute]"
    );
    // RFC 3339 as Go prints it.
    let zone = |t: String| t.strip_suffix("+00:00").map_or(t.clone(), |t| format!("{t}Z"));
    let pid = std::process::id();
    let head = match format {
        SyslogFormat::Unix => {
            format!("<{priority}>{} {tag}[{pid}]: ", at.format(stamp).unwrap_or_default())
        }
        SyslogFormat::Bsd => {
            format!("<{priority}>{} {hostname} {tag}[{pid}]: ", at.format(stamp).unwrap_or_default())
        }
        SyslogFormat::Ietf { micro: fine } => {
            let time = if fine { at.format(micro) } else { at.format(seconds) };
            format!("<{priority}>1 {} {hostname} {tag} {pid} {tag} - ", zone(time.unwrap_or_default()))
        }
    };
    let whole = [head.as_bytes(), line, b"\n"].concat();
    // RFC 5425, section 4.3: over TLS messages are told apart by their length, where they are RFC 5424's.
    match (framed, format) {
        (true, SyslogFormat::Ietf { .. }) => [format!("{} ", whole.len()).as_bytes(), &whole].concat(),
        _ => whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_look_as_dockers() {
        let at = OffsetDateTime::from_unix_timestamp_nanos(1_704_164_645_000_012_000).expect("in range");
        let pid = std::process::id();
        let text = |format, framed| {
            String::from_utf8_lossy(&message(format, 30, at, "host", "tag", b"hi", framed)).into_owned()
        };
        assert_eq!(text(SyslogFormat::Unix, false), format!("<30>Jan  2 03:04:05 tag[{pid}]: hi\n"));
        assert_eq!(text(SyslogFormat::Bsd, true), format!("<30>Jan  2 03:04:05 host tag[{pid}]: hi\n"));
        let ietf = format!("<30>1 2024-01-02T03:04:05Z host tag {pid} tag - hi\n");
        assert_eq!(text(SyslogFormat::Ietf { micro: false }, false), ietf);
        assert_eq!(text(SyslogFormat::Ietf { micro: false }, true), format!("{} {ietf}", ietf.len()));
        assert!(text(SyslogFormat::Ietf { micro: true }, false).contains("T03:04:05.000012Z "));
    }
}
