//! The name servers inside containers: started, told what has changed, ended.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use super::Inner;
use crate::dns::{Resolver, Zone, nameservers};
use crate::error::{Error, Result};
use crate::reconcile;
use crate::state::{DEFAULT_BRIDGE, Record};

/// The resolver and the zone each container sees.
pub struct NameServers {
    resolver: Resolver,
    zones: Mutex<BTreeMap<String, Arc<ArcSwap<Zone>>>>,
}

impl NameServers {
    /// None served yet.
    pub fn new() -> Self {
        Self { resolver: Resolver::new(Vec::new()), zones: Mutex::default() }
    }

    fn zones(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<ArcSwap<Zone>>>> {
        self.zones.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Reads the host's resolvers anew.
    pub(super) async fn refresh_upstreams(&self) {
        let text = tokio::fs::read_to_string("/etc/resolv.conf").await.unwrap_or_default();
        self.dns.resolver.set_upstreams(nameservers(&text));
    }

    /// Starts a container's name server, where it has one.
    pub(super) async fn serve_names(&self, record: &Record) -> Result<()> {
        if !record.has_dns() {
            return Ok(());
        }
        let id = &record.container_id;
        let zone = Arc::new(ArcSwap::from_pointee(reconcile::zone(&self.state(), record)));
        match self.dns.zones().entry(id.clone()) {
            Entry::Occupied(_) => return Ok(()),
            Entry::Vacant(place) => drop(place.insert(zone.clone())),
        }
        let served = self.dns.resolver.serve(&self.pins.join(id), id, zone).await;
        if let Err(e) = served {
            self.dns.zones().remove(id);
            return Err(Error::Dns { container: id.clone(), reason: e.to_string() });
        }
        Ok(())
    }

    /// Ends a container's name server.
    pub(super) async fn end_names(&self, container_id: &str) {
        self.dns.zones().remove(container_id);
        self.dns.resolver.stop(container_id).await;
    }

    /// Ends all name servers.
    pub(super) async fn end_all_names(&self) {
        let all = std::mem::take(&mut *self.dns.zones());
        for id in all.into_keys() {
            self.dns.resolver.stop(&id).await;
        }
    }

    /// Renews the zones of all containers, or of those that share a named network with `changed`.
    pub(super) fn refresh_zones(&self, changed: Option<&Record>) {
        let shared: Option<BTreeSet<&str>> = changed.map(|record| {
            let named = record.members().filter(|m| m.endpoint.network != DEFAULT_BRIDGE);
            named.map(|m| m.endpoint.network_id.as_str()).collect()
        });
        let zones = self.dns.zones().clone();
        let state = self.state();
        for (id, zone) in zones {
            let Some(record) = state.containers.get(&id) else { continue };
            let concerned = shared.as_ref().is_none_or(|shared| {
                record.members().any(|m| shared.contains(m.endpoint.network_id.as_str()))
            });
            if concerned {
                zone.store(Arc::new(reconcile::zone(&state, record)));
            }
        }
    }
}
