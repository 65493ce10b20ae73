//! Ports of containers that are open on an interface of the host, as its addresses come and go: held there, told to whoever
//! runs the container, and kept.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use tokio::sync::mpsc;

use super::{DataPlane, Inner};
use crate::error::{Error, Result};
use crate::model::{Bound, Publish};
use crate::state::{DoorPort, Record, State};
use crate::sysctl;

/// Who hears of containers whose ports have changed.
pub struct Heard {
    /// Those whose change is written down, and not in the kernel yet.
    noted: Mutex<BTreeSet<String>>,
    tell: mpsc::UnboundedSender<String>,
    hear: tokio::sync::Mutex<mpsc::UnboundedReceiver<String>>,
}

impl Default for Heard {
    fn default() -> Self {
        let (tell, hear) = mpsc::unbounded_channel();
        Self { noted: Mutex::default(), tell, hear: tokio::sync::Mutex::new(hear) }
    }
}

impl Heard {
    fn note(&self, id: String) {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
    }

    /// Tells of all that were noted, once the kernel has their rules.
    pub(super) fn tell(&self) {
        for id in std::mem::take(&mut *self.noted.lock().unwrap_or_else(PoisonError::into_inner)) {
            let _ = self.tell.send(id);
        }
    }
}

impl DataPlane {
    /// Waits until a container's ports are open on other addresses than they were; whose.
    pub async fn ports_changed(&self) -> String {
        let heard = self.inner.heard.hear.lock().await.recv().await;
        match heard {
            Some(id) => id,
            // The sender is beside it.
            None => std::future::pending().await,
        }
    }
}

impl DoorPort {
    /// What is asked for, where that is an interface.
    pub fn of(publish: &Publish) -> Option<Self> {
        Some(Self {
            protocol: publish.protocol.clone(),
            container_port: publish.container_port,
            host_port: publish.host_port,
            interface: publish.interface.clone()?,
        })
    }
}

impl Inner {
    /// Whether the shim serves ports of IPv6 for a container that has IPv4 only.
    pub(super) fn relays(&self, protocol: &str) -> bool {
        !self.options.without_relays && protocol != "sctp" && sysctl::has_ipv6()
    }

    /// Holds a container's ports on interfaces where those have addresses now; all that are held, and what went wrong.
    pub(super) fn hold_doors(
        &self,
        record: &Record,
        interfaces: &BTreeMap<String, BTreeSet<IpAddr>>,
    ) -> (Vec<Bound>, Vec<Error>) {
        let wanted = wanted(&self.state(), record, interfaces, |protocol| self.relays(protocol));
        let relayed =
            record.relayed || (!self.options.without_relays && wanted.iter().any(Bound::is_relayed));
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        ports.follow(&record.container_id, &wanted, relayed)
    }

    /// The same for all containers, after those addresses have changed.
    pub(super) fn follow_containers(&self, interfaces: &BTreeMap<String, BTreeSet<IpAddr>>) -> Result<()> {
        let mut errors = Vec::new();
        let with_doors = |state: &State| {
            let all = state.containers.values().filter(|r| !r.doors.is_empty());
            all.map(|r| r.container_id.clone()).collect::<Vec<_>>()
        };
        let ids = with_doors(&self.state());
        for id in ids {
            let _alone = self.busy.hold(&id);
            let Some(mut record) = self.state().containers.get(&id).cloned() else { continue };
            let (held, failed) = self.hold_doors(&record, interfaces);
            for error in failed {
                tracing::warn!(container = record.name, %error, "a port is not open on an address of its interface");
            }
            let before = record.ports.clone();
            record.ports.retain(|p| p.interface.is_none());
            record.ports.extend(held);
            record.relayed |= !self.options.without_relays && record.is_to_be_relayed();
            if record.ports == before {
                continue;
            }
            let (there, _) = self.change(|state| match state.containers.get_mut(&id) {
                Some(known) => {
                    known.ports.clone_from(&record.ports);
                    known.relayed = record.relayed;
                    true
                }
                // It is about to be disconnected.
                None => false,
            });
            if there {
                errors.extend(self.store.save_container(&record).err());
                self.heard.note(id);
            }
        }
        Error::gather(errors)
    }
}

/// The ports of a container on the addresses that its interfaces have, by whichever family it is reached: by the kernel, or
/// of IPv6 by its shim. Where its network translates nothing they are open at its own address instead.
fn wanted(
    state: &State,
    record: &Record,
    interfaces: &BTreeMap<String, BTreeSet<IpAddr>>,
    relays: impl Fn(&str) -> bool,
) -> Vec<Bound> {
    let (untranslated4, untranslated6) = state.untranslated(record);
    let four = record.target().is_some();
    let six = |port: &DoorPort| record.target6().is_some() || (four && relays(&port.protocol));
    let reached = |port: &DoorPort, addr: &IpAddr| match addr {
        IpAddr::V4(_) => four && !untranslated4,
        IpAddr::V6(_) => six(port) && !untranslated6,
    };
    let of = |port: &DoorPort| {
        let addresses = interfaces.get(&port.interface).into_iter().flatten().copied();
        let open = addresses.filter(|addr| reached(port, addr));
        let bound = |host_ip| Bound {
            protocol: port.protocol.clone(),
            container_port: port.container_port,
            host_ip,
            host_port: port.host_port,
            interface: Some(port.interface.clone()),
        };
        open.map(bound).collect::<Vec<_>>()
    };
    record.doors.iter().flat_map(of).collect()
}
