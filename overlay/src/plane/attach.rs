//! Containers: connected and disconnected.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::doors::addresses;
use super::{DataPlane, Inner, blocking};
use crate::bridge::Wanted;
use crate::error::{Error, Result};
use crate::model::{AttachRequest, Attached, Publish};
use crate::reconcile::{self, Repair};
use crate::state::{DoorPort, Membership, Record};
use crate::{netns, routed};

impl DataPlane {
    /// Connects a container; once more for the same container, says how it is connected.
    pub async fn attach(&self, request: AttachRequest) -> Result<Attached> {
        let inner = self.inner.clone();
        let id = request.container_id.clone();
        if id.is_empty() || !id.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c)) {
            return Err(Error::Invalid {
                what: "container ID",
                value: id,
                reason: "only [a-zA-Z0-9_-] are allowed".into(),
            });
        }
        let _moving = self.inner.moving.read().await;
        let (record, generation) =
            blocking("connecting a container", move || inner.connect(&request)).await?;
        let ready = match generation {
            Some(generation) => self.inner.commit(generation).await,
            None => Ok(()),
        };
        let ready = match ready {
            Ok(()) => self.inner.serve_names(&record).await,
            failed => failed,
        };
        if let Err(error) = ready {
            let undone = self.detach_moving(&id).await.err();
            return Err(match undone {
                Some(more) => Error::Several(vec![error, more]),
                None => error,
            });
        }
        self.inner.refresh_zones(Some(&record));
        self.inner.attached(&record).await
    }

    /// How a container is connected; none = it is not.
    pub async fn attached(&self, container_id: &str) -> Option<Attached> {
        let record = self.inner.state().containers.get(container_id).cloned()?;
        self.inner.attached(&record).await.ok()
    }

    /// Disconnects a container. Goes on past errors and reports all; no error when it is not connected.
    pub async fn detach(&self, container_id: &str) -> Result<()> {
        let _moving = self.inner.moving.read().await;
        self.detach_moving(container_id).await
    }

    /// The caller holds `moving`.
    async fn detach_moving(&self, container_id: &str) -> Result<()> {
        let (record, generation) = self.inner.change(|state| {
            let record = state.containers.remove(container_id);
            if let Some(record) = &record {
                self.inner.reaper.expect(&hosts(record));
            }
            record
        });
        let Some(record) = record else { return Ok(()) };
        self.inner.end_names(container_id).await;
        self.inner.refresh_zones(Some(&record));
        let has_rules = self.inner.has_rules(&record);
        let inner = self.inner.clone();
        let unplugged = blocking("disconnecting a container", move || inner.disconnect(&record)).await;
        let rules = if has_rules { self.inner.commit(generation).await } else { Ok(()) };
        Error::gather([unplugged, rules].into_iter().filter_map(Result::err).collect())
    }

    /// Disconnects every container that is not among these.
    pub async fn retain(&self, ids: &[String]) -> Result<()> {
        let gone: Vec<String> = {
            let state = self.inner.state();
            state.containers.keys().filter(|id| !ids.contains(id)).cloned().collect()
        };
        let mut errors = Vec::new();
        for id in gone {
            errors.extend(self.detach(&id).await.err());
        }
        Error::gather(errors)
    }
}

/// What kept a container's ports from being published.
pub(super) fn unprogrammed(record: &Record, source: Error) -> Error {
    let place = record.way().or(record.way6());
    Error::Unprogrammed {
        container: record.name.clone(),
        endpoint_id: place.map(|m| m.endpoint.endpoint_id.clone()).unwrap_or_default(),
        source: source.into(),
    }
}

fn hosts(record: &Record) -> Vec<String> {
    record.interfaces.iter().map(|i| i.host.clone()).collect()
}

