//! Options of driver `syslog`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Address;

/// Its own options.
pub(super) const OPTIONS: &[&str] = &[
    "syslog-address",
    "syslog-facility",
    "syslog-format",
    "syslog-tls-ca-cert",
    "syslog-tls-cert",
    "syslog-tls-key",
    "syslog-tls-skip-verify",
];

/// By code, from 0 (RFC 5424, section 6.2.1).
const FACILITIES: [&str; 12] =
    ["kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"];

/// How a message is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SyslogFormat {
    /// As to the local socket: RFC 3164 without the host's name.
    Unix,
    /// RFC 3164.
    Bsd,
    /// RFC 5424, times in seconds or in microseconds.
    Ietf {
        /// Microseconds.
        micro: bool,
    },
}

/// What is asked of driver `syslog`.
#[derive(Clone, Debug)]
pub(crate) struct SyslogOptions {
    pub(crate) address: Address,
    pub(crate) facility: u8,
    pub(crate) format: SyslogFormat,
    pub(crate) ca: Option<PathBuf>,
    /// Certificate and key of ours.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
    pub(crate) skip_verify: bool,
}

impl SyslogOptions {
    /// Reads them; the error is Docker's.
    pub(crate) fn read(options: &BTreeMap<String, String>) -> Result<Self, String> {
        let get = |name: &str| options.get(name).map(String::as_str).unwrap_or_default();
        let path = |name: &str| options.get(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let address = match get("syslog-address") {
            "" => Address::Local,
            text => {
                let (scheme, rest) = Address::scheme(text)
                    .ok_or_else(|| format!("syslog-address should be in form proto://address, got {text}"))?;
                Address::parse(scheme, rest, 514).map_err(|e| format!("syslog-address: {e}"))?
            }
        };
        let format = match get("syslog-format") {
            "" => SyslogFormat::Unix,
            "rfc3164" => SyslogFormat::Bsd,
            "rfc5424" => SyslogFormat::Ietf { micro: false },
            "rfc5424micro" => SyslogFormat::Ietf { micro: true },
            _ => return Err("Invalid syslog format".into()),
        };
        let identity = match (path("syslog-tls-cert"), path("syslog-tls-key")) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => return Err("syslog-tls-cert and syslog-tls-key go together: give both".into()),
        };
        Ok(Self {
            address,
            facility: facility(get("syslog-facility")).ok_or("invalid syslog facility")?,
            format,
            ca: path("syslog-tls-ca-cert"),
            identity,
            // Docker looks only at whether it is there.
            skip_verify: options.contains_key("syslog-tls-skip-verify"),
        })
    }
}

fn facility(text: &str) -> Option<u8> {
    if text.is_empty() {
        return Some(3);
    }
    if let Some(at) = FACILITIES.iter().position(|f| *f == text) {
        return u8::try_from(at).ok();
    }
    if let Some(n) = text.strip_prefix("local") {
        return n.parse::<u8>().ok().filter(|n| *n < 8).map(|n| 16 + n);
    }
    text.parse().ok().filter(|n| *n < 24)
}
