//! Host names as this host resolves them: /etc/hosts, then the name servers of /etc/resolv.conf. A static
//! glibc binary has no name service switch, so nothing else is asked.

use std::net::IpAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;

/// Somebody waits at a prompt: name servers that are away are told of in time.
const LIMIT: Duration = Duration::from_secs(10);

/// The addresses of a name, IPv4 first; the error says why there are none.
pub async fn resolve(name: &str) -> Result<Vec<IpAddr>, String> {
    // A host without /etc/resolv.conf still has its /etc/hosts.
    let mut builder = TokioResolver::builder_tokio().unwrap_or_else(|_| {
        let nobody = ResolverConfig::from_parts(None, Vec::new(), Vec::new());
        TokioResolver::builder_with_config(nobody, TokioRuntimeProvider::default())
    });
    builder.options_mut().use_hosts_file = ResolveHosts::Always;
    let resolver = builder.build().map_err(|e| e.to_string())?;
    let found = match tokio::time::timeout(LIMIT, resolver.lookup_ip(name)).await {
        Ok(found) => found.map_err(|e| e.to_string())?,
        Err(_) => return Err(format!("no name server of /etc/resolv.conf answered within {LIMIT:?}")),
    };
    let mut addrs: Vec<IpAddr> = found.iter().collect();
    addrs.sort_by_key(IpAddr::is_ipv6);
    if addrs.is_empty() { Err("it has no address".into()) } else { Ok(addrs) }
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn the_hosts_file_is_asked() {
        let addrs = super::resolve("localhost").await.expect("localhost is in every /etc/hosts");
        assert!(addrs.iter().all(std::net::IpAddr::is_loopback), "{addrs:?}");
    }
}
