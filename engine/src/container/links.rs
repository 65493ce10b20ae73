//! `--link` on the default network: other containers by an alias, in /etc/hosts and in the environment. As
//! Docker writes them; read at each start, and in /etc/hosts again when the other one starts, or leaves the default network and comes back. A link is also a further
//! name (`container/alias`) of what it leads to.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use super::files::Layout;
use super::slot::Slot;
use crate::config::{Container, ContainerState};
use crate::engine::Engine;
use crate::error::{Error, blocking};
use crate::metadata::{Change, Kind};
use crate::network::{Endpoint, Linked};

/// Name of the network that such links are in.
const DEFAULT_NETWORK: &str = "bridge";

/// What a container learns of the containers it is linked to.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// Lines of /etc/hosts.
    pub(super) hosts: Vec<String>,
    /// `NAME=value`.
    pub(super) env: Vec<String>,
}

impl Engine {
    /// The links of a container that starts; what it is linked to must run.
    pub(super) fn links(&self, c: &Container) -> Result<Links, Error> {
        let mut links = Links::default();
        for (target, alias) in &c.config.links {
            let gone = |name: &str| {
                Error::Conflict(format!(
                    "Cannot link to a non running container: /{name} AS /{}/{alias}",
                    c.name
                ))
            };
            let other = self.table().find(target).map_err(|_| gone(target))?.container();
            if other.state != ContainerState::Running {
                return Err(gone(&other.name));
            }
            let place = other.endpoints.iter().find(|e| e.network == DEFAULT_NETWORK).ok_or_else(|| {
                Error::Conflict(format!(
                    "Cannot link to /{}, as it does not belong to the default network",
                    other.name
                ))
            })?;
            links.hosts.extend(place.addresses().map(|addr| line(&other, addr, alias)));
            links.env.extend(environment(&other, place, &c.name, alias));
        }
        Ok(links)
    }
}

impl Engine {
    /// What a container's links lead to, with the ports that they open: those that are exposed or published.
    pub(super) fn linked(&self, c: &Container) -> Vec<Linked> {
        let of = |target: &String| {
            let other = self.table().find(target).ok()?.container();
            let exposed = other.config.exposed.iter().filter_map(|port| {
                let (port, protocol) = port.split_once('/')?;
                Some((protocol.to_owned(), port.parse().ok()?))
            });
            let published = other.config.ports.iter().map(|p| (p.protocol.clone(), p.container_port));
            let mut ports: Vec<_> = exposed.chain(published).collect();
            ports.sort();
            ports.dedup();
            Some(Linked { container_id: other.id.to_string(), ports })
        };
        c.config.links.iter().filter_map(|(target, _)| of(target)).collect()
    }

    /// The further names that links give to containers, by ID: `container/alias`.
    pub fn link_names(&self) -> BTreeMap<String, Vec<String>> {
        let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for slot in self.table().all() {
            let c = slot.container();
            for (target, alias) in &c.config.links {
                if let Ok(other) = self.table().find(target) {
                    names.entry(other.id.clone()).or_default().push(format!("{}/{alias}", c.name));
                }
            }
        }
        names
    }

    /// A container's links as `inspect` has them: `/other:/container/alias`.
    pub fn links_of(&self, c: &Container) -> Vec<String> {
        let name = |target: &String| {
            self.table().find(target).map_or_else(|_| target.clone(), |other| other.container().name.clone())
        };
        c.config.links.iter().map(|(to, alias)| format!("/{}:/{}/{alias}", name(to), c.name)).collect()
    }

    /// Removes a link, named `container/alias`, and nothing else. Its line in /etc/hosts goes too, and the way to the ports
    /// that it opened; variables stay until the next start.
    pub async fn remove_link(&self, name: &str) -> Result<(), Error> {
        let target = self.table().find(name)?;
        let Some((parent, alias)) = name.strip_prefix('/').unwrap_or(name).split_once('/') else {
            let why = "Conflict, cannot remove the default link name of the container";
            return Err(Error::Missing(why.into()));
        };
        let slot = self.table().find(parent)?;
        let _op = slot.op.lock().await;
        let before = slot.container().config.links.clone();
        let c = slot.update(|c| c.config.links.retain(|(_, a)| a != alias));
        let change = Change::put(Kind::Container, &slot.id, &slot.record())?;
        if let Err(e) = self.metadata().commit(vec![change]).await {
            slot.update(|c| c.config.links.clone_from(&before));
            // Something else of it may have been written down meanwhile, without that link.
            self.store_later(&slot);
            return Err(e);
        }
        if c.pid.is_some() {
            let names = names(&target.container(), alias);
            let layout = Layout { dir: self.root().container(&slot.id) };
            let renamed = blocking(move || layout.renew_name(&names, &[])).await;
            let relinked = self.networking().relink(&c.id, self.linked(&c)).await;
            relinked.map_err(|source| Error::Network { id: slot.id.clone(), source })?;
            renamed?;
        }
        Ok(())
    }

