//! What the engine asks of the network data plane: a namespace to run a container in.

use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::{ContainerConfig, ContainerId, NetworkJoin};
use crate::shim::Relay;
use crate::userns::IdMaps;

/// A boxed error from the embedding daemon, shown to the user as it is.
pub type NetworkError = Box<dyn std::error::Error + Send + Sync>;

/// The user namespace that a container's network namespace is to belong to, which the container shares.
#[derive(Clone, Debug)]
pub struct Userns {
    /// Its IDs.
    pub ids: IdMaps,
    /// That of another container, with which namespaces are shared; none = a new one.
    pub shared: Option<PathBuf>,
}

/// A container that another one is linked to, and its ports: what a link opens where containers are kept from each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linked {
    /// Its ID.
    pub container_id: String,
    /// Protocol and port of each that it exposes.
    pub ports: Vec<(String, u16)>,
}

/// Prepares and removes the network of containers whose mode is [`crate::NetworkMode::Networks`].
#[async_trait::async_trait]
pub trait Networking: Send + Sync + 'static {
    /// Makes (or finds, when called again for the same container) the namespace and its interfaces. With `userns`
    /// the namespace belongs to that user namespace. `linked` are those it is linked to in the default network.
    async fn attach(
        &self,
        id: &ContainerId,
        name: &str,
        config: &ContainerConfig,
        userns: Option<&Userns>,
        linked: Vec<Linked>,
    ) -> Result<Attachment, NetworkError>;
    /// How a container is connected now; none = it is not.
    async fn attached(&self, id: &ContainerId) -> Option<Attachment>;
    /// Joins a running container to one more network; tells how it is connected now.
    async fn connect(
        &self,
        id: &ContainerId,
        name: &str,
        config: &ContainerConfig,
        join: &NetworkJoin,
    ) -> Result<Attachment, NetworkError>;
    /// Takes a running container out of a network, named by its ID; tells how it is connected now.
    async fn disconnect(&self, id: &ContainerId, network_id: &str) -> Result<Attachment, NetworkError>;
    /// Waits until the ports of a running container are open on other addresses of the host than they were; whose.
    async fn ports_changed(&self) -> ContainerId;
    /// The host's addresses as containers reach it (`host-gateway`); none = there is no default bridge network.
    fn host_gateway(&self) -> Vec<IpAddr>;
    /// Tells what a running container is linked to from now on.
    async fn relink(&self, id: &ContainerId, linked: Vec<Linked>) -> Result<(), NetworkError>;
    /// Tells a running container's new name.
    async fn rename(&self, id: &ContainerId, name: &str) -> Result<(), NetworkError>;
    /// Removes all that `attach` made. Idempotent; goes on past errors and reports all of them.
    async fn detach(&self, id: &ContainerId) -> Result<(), NetworkError>;
    /// Removes what `attach` made for containers other than these: what is left of those that ended while nobody saw it.
    async fn retain(&self, running: &[ContainerId]) -> Result<(), NetworkError>;
}

/// The networking of an engine that has none: only containers without a network of their own run.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNetworks;

#[async_trait::async_trait]
impl Networking for NoNetworks {
    async fn attach(
        &self,
        _: &ContainerId,
        _: &str,
        _: &ContainerConfig,
        _: Option<&Userns>,
        _: Vec<Linked>,
    ) -> Result<Attachment, NetworkError> {
        Err("this engine has no networks: use --network none or host".into())
    }

    async fn attached(&self, _: &ContainerId) -> Option<Attachment> {
        None
    }

    async fn connect(
        &self,
        _: &ContainerId,
        _: &str,
        _: &ContainerConfig,
        _: &NetworkJoin,
    ) -> Result<Attachment, NetworkError> {
        Err("this engine has no networks to connect to".into())
    }

    async fn disconnect(&self, _: &ContainerId, _: &str) -> Result<Attachment, NetworkError> {
        Err("this engine has no networks to disconnect from".into())
    }

    async fn ports_changed(&self) -> ContainerId {
        std::future::pending().await
    }

    fn host_gateway(&self) -> Vec<IpAddr> {
        Vec::new()
    }

    async fn relink(&self, _: &ContainerId, _: Vec<Linked>) -> Result<(), NetworkError> {
        Ok(())
    }

    async fn rename(&self, _: &ContainerId, _: &str) -> Result<(), NetworkError> {
        Ok(())
    }

    async fn detach(&self, _: &ContainerId) -> Result<(), NetworkError> {
        Ok(())
    }

    async fn retain(&self, _: &[ContainerId]) -> Result<(), NetworkError> {
        Ok(())
    }
}

/// A prepared network namespace.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Attachment {
    /// Path of the pinned namespace, to be entered by setns(2).
    pub netns: PathBuf,
    /// Whole content of the container's /etc/resolv.conf.
    pub resolv_conf: String,
    /// One per network, for `inspect` and for /etc/hosts.
    pub endpoints: Vec<Endpoint>,
    /// Published ports as bound.
    pub ports: Vec<BoundPort>,
    /// Those of them that the container's shim is to serve.
    #[serde(default)]
    pub relays: Vec<Relay>,
}

/// A container's place in one network.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Endpoint {
    /// Network name as the user knows it.
    pub network: String,
    /// Network ID.
    pub network_id: String,
    /// Endpoint ID (64 hex characters).
    pub endpoint_id: String,
    /// Address in the network; none = it has no IPv4.
    pub addr: Option<IpAddr>,
    /// Prefix length of the network; 0 = it has no IPv4.
    pub prefix_len: u8,
    /// Gateway the container routes through, where there is one.
    pub gateway: Option<IpAddr>,
    /// Its place by IPv6, where the network has that.
    #[serde(default)]
    pub v6: Option<Endpoint6>,
    /// MAC address, `aa:bb:cc:dd:ee:ff`.
    pub mac: String,
    /// Further names it answers to in this network.
    pub aliases: Vec<String>,
}

impl Endpoint {
    /// Its addresses, of both families.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addr.into_iter().chain(self.v6.iter().map(|v6| IpAddr::V6(v6.addr)))
    }
}

/// A container's place in one network, by IPv6.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint6 {
    /// Address in the network.
    pub addr: Ipv6Addr,
    /// Prefix length of the network.
    pub prefix_len: u8,
    /// Gateway the container routes through, where there is one.
    pub gateway: Option<Ipv6Addr>,
}

/// A published port as bound on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundPort {
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Port inside the container.
    pub container_port: u16,
    /// Address on the host; unspecified = all.
    pub host_ip: IpAddr,
    /// Port on the host.
    pub host_port: u16,
}
