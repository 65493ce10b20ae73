//! Which URLs a registry's name stands for: mirrors first, TLS first, and plain HTTP where that is allowed.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::Error;
use crate::http::Http;
use crate::proxy::Proxies;

/// The registry of names without one.
pub const DOCKER_HUB: &str = "docker.io";
/// Where it answers.
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

/// What a daemon is told of registries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Registries (`host[:port]` or a network in CIDR form) that may be spoken to without TLS, or with a
    /// certificate that nobody vouches for. 127.0.0.0/8 and ::1 always may.
    pub insecure: Vec<String>,
    /// URLs asked before Docker Hub, in order.
    pub mirrors: Vec<String>,
    /// Directories with one directory for each registry (`host:port`), which holds `*.crt` authorities and
    /// `*.cert` with `*.key` client certificates.
    pub certificates: Vec<PathBuf>,
    /// What the client calls itself.
    pub user_agent: String,
    /// By which proxies servers are reached; what is empty is as the environment says.
    pub proxies: Proxies,
    /// How often the download of a blob is tried that gets nowhere; 0 = five times.
    pub attempts: u32,
}

impl Options {
    /// The same, if mirrors and networks can be understood.
    pub fn checked(self) -> Result<Self, Error> {
        for mirror in &self.mirrors {
            let bad = |why: &str| Err(Error::Invalid(format!("invalid mirror {mirror:?}: {why}")));
            let Ok(uri) = mirror.parse::<hyper::Uri>() else { return bad("it is no URL") };
            if !matches!(uri.scheme_str(), Some("http" | "https")) {
                return bad("want http:// or https://");
            }
            if !uri.path().trim_end_matches('/').is_empty() || uri.query().is_some() {
                return bad("path, query, or fragment at end of the URI");
            }
            if uri.authority().is_some_and(|a| a.as_str().contains('@')) {
                return bad("username/password not allowed in URI");
            }
        }
        for one in &self.insecure {
            let good = if one.contains('/') { Network::parse(one).is_some() } else { !one.is_empty() };
            if !good {
                return Err(Error::Invalid(format!(
                    "insecure registry {one:?}: want host[:port] or a network such as 10.0.0.0/8"
                )));
            }
        }
        Ok(self)
    }
}

/// One place to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// `https://host:port`.
    pub(crate) base: String,
    /// Certificates are not verified.
    pub(crate) lax: bool,
    /// It stands for another registry, whose credentials are not shown to it.
    pub(crate) mirror: bool,
}

/// Cheap handle to all registries, as one set of options sees them.
#[derive(Clone, Debug)]
pub struct Registries(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: Options,
    http: Http,
}

impl Default for Registries {
    fn default() -> Self {
        Self::new(Options::default())
    }
}

impl Registries {
    /// Nothing is connected to before something is asked.
    pub fn new(options: Options) -> Self {
        let http = Http::new(&options);
        Self(Arc::new(Inner { options, http }))
    }

    /// What it was made with.
    pub fn options(&self) -> &Options {
        &self.0.options
    }

    pub(crate) fn http(&self) -> &Http {
        &self.0.http
    }

    /// Where to ask for repositories of a registry, in order.
    pub(crate) async fn endpoints(&self, registry: &str) -> Vec<Endpoint> {
        let at = |base: String, lax| Endpoint { base, lax, mirror: false };
        if registry == DOCKER_HUB {
            let mut all = Vec::new();
            for mirror in &self.0.options.mirrors {
                let base = mirror.trim_end_matches('/').to_owned();
                let host = base.split_once("://").map_or("", |(_, host)| host);
                all.push(Endpoint { lax: self.is_insecure(host).await, base, mirror: true });
            }
            all.push(at(format!("https://{DOCKER_HUB_HOST}"), false));
            return all;
        }
        if self.is_insecure(registry).await {
            return vec![at(format!("https://{registry}"), true), at(format!("http://{registry}"), true)];
        }
        vec![at(format!("https://{registry}"), false)]
    }

    /// Whether a registry may go without TLS.
    pub async fn is_insecure(&self, registry: &str) -> bool {
        let options = &self.0.options;
        if options.insecure.iter().any(|i| i == registry) {
            return true;
        }
        let host = host_of(registry);
        let networks: Vec<Network> = ["127.0.0.0/8", "::1/128"]
            .into_iter()
            .chain(options.insecure.iter().map(String::as_str))
            .filter_map(Network::parse)
            .collect();
        let addrs = match host.parse::<IpAddr>() {
            Ok(addr) => vec![addr],
            // Only names of this host and networks that somebody named are worth a look-up.
            Err(_) if host == "localhost" || networks.len() > 2 => {
                crate::resolve(host).await.unwrap_or_default()
            }
            Err(_) => return false,
        };
        addrs.iter().any(|a| networks.iter().any(|n| n.contains(*a)))
    }
}

/// A registry's name without its port.
pub(crate) fn host_of(registry: &str) -> &str {
    if let Some(rest) = registry.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    registry.rsplit_once(':').map_or(registry, |(host, _)| host)
}

/// A network in CIDR form.
pub(crate) struct Network {
    base: IpAddr,
    bits: u32,
}

impl Network {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (base, bits) = text.split_once('/')?;
        let (base, bits): (IpAddr, u32) = (base.parse().ok()?, bits.parse().ok()?);
        (bits <= if base.is_ipv4() { 32 } else { 128 }).then_some(Self { base, bits })
    }

    pub(crate) fn contains(&self, addr: IpAddr) -> bool {
        match (self.base, addr) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let differ = a.to_bits() ^ b.to_bits();
                differ.checked_shr(32 - self.bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let differ = a.to_bits() ^ b.to_bits();
                differ.checked_shr(128 - self.bits).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tls_comes_first_and_plain_http_only_where_allowed() {
        let insecure = vec!["reg.example:5000".into(), "10.0.0.0/8".into()];
        let mirrors = vec!["http://mirror.example/".into()];
        let r = Registries::new(Options { insecure, mirrors, ..Options::default() });
        let bases = async |name: &str| {
            r.endpoints(name).await.into_iter().map(|e| e.base).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(bases("127.3.2.1:5000").await, "https://127.3.2.1:5000 http://127.3.2.1:5000");
        assert_eq!(bases("10.1.1.1").await, "https://10.1.1.1 http://10.1.1.1");
        assert_eq!(bases("[::1]:5000").await, "https://[::1]:5000 http://[::1]:5000");
        assert_eq!(bases("reg.example:5000").await, "https://reg.example:5000 http://reg.example:5000");
        assert_eq!(bases("192.0.2.1:5000").await, "https://192.0.2.1:5000");
        assert_eq!(bases(DOCKER_HUB).await, "http://mirror.example https://registry-1.docker.io");
    }

    #[test]
    fn mirrors_and_networks_are_checked() {
        let with = |mirror: &str, insecure: &str| {
            let options = Options {
                mirrors: vec![mirror.into()],
                insecure: vec![insecure.into()],
                ..Options::default()
            };
            options.checked().is_ok()
        };
        assert!(with("https://a.example", "b.example:1") && with("http://a.example/", "::/0"));
        for (mirror, insecure) in [
            ("a.example", "b"),
            ("ftp://a.example", "b"),
            ("https://a.example/x", "b"),
            ("https://u:p@a.example", "b"),
            ("https://a.example", "10.0.0.0/33"),
            ("https://a.example", ""),
        ] {
            assert!(!with(mirror, insecure), "{mirror} {insecure}");
        }
    }
}