    /// Takes the operation locks of a container and of all that are linked to it by the name it has, so that nothing else
    /// is written down of them meanwhile. In one order, whoever takes several.
    pub(super) async fn lock_with_linked(&self, slot: &Arc<Slot>) -> (String, Vec<OwnedMutexGuard<()>>) {
        let linked = |name: &str| -> Vec<Arc<Slot>> {
            let to = |s: &Arc<Slot>| s.container().config.links.iter().any(|(to, _)| to == name);
            let mut all: Vec<_> =
                self.table().all().into_iter().filter(|s| s.id == slot.id || to(s)).collect();
            all.sort_by(|a, b| a.id.cmp(&b.id));
            all
        };
        let ids = |slots: &[Arc<Slot>]| slots.iter().map(|s| s.id.clone()).collect::<Vec<_>>();
        loop {
            let name = slot.container().name.clone();
            let wanted = linked(&name);
            let mut locks = Vec::with_capacity(wanted.len());
            for s in &wanted {
                locks.push(s.op.clone().lock_owned().await);
            }
            // Others may have come, or the name have changed, while it waited.
            if slot.container().name == name && ids(&linked(&name)) == ids(&wanted) {
                return (name, locks);
            }
        }
    }

    /// The changes to containers that are linked to one by a name it does not have any more. Their locks are held.
    pub(super) fn follow_name(&self, old: &str, new: &str) -> Result<Vec<Change>, Error> {
        let mut changes = Vec::new();
        for slot in self.table().all() {
            if slot.container().config.links.iter().any(|(to, _)| to == old) {
                slot.update(|c| {
                    c.config
                        .links
                        .iter_mut()
                        .filter(|(to, _)| to == old)
                        .for_each(|l| new.clone_into(&mut l.0));
                });
                changes.push(Change::put(Kind::Container, &slot.id, &slot.record())?);
            }
        }
        Ok(changes)
    }

    /// Has running containers that are linked to another know its addresses in the default network as they are now:
    /// their /etc/hosts. Their environment stays, as with Docker.
    pub(super) async fn tell_linked(&self, other: &Container) {
        let place = other.endpoints.iter().find(|e| e.network == DEFAULT_NETWORK);
        let addrs: Vec<IpAddr> = place.into_iter().flat_map(Endpoint::addresses).collect();
        for slot in self.table().all() {
            let c = slot.container();
            if c.config.links.is_empty() || c.pid.is_none() || c.id == other.id {
                continue;
            }
            let to = |target: &str| self.table().find(target).is_ok_and(|s| s.id == other.id.0);
            for (_, alias) in c.config.links.iter().filter(|(target, _)| to(target)) {
                let (names, addrs) = (names(other, alias), addrs.clone());
                let layout = Layout { dir: self.root().container(&slot.id) };
                if let Err(e) = blocking(move || layout.renew_name(&names, &addrs)).await {
                    tracing::warn!(container = slot.id, error = %e, "it does not learn where a linked container is now");
                }
            }
        }
    }
}

/// Whether a network is the one that such links are in.
pub(super) fn leads_through(network: &str) -> bool {
    network == DEFAULT_NETWORK
}

/// What another container is called by one that is linked to it.
fn names(other: &Container, alias: &str) -> String {
    let mut names = vec![alias.to_owned(), super::files::hostname(other), other.name.clone()];
    names.dedup();
    names.join(" ")
}

fn line(other: &Container, addr: IpAddr, alias: &str) -> String {
    format!("{addr}\t{}\n", names(other, alias))
}

fn environment(other: &Container, place: &Endpoint, own: &str, alias: &str) -> Vec<String> {
    let prefix = alias.to_uppercase().replace('-', "_");
    let mut ports: Vec<(u16, &str)> = other
        .config
        .exposed
        .iter()
        .filter_map(|p| p.split_once('/'))
        .filter_map(|(port, protocol)| Some((port.parse().ok()?, protocol)))
        .collect();
    ports.sort_by_key(|(port, protocol)| (*protocol != "tcp", *port));
    let addr = place.addresses().next().map(|addr| addr.to_string()).unwrap_or_default();
    let url = |(port, protocol): &(u16, &str)| format!("{protocol}://{addr}:{port}");
    let mut env = Vec::new();
    env.extend(ports.first().map(|first| format!("{prefix}_PORT={}", url(first))));
    for at in &ports {
        let (port, protocol) = at;
        let name = format!("{prefix}_PORT_{port}_{}", protocol.to_uppercase());
        env.push(format!("{name}={}", url(at)));
        env.push(format!("{name}_ADDR={addr}"));
        env.push(format!("{name}_PORT={port}"));
        env.push(format!("{name}_PROTO={protocol}"));
    }
    env.push(format!("{prefix}_NAME=/{own}/{alias}"));
    for variable in &other.env {
        if let Some((name, value)) = variable.split_once('=').filter(|(n, _)| !matches!(*n, "HOME" | "PATH"))
        {
            env.push(format!("{prefix}_ENV_{name}={value}"));
        }
    }
    env
}
