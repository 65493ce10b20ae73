//! Values of log options: booleans as Go reads them, and addresses of receivers.

use std::path::PathBuf;

/// Where a receiver listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// The socket of this host's own syslog.
    Local,
    /// A stream over TCP.
    Tcp(String, u16),
    /// The same, within TLS.
    Tls(String, u16),
    /// Datagrams.
    Udp(String, u16),
    /// A stream socket of this host (or datagrams, where it is such a socket).
    Unix(PathBuf),
    /// A datagram socket of this host.
    Datagram(PathBuf),
}

impl Address {
    /// `scheme://address` into its two parts.
    pub(super) fn scheme(text: &str) -> Option<(&str, &str)> {
        let (scheme, rest) = text.split_once("://")?;
        ["tcp", "tcp+tls", "udp", "unix", "unixgram"].contains(&scheme).then_some((scheme, rest))
    }

    /// An address of a known scheme.
    pub(super) fn parse(scheme: &str, rest: &str, default_port: u16) -> Result<Self, String> {
        if let "unix" | "unixgram" = scheme {
            if !rest.starts_with('/') {
                return Err(format!("path {rest:?} of a {scheme} socket must be absolute"));
            }
            let path = rest.into();
            return Ok(if scheme == "unix" { Self::Unix(path) } else { Self::Datagram(path) });
        }
        let bad = || format!("address {rest:?} is not host:port");
        // [::1]:514, ::1 (no port) or host:514.
        let (host, port) = match rest.strip_prefix('[') {
            Some(v6) => {
                let (host, after) = v6.split_once(']').ok_or_else(bad)?;
                (host, after.strip_prefix(':'))
            }
            None if rest.matches(':').count() > 1 => (rest, None),
            None => rest.split_once(':').map_or((rest, None), |(h, p)| (h, Some(p))),
        };
        if host.is_empty() || host.contains('/') {
            return Err(bad());
        }
        let port = port.map_or(Ok(default_port), |p| p.trim_end_matches('/').parse().map_err(|_| bad()))?;
        Ok(match scheme {
            "udp" => Self::Udp(host.to_owned(), port),
            "tcp+tls" => Self::Tls(host.to_owned(), port),
            _ => Self::Tcp(host.to_owned(), port),
        })
    }
}

/// As Go's strconv.ParseBool.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let parse = |text: &str| Address::scheme(text).and_then(|(s, r)| Address::parse(s, r, 514).ok());
        assert_eq!(parse("tcp://h:1"), Some(Address::Tcp("h".into(), 1)));
        assert_eq!(parse("udp://[::1]:2"), Some(Address::Udp("::1".into(), 2)));
        assert_eq!(parse("tcp+tls://h"), Some(Address::Tls("h".into(), 514)));
        assert_eq!(parse("unixgram:///dev/log"), Some(Address::Datagram("/dev/log".into())));
        for bad in ["tcp://", "tcp://h:x", "unix://x", "http://h:1", "h:1"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
