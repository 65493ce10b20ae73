//! Proxies towards registries and other servers, as the daemon is told or HTTP_PROXY, HTTPS_PROXY and NO_PROXY of the
//! environment say (as Go reads them).

use std::io;
use std::net::IpAddr;

use base64::Engine;
use hyper::Uri;
use hyper::header::HeaderValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Error;
use crate::endpoints::Network;

/// Longest head of a proxy's answer.
const LONGEST: usize = 16 << 10;

/// Variables that name the proxy towards servers without TLS, and with it.
const HTTP: [&str; 2] = ["HTTP_PROXY", "http_proxy"];
const HTTPS: [&str; 2] = ["HTTPS_PROXY", "https_proxy"];

/// Where a proxy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Proxy {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Value of `Proxy-Authorization`.
    authorization: Option<String>,
}

/// Proxies as they are told: URLs, and who is reached without.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    /// Towards servers without TLS.
    pub http: String,
    /// Towards servers with TLS.
    pub https: String,
    /// Names, addresses and networks with commas between them.
    pub none: String,
}

impl Proxies {
    /// These, where they can be understood.
    ///
    /// # Errors
    /// A URL is none of a proxy that is spoken to by HTTP.
    pub fn checked(self) -> Result<Self, Error> {
        for url in [&self.http, &self.https].into_iter().filter(|url| !url.is_empty()) {
            let scheme = url.split_once("://").map_or("http", |(scheme, _)| scheme);
            if scheme != "http" || parse(url).is_none_or(|p| p.host.is_empty()) {
                let shown = masked(url);
                return Err(Error::Invalid(format!(
                    "proxy {shown:?}: want http://[USER:PASSWORD@]HOST[:PORT]"
                )));
            }
        }
        Ok(self)
    }

    /// That what is taken from the environment can be understood too, where one of these is empty: who goes by a proxy
    /// must not get past it by a mistake.
    ///
    /// # Errors
    /// The value of a variable, which is named, is none of a proxy that is spoken to by HTTP.
    pub fn check_environment(&self) -> Result<(), Error> {
        for (own, names) in [(&self.http, HTTP), (&self.https, HTTPS)] {
            let mut told = names.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
            if let Some((name, value)) = told.find(|(_, value)| own.is_empty() && !value.is_empty()) {
                let refused = |why: String| Error::Invalid(format!("{name} of the environment: {why}"));
                let http = value.into_string().map_err(|_| refused("it is no UTF-8".into()))?;
                let given = Self { http, ..Self::default() };
                given.checked().map_err(|e| refused(e.to_string()))?;
            }
        }
        Ok(())
    }

    /// With what the environment says where they are empty: HTTP_PROXY, HTTPS_PROXY, NO_PROXY, or the same in small letters.
    pub fn or_environment(&self) -> Self {
        let or = |told: &String, names: [&str; 2]| match told.is_empty() {
            true => {
                names.iter().find_map(|n| std::env::var(n).ok().filter(|v| !v.is_empty())).unwrap_or_default()
            }
            false => told.clone(),
        };
        Self {
            http: or(&self.http, HTTP),
            https: or(&self.https, HTTPS),
            none: or(&self.none, ["NO_PROXY", "no_proxy"]),
        }
    }

    /// Without what nobody is to see, as Docker shows them.
    pub fn shown(&self) -> Self {
        Self { http: masked(&self.http), https: masked(&self.https), none: self.none.clone() }
    }

    /// The proxy for a server, if there is one.
    pub(crate) fn of(&self, secure: bool, host: &str, port: u16) -> Option<Proxy> {
        let url = Some(if secure { &self.https } else { &self.http }).filter(|url| !url.is_empty())?;
        if is_spared(host, port, &self.none) { None } else { parse(url) }
    }

    /// What a request to a URL has to say to its proxy, where that is not the business of the connection.
    pub(crate) fn authorization(&self, url: &Uri) -> Option<HeaderValue> {
        let plain = url.scheme_str() == Some("http");
        let host = url.host().filter(|_| plain)?.trim_start_matches('[').trim_end_matches(']');
        let proxy = self.of(false, host, url.port_u16().unwrap_or(80))?;
        HeaderValue::from_str(&proxy.authorization?).ok()
    }
}

fn masked(url: &str) -> String {
    match (url.find("://").map_or(0, |at| at + 3), url.rfind('@')) {
        (start, Some(at)) if start <= at => format!("{}xxxxx:xxxxx{}", &url[..start], &url[at..]),
        _ => url.to_owned(),
    }
}

fn parse(url: &str) -> Option<Proxy> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest).trim_end_matches('/');
    let (user, at) = rest.rsplit_once('@').map_or((None, rest), |(user, at)| (Some(user), at));
    let (host, port) = match at.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (at, "80"),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let authorization = user.map(|user| {
        // Apart: a sign that is encoded may be the one between them (RFC 3986, 3.2.1; RFC 7617, 2).
        let (name, password) = user.split_once(':').unwrap_or((user, ""));
        let both = [decoded(name), b":".to_vec(), decoded(password)].concat();
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(both))
    });
    Some(Proxy { host: host.to_owned(), port: port.parse().ok()?, authorization })
}

/// Without percent-encoding (RFC 3986, 2.1). What is none stays as it is.
fn decoded(text: &str) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((&first, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|d| char::from(*d).to_digit(16));
        let (byte, left) = match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => (u8::try_from(high << 4 | low).unwrap_or(first), &after[2..]),
            _ => (first, after),
        };
        out.push(byte);
        rest = left;
    }
    out
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
        for (user, both) in
            [("a%40b:p%3Aq%25", "a@b:p:q%"), ("a%3Ab:c", "a:b:c"), ("me", "me:"), ("%zz:%4", "%zz:%4")]
        {
            let proxy = parse(&format!("http://{user}@h")).expect("a proxy");
            let wanted = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(both));
            assert_eq!(proxy.authorization, Some(wanted), "{user}");
        }
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

    #[test]
    fn a_proxy_is_chosen_by_whether_there_is_tls_and_its_password_is_not_shown() {
        let proxies = Proxies {
            http: "http://u:p@[fd00::1]:3128".into(),
            https: "proxy.example".into(),
            none: "inner.example".into(),
        };
        let proxies = proxies.checked().expect("valid");
        let at = |secure, host| proxies.of(secure, host, 5000).map(|p| (p.host, p.port));
        assert_eq!(at(false, "r.example"), Some(("fd00::1".into(), 3128)));
        assert_eq!(at(true, "r.example"), Some(("proxy.example".into(), 80)));
        assert_eq!((at(true, "inner.example"), at(false, "a.inner.example")), (None, None));
        assert_eq!(proxies.shown().http, "http://xxxxx:xxxxx@[fd00::1]:3128");
        let said = |url: &str| proxies.authorization(&url.parse().expect("a URL"));
        assert!(said("http://r.example:5000/v2/").is_some());
        assert!(said("https://r.example/").is_none() && said("http://inner.example/").is_none());
        for bad in ["socks5://h:1", "http://", "https://h:1", "http://h:port"] {
            let https = bad.to_owned();
            assert!(Proxies { https, ..Proxies::default() }.checked().is_err(), "{bad}");
        }
    }
}
