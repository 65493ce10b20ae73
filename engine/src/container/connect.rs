//! Networks of a container that change after its creation: of one that runs at once, of one that does not at
//! its next start.

use std::sync::Arc;

use super::files::Layout;
use super::links;
use super::slot::Slot;
use crate::config::{Container, ContainerId, ContainerState, NetworkJoin, NetworkMode};
use crate::engine::Engine;
use crate::error::{Error, blocking};
use crate::network::{Attachment, NetworkError};

/// A network, as its user and its keeper know it.
#[derive(Clone, Debug)]
pub struct NetworkRef {
    /// ID.
    pub id: String,
    /// Name.
    pub name: String,
}

impl NetworkRef {
    /// Whether a container was asked to join it.
    fn is(&self, asked: &str) -> bool {
        asked == self.name || asked == self.id || (asked.len() >= 12 && self.id.starts_with(asked))
    }
}

impl Engine {
    /// Connects a container to one more network; `join.network` is its name.
    pub async fn connect(&self, id: &str, network: &NetworkRef, join: NetworkJoin) -> Result<(), Error> {
        let slot = self.table().find(id)?;
        let _op = slot.op.lock().await;
        let c = slot.container();
        let joins = joins(&c)?;
        if joins.iter().any(|j| network.is(&j.network)) {
            return Err(Error::Forbidden(format!(
                "endpoint with name {} already exists in network {}",
                c.name, network.name
            )));
        }
        if wired(&slot, &c) {
            let timer = self.metrics().network.connect.start_timer();
            let connected = self.networking().connect(&c.id, &c.name, &c.config, &join).await;
            timer.observe_duration();
            self.take_up_attachment(&slot, connected, Vec::new()).await?;
            let now = slot.container();
            let joined =
                now.endpoints.iter().filter(|e| c.endpoints.iter().all(|o| o.network_id != e.network_id));
            self.emit_networks(&slot, "connect", joined);
            if links::leads_through(&network.name) {
                self.tell_linked(&now).await;
            }
        }
        let mut joins = joins.to_vec();
        joins.push(join.clone());
        self.set_networks(&slot, joins).await
    }

    /// Disconnects a container from a network.
    pub async fn disconnect(&self, id: &str, network: &NetworkRef) -> Result<(), Error> {
        let slot = self.table().find(id)?;
        let _op = slot.op.lock().await;
        let c = slot.container();
        let mut joins = joins(&c)?.to_vec();
        let Some(at) = joins.iter().position(|j| network.is(&j.network)) else {
            return Err(Error::Forbidden(format!(
                "container {} is not connected to network {}",
                c.id, network.name
            )));
        };
        joins.remove(at);
        let left = c.endpoints.iter().find(|e| e.network_id == network.id);
        let left: Vec<String> = left.iter().flat_map(|e| e.addresses()).map(|a| a.to_string()).collect();
        if wired(&slot, &c) && !left.is_empty() {
            let disconnected = self.networking().disconnect(&c.id, &network.id).await;
            self.take_up_attachment(&slot, disconnected, left).await?;
            if links::leads_through(&network.name) {
                self.tell_linked(&slot.container()).await;
            }
        }
        self.set_networks(&slot, joins).await?;
        self.emit_network(&slot, "disconnect", &network.id, &network.name);
        Ok(())
    }

    /// Shows a container's ports where they are open now, and has its shim serve those that it serves.
    pub(crate) async fn take_up_ports(&self, id: &ContainerId) {
        // One that has ended meanwhile has none.
        let Ok(slot) = self.table().find(id.as_str()) else { return };
        let _op = slot.op.lock().await;
        if !wired(&slot, &slot.container()) {
            return;
        }
        let Some(attached) = self.networking().attached(id).await else { return };
        if let Err(error) = self.take_up_attachment(&slot, Ok(attached), Vec::new()).await {
            tracing::warn!(container = slot.id, %error, "ports are not shown, or not served, as they are now");
        }
        self.store_later(&slot);
    }

    /// Shows how a running container is connected now, also to the container itself.
    async fn take_up_attachment(
        &self,
        slot: &Arc<Slot>,
        outcome: Result<Attachment, NetworkError>,
        left: Vec<String>,
    ) -> Result<(), Error> {
        let a = outcome.map_err(|source| Error::Network { id: slot.id.clone(), source })?;
        // A shim of an older version knows nothing of this, and has no such ports.
        let relayed = !a.relays.is_empty() || slot.container().ports.iter().any(|p| p.host_ip.is_ipv6());
        let c = slot.update(|c| {
            c.endpoints.clone_from(&a.endpoints);
            c.ports.clone_from(&a.ports);
        });
        let shim = slot.volatile().shim.clone();
        if let Some(shim) = shim.filter(|_| relayed)
            && let Err(error) = shim.relay(&a.relays).await
        {
            tracing::warn!(container = slot.id, %error, "ports are not served by IPv6 as they should be now");
        }
        let layout = Layout { dir: self.root().container(&slot.id) };
        blocking(move || layout.renew_host_files(&c, &a, &left)).await
    }

    async fn set_networks(&self, slot: &Slot, joins: Vec<NetworkJoin>) -> Result<(), Error> {
        slot.update(|c| c.config.network = NetworkMode::Networks(joins.clone()));
        self.store(slot).await
    }
}

/// Whether its network is in place.
fn wired(slot: &Slot, c: &Container) -> bool {
    matches!(c.state, ContainerState::Running | ContainerState::Paused) && slot.volatile().detach_network
}

/// The networks it joins; the refusals are Docker's.
fn joins(c: &Container) -> Result<&[NetworkJoin], Error> {
    match &c.config.network {
        _ if matches!(c.state, ContainerState::Removing | ContainerState::Dead) => Err(Error::Conflict(format!(
            "container {} is marked for removal and cannot be connected or disconnected to the network",
            c.id
        ))),
        NetworkMode::Networks(joins) => Ok(joins.as_slice()),
        NetworkMode::None => Err(Error::Invalid(
            "container cannot be connected to multiple networks with one of the networks in private (none) mode"
                .into(),
        )),
        NetworkMode::Host => Err(Error::Invalid(
            "container cannot be disconnected from host network or connected to host network".into(),
        )),
        NetworkMode::Container(_) => Err(Error::Invalid(
            "container sharing network namespace with another container or host cannot be connected to any other network"
                .into(),
        )),
    }
}
