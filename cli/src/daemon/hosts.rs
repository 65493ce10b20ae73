//! Where the API is served: `-H`, `hosts`, and whose the socket is (`--group`).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// A socket to serve the API on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// `unix:///path`.
    Unix(PathBuf),
    /// `tcp://address:port`.
    Tcp(SocketAddr),
}

impl Host {
    /// Reads it as dockerd does: of TCP, the port is 2375, or 2376 with TLS, and the address this host's own, where none is
    /// given.
    pub fn parse(text: &str, tls: bool) -> Result<Self> {
        if let Some(path) = text.strip_prefix("unix://") {
            if !path.starts_with('/') {
                bail!(
                    "host {text:?}: the path of a unix socket must be absolute, like unix:///run/skep/skep.sock"
                );
            }
            return Ok(Self::Unix(path.into()));
        }
        if let Some(rest) = text.strip_prefix("tcp://") {
            let bad = || format!("host {text:?}: want tcp://address:port, like tcp://127.0.0.1:2375");
            let rest = rest.trim_end_matches('/');
            let usual = if tls { 2376 } else { 2375 };
            let (addr, port) = match rest.rsplit_once(':') {
                _ if rest.ends_with(']') => (rest, usual),
                Some((addr, port)) => (addr, port.parse().with_context(bad)?),
                None => (rest, usual),
            };
            let addr = addr.trim_start_matches('[').trim_end_matches(']');
            let addr: IpAddr = match addr {
                "" | "localhost" => Ipv4Addr::LOCALHOST.into(),
                addr => addr.parse().with_context(bad)?,
            };
            return Ok(Self::Tcp(SocketAddr::new(addr, port)));
        }
        if text.starts_with("fd://") {
            bail!(
                "host {text:?}: sockets of systemd's are not taken over: leave out docker.socket, and use unix:///run/docker.sock"
            );
        }
        bail!("host {text:?}: want unix:///path or tcp://address:port")
    }
}

/// The ID of a group, given by name or number.
pub fn group(asked: Option<String>) -> Result<Option<u32>> {
    let Some(asked) = asked.filter(|g| !g.is_empty()) else { return Ok(None) };
    let all = std::fs::read_to_string("/etc/group").context("read /etc/group")?;
    let id = skep_api::group_id(&all, &asked).or_else(|| asked.parse().ok());
    id.map(Some).with_context(|| format!("--group {asked:?}: there is no such group (groupadd {asked})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_as_dockerd_reads_them_or_refused_by_name() {
        let tcp = |addr: &str| Host::Tcp(addr.parse().expect("a literal address"));
        for (text, tls, host) in [
            ("unix:///run/x.sock", false, Host::Unix("/run/x.sock".into())),
            ("tcp://10.0.0.1:1", false, tcp("10.0.0.1:1")),
            ("tcp://10.0.0.1", false, tcp("10.0.0.1:2375")),
            ("tcp://[fd00::1]", true, tcp("[fd00::1]:2376")),
            ("tcp://[::1]:1", true, tcp("[::1]:1")),
            ("tcp://:2376/", true, tcp("127.0.0.1:2376")),
            ("tcp://localhost", true, tcp("127.0.0.1:2376")),
        ] {
            assert_eq!(Host::parse(text, tls).expect(text), host);
        }
        for bad in ["unix://relative", "tcp://nowhere", "tcp://10.0.0.1:x", "fd://", "http://x", ""] {
            let error = format!("{:#}", Host::parse(bad, false).expect_err("bad host"));
            assert!(error.contains(&format!("{bad:?}")), "{error}");
        }
    }

    #[test]
    fn groups_have_names_or_numbers() {
        assert_eq!(group(Some("root".into())).expect("there"), Some(0));
        assert_eq!(group(Some("12".into())).expect("a number"), Some(12));
        assert_eq!(group(Some(String::new())).expect("none"), None);
        assert!(group(Some("no such group".into())).is_err());
    }
}