impl Inner {
    /// State, ports, kernel, disk, in this order; undone when one fails. Returns the change to wait for.
    fn connect(self: &Arc<Self>, request: &AttachRequest) -> Result<(Record, Option<u64>)> {
        let id = &request.container_id;
        let _alone = self.busy.hold(id);
        let (planned, _) = self.change(|state| {
            if let Some(known) = state.containers.get(id) {
                return Ok((known.clone(), true));
            }
            let record = routed::plan(state, request, &self.names)?;
            // One that was disconnected from all its networks publishes nothing until it is connected again.
            // Directly on an interface of the host, a container is reached without.
            let target = record.target().is_some() || record.target6().is_some();
            let unreachable = !target && !record.order.is_empty() && !record.is_direct();
            if !request.ports.is_empty() && unreachable {
                let port = &request.ports[0];
                return Err(Error::Unpublishable {
                    port: port.container_port,
                    protocol: port.protocol.clone(),
                    reason: "the container is in no network with a way out".into(),
                });
            }
            state.containers.insert(id.clone(), record.clone());
            Ok((record, false))
        });
        let (mut record, known) = planned?;
        if known && netns::is_pinned(&self.pins.join(id)) {
            return Ok((record, None));
        }
        let outcome = self.connect_planned(&mut record);
        if outcome.is_err() {
            self.reaper.expect(&hosts(&record));
            self.change(|state| state.containers.remove(id));
            if let Err(error) = self.clear(&record) {
                tracing::warn!(container = id, %error, "undoing a failed connection");
            }
        }
        let generation = outcome?;
        Ok((record, generation))
    }

    fn connect_planned(&self, record: &mut Record) -> Result<Option<u64>> {
        let id = &record.container_id;
        self.ports().release(id);
        let wanted = self.published(record)?;
        record.ports = self.ports().take(id, &wanted).map_err(|e| unprogrammed(record, e))?;
        record.doors = record.asked.iter().filter_map(DoorPort::of).collect();
        if !record.doors.is_empty() {
            let names = record.doors.iter().map(|d| d.interface.clone()).collect();
            let (held, failed) = self.hold_doors(record, &addresses(&names)?);
            if let Some(error) = failed.into_iter().next() {
                return Err(unprogrammed(record, error));
            }
            record.ports.extend(held);
        }
        record.relayed = !self.options.without_relays && record.is_to_be_relayed();
        if record.relayed {
            self.ports().hand_over(id);
        }
        reconcile::wire(record, &self.pins.join(id))?;
        self.store.save_container(record)?;
        // The endpoints' rules come with the veth there: no address opens before it has its owner.
        let (_, generation) = self.change(|state| state.containers.insert(id.clone(), record.clone()));
        Ok(self.has_rules(record).then_some(generation))
    }

    /// Whether there are rules of a container's own: see [`Record::has_rules`], those of links that lead to it, and those
    /// that tell it from others on a bridge of the user's.
    pub(super) fn has_rules(&self, record: &Record) -> bool {
        let leads_here = |r: &Record| r.linked.iter().any(|l| l.container_id == record.container_id);
        let state = self.state();
        let is_among_others = record.bridged().any(|m| {
            let of = state.bridges.values().find(|b| b.id == m.endpoint.network_id);
            of.is_some_and(|b| b.foreign)
        });
        record.has_rules() || is_among_others || state.containers.values().any(leads_here)
    }

    fn disconnect(self: &Arc<Self>, record: &Record) -> Result<()> {
        let _alone = self.busy.hold(&record.container_id);
        self.clear(record)
    }

    /// Frees all a container had; its veths go in the background.
    fn clear(self: &Arc<Self>, record: &Record) -> Result<()> {
        let id = &record.container_id;
        let mut errors = Vec::new();
        errors.extend(reconcile::unplace(record, &self.pins.join(id)).err());
        errors.extend(netns::unpin(&self.pins.join(id)).err());
        self.ports().release(id);
        errors.extend(self.store.forget_container(id).err());
        let (inner, links) = (self.clone(), hosts(record));
        tokio::task::spawn_blocking(move || inner.reaper.remove(&links));
        Error::gather(errors)
    }

