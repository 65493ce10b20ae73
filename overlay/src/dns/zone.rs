//! The names one container can resolve without asking anybody.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

/// How long an answer that names tasks or containers may be kept: they come and go.
pub(super) const TTL: u32 = 5;
/// A VIP stays with its service; this is Docker's value.
pub(super) const VIP_TTL: u32 = 600;

/// The addresses behind a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    pub addrs: Vec<IpAddr>,
    pub ttl: u32,
}

/// Names and addresses of the networks a container is in. Published whole, through an `ArcSwap`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    names: HashMap<String, Entry>,
    pointers: HashMap<IpAddr, String>,
    search: Vec<String>,
    upstreams: Vec<SocketAddr>,
    forward: bool,
}

impl Default for Zone {
    fn default() -> Self {
        Self {
            names: HashMap::new(),
            pointers: HashMap::new(),
            search: Vec::new(),
            upstreams: Vec::new(),
            forward: true,
        }
    }
}

/// Names are compared without case and without the final dot.
pub(super) fn canonical(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

impl Zone {
    /// An empty zone: everything is passed on.
    pub fn new() -> Self {
        Self::default()
    }

    /// A name that stands for one address that stays: a service's VIP.
    pub fn add_vip(&mut self, name: &str, vip: impl Into<IpAddr>) {
        self.add(name, [vip], VIP_TTL);
    }

    /// A name that stands for addresses that come and go: a task, a container, an alias, `tasks.NAME`.
    /// Answers give them in random order. A name without addresses exists, and has none.
    pub fn add_addresses(&mut self, name: &str, addrs: impl IntoIterator<Item = impl Into<IpAddr>>) {
        self.add(name, addrs, TTL);
    }

    /// The same name from several networks stands for all their addresses.
    fn add(&mut self, name: &str, addrs: impl IntoIterator<Item = impl Into<IpAddr>>, ttl: u32) {
        let entry = self.names.entry(canonical(name)).or_insert(Entry { addrs: Vec::new(), ttl });
        entry.ttl = entry.ttl.min(ttl);
        for addr in addrs.into_iter().map(Into::into) {
            if !entry.addrs.contains(&addr) {
                entry.addrs.push(addr);
            }
        }
    }

    /// The name of an address, for reverse lookups; the first one given stays.
    pub fn add_pointer(&mut self, addr: impl Into<IpAddr>, name: &str) {
        self.pointers.entry(addr.into()).or_insert_with(|| canonical(name));
    }

    /// Domains that may follow a name of the zone: with `example.com`, `web.example.com` is `web`.
    pub fn set_search(&mut self, domains: impl IntoIterator<Item = String>) {
        self.search = domains.into_iter().map(|d| canonical(&d)).filter(|d| !d.is_empty()).collect();
    }

    /// Servers to ask instead of the host's, for this container.
    pub fn set_upstreams(&mut self, upstreams: Vec<SocketAddr>) {
        self.upstreams = upstreams;
    }

    /// Whether unknown names are passed on at all; not for a container that has no way out.
    pub fn set_forward(&mut self, forward: bool) {
        self.forward = forward;
    }

    pub(super) fn upstreams(&self) -> &[SocketAddr] {
        &self.upstreams
    }

    pub(super) fn forwards(&self) -> bool {
        self.forward
    }

    /// Looks a canonical name up, as it is and then without a search domain.
    pub(super) fn find(&self, name: &str) -> Option<&Entry> {
        if let Some(entry) = self.names.get(name) {
            return Some(entry);
        }
        self.search.iter().find_map(|domain| {
            let short = name.strip_suffix(domain.as_str())?.strip_suffix('.')?;
            self.names.get(short)
        })
    }

    pub(super) fn pointer(&self, addr: IpAddr) -> Option<&str> {
        self.pointers.get(&addr).map(String::as_str)
    }
}
