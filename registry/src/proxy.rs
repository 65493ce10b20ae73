//! A proxy towards registries with TLS, as HTTPS_PROXY and NO_PROXY of the environment say (as Go reads them).

use std::io;
use std::net::IpAddr;

use base64::Engine;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::endpoints::Network;

/// Longest head of a proxy's answer.
const LONGEST: usize = 16 << 10;

/// Where a proxy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Proxy {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Value of `Proxy-Authorization`.
    authorization: Option<String>,
}

/// The proxy for a host, if there is one.
pub(crate) fn of(host: &str, port: u16) -> Option<Proxy> {
    let from_env =
        |names: [&str; 2]| names.iter().find_map(|n| std::env::var(n).ok().filter(|v| !v.is_empty()));
    let proxy = from_env(["HTTPS_PROXY", "https_proxy"])?;
    let spared = from_env(["NO_PROXY", "no_proxy"]).unwrap_or_default();
    if is_spared(host, port, &spared) { None } else { parse(&proxy) }
}

fn parse(url: &str) -> Option<Proxy> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest).trim_end_matches('/');
    let (user, at) = rest.rsplit_once('@').map_or((None, rest), |(user, at)| (Some(user), at));
    let (host, port) = at.rsplit_once(':').unwrap_or((at, "80"));
    let authorization =
        user.map(|u| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(u)));
    Some(Proxy { host: host.to_owned(), port: port.parse().ok()?, authorization })
}

/// `NO_PROXY` is a list of `*`, addresses, networks, and names that cover what is below them too.
fn is_spared(host: &str, port: u16, list: &str) -> bool {
    let addr: Option<IpAddr> = host.parse().ok();
    if host == "localhost" || addr.is_some_and(|a| a.is_loopback()) {
        return true;
    }
    list.split(',').map(str::trim).filter(|one| !one.is_empty()).any(|one| {
        if one == "*" {
            return true;
        }
        if let (Some(addr), Some(network)) = (addr, Network::parse(one)) {
            return network.contains(addr);
        }
        let (name, only) = match one.rsplit_once(':') {
            Some((name, p)) if p.parse::<u16>().is_ok() && !name.contains(':') => (name, p.parse().ok()),
            _ => (one, None),
        };
        let name = name.trim_start_matches("*.").trim_start_matches('.');
        only.is_none_or(|p: u16| p == port)
            && (host == name || host.strip_suffix(name).is_some_and(|above| above.ends_with('.')))
    })
}

impl Proxy {
    /// Has the proxy connect to a host (RFC 9110, CONNECT).
    pub(crate) async fn connect(&self, mut tcp: TcpStream, host: &str, port: u16) -> io::Result<TcpStream> {
        let target = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let authorization =
            self.authorization.as_ref().map(|a| format!("Proxy-Authorization: {a}\r\n")).unwrap_or_default();
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{authorization}\r\n");
        tcp.write_all(request.as_bytes()).await?;
        let mut head = Vec::new();
        // Byte by byte: what follows the head is the tunnel's.
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() > LONGEST {
                return Err(io::Error::other(format!("proxy {} answered without an end", self.host)));
            }
            head.push(tcp.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head);
        let line = head.lines().next().unwrap_or_default();
        match line.split(' ').nth(1) {
            Some(status) if status.starts_with('2') => Ok(tcp),
            _ => Err(io::Error::other(format!(
                "proxyconnect tcp: proxy {}:{} refused: {line}",
                self.host, self.port
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_read_and_some_hosts_spared() {
        let proxy = parse("http://u:p@proxy.example:3128/").expect("a proxy");
        assert_eq!((proxy.host.as_str(), proxy.port), ("proxy.example", 3128));
        assert_eq!(proxy.authorization.as_deref(), Some("Basic dTpw"));
        let list = "10.0.0.0/8, .inner.example,r.example:5000";
        for (host, port, spared) in [
            ("localhost", 443, true),
            ("127.0.0.2", 443, true),
            ("10.1.2.3", 443, true),
            ("192.0.2.1", 443, false),
            ("a.inner.example", 443, true),
            ("ainner.example", 443, false),
            ("r.example", 5000, true),
            ("r.example", 443, false),
        ] {
            assert_eq!(is_spared(host, port, list), spared, "{host}:{port}");
        }
        assert!(is_spared("any.example", 1, "*"));
    }
}