    pub(super) async fn attached(self: &Arc<Self>, record: &Record) -> Result<Attached> {
        let host = tokio::fs::read_to_string("/etc/resolv.conf").await.unwrap_or_default();
        Ok(Attached {
            netns: self.pins.join(&record.container_id),
            resolv_conf: reconcile::resolv_conf(record, &host),
            endpoints: record.endpoints(),
            ports: record.ports.clone(),
            relays: record.relays(),
        })
    }

    /// The ports asked for, with the addresses of the host: where none is given, those that the container's network
    /// publishes on, and those of all families that the host has. Where a network translates nothing, an address of the
    /// host says no more than the family, as with Docker.
    pub(super) fn published(&self, record: &Record) -> Result<Vec<Wanted>> {
        let state = self.state();
        let bridge = |place: Option<&Membership>| {
            place.and_then(|m| state.bridges.values().find(|b| b.id == m.endpoint.network_id))
        };
        let (bridge4, bridge6) = (bridge(record.way()), bridge(record.way6()));
        let default = bridge4.or(bridge6).and_then(|b| b.host_binding);
        let (four, six) = (record.target().is_some(), record.target6().is_some());
        let (untranslated4, untranslated6) = state.untranslated(record);
        let untranslated = |host: &IpAddr| if host.is_ipv4() { untranslated4 } else { untranslated6 };
        let own = [record.target().map(IpAddr::V4), record.target6().map(IpAddr::V6)];
        let targets: Vec<_> = own.into_iter().flatten().collect();
        let any = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let place = |publish: &Publish| {
            // By the kernel, or by the shim.
            let six = six || (four && self.relays(&publish.protocol));
            let refuse = |reason: String| {
                let (port, protocol) = (publish.container_port, publish.protocol.clone());
                Err(Error::Unpublishable { port, protocol, reason })
            };
            let hosts = match publish.host_ip.or(default) {
                // Followed apart, but for the families that are open at the container's own address.
                _ if publish.interface.is_some() => {
                    let families = any.into_iter().filter(|host| if host.is_ipv4() { four } else { six });
                    families.filter(&untranslated).collect()
                }
                Some(IpAddr::V6(addr)) if !six => {
                    return refuse(format!(
                        "host address {addr} is IPv6, which this host or the protocol has only where the container has it too: give an IPv4 host address, or join a network made with --ipv6"
                    ));
                }
                Some(IpAddr::V4(addr)) if !four => {
                    return refuse(format!(
                        "host address {addr} is IPv4, which the container has not: give an IPv6 host address, or join a network that has IPv4"
                    ));
                }
                Some(one) => vec![one],
                None => any.into_iter().filter(|host| if host.is_ipv4() { four } else { six }).collect(),
            };
            let (opened, hosts): (Vec<_>, Vec<_>) = hosts.into_iter().partition(&untranslated);
            let opened = opened.iter().map(|host| any[usize::from(host.is_ipv6())]).collect();
            Ok(Wanted { publish: publish.clone(), hosts, opened, targets: targets.clone() })
        };
        if !four && !six && record.is_direct() {
            return Ok(Vec::new());
        }
        record.asked.iter().map(place).collect()
    }

    /// Whether the state has moved on since this repair was planned.
    pub(super) fn is_stale(&self, repair: &Repair) -> bool {
        let state = self.state();
        match repair {
            Repair::Wire(record) => state.containers.get(&record.container_id) != Some(record),
            Repair::Unpin(path) => {
                path.file_name().and_then(|n| n.to_str()).is_some_and(|id| state.containers.contains_key(id))
            }
            Repair::DropLink(link) => {
                let mut all = state.containers.values().flat_map(|r| &r.interfaces);
                all.any(|i| i.host == *link) || state.bridges.values().any(|b| b.interface == *link)
            }
            _ => false,
        }
    }
}
