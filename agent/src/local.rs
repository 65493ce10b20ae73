//! Gives the engine's containers their network by way of the data plane, and those outside services their
//! places in the swarm's networks.

use std::net::IpAddr;

use skep_engine::shim::Relay;
use skep_engine::{
    Attachment, BoundPort, ContainerConfig, ContainerId, Endpoint, Endpoint6, Linked, NetworkError,
    NetworkJoin, NetworkMode, Networking, Userns,
};
use skep_overlay::{AttachRequest, Attached, DEFAULT_BRIDGE, DataPlane, Join, Publish, UserNamespace};

use crate::attachments::{Asked, AttachError, Attachments};
use crate::runtime::TASK_LABEL;

/// [`Networking`] over a [`DataPlane`].
pub struct LocalNetworking {
    plane: DataPlane,
    attachments: Attachments,
    host_gateway: Vec<IpAddr>,
}

impl LocalNetworking {
    /// Prepares namespaces with `plane`, and asks for places with `attachments`. `host_gateway` are the host's
    /// addresses as containers are told of them; none = the default bridge network's.
    pub fn new(plane: DataPlane, attachments: Attachments, host_gateway: Vec<IpAddr>) -> Self {
        Self { plane, attachments, host_gateway }
    }

    /// Whether it is the default bridge network, of which the daemon was told that there is none: as with Docker, containers
    /// have a loopback interface then, and no more.
    fn is_left_out(&self, asked: &NetworkJoin) -> bool {
        asked.network == DEFAULT_BRIDGE && self.plane.inspect_bridge(DEFAULT_BRIDGE).is_err()
    }

    /// The network as the data plane knows it, with the address that a manager has given where it is the swarm's.
    async fn join(
        &self,
        id: &ContainerId,
        name: &str,
        config: &ContainerConfig,
        asked: &NetworkJoin,
    ) -> Result<Join, NetworkError> {
        let addr = match asked.addr {
            None => None,
            Some(IpAddr::V4(v4)) => Some(v4),
            Some(IpAddr::V6(v6)) => {
                return Err(format!("address {v6} is IPv6, where an IPv4 address belongs").into());
            }
        };
        let mut join = Join {
            network: asked.network.clone(),
            addr,
            addr6: asked.addr6,
            link_local: asked.link_local.clone(),
            aliases: names(config, &asked.aliases),
            mac: asked.mac,
            links: asked.links.clone(),
            priority: asked.gw_priority,
            options: asked.driver_opts.clone(),
        };
        let local = self.plane.inspect_bridge(&asked.network).ok();
        let exact = local.as_ref().is_some_and(|b| b.name == asked.network || b.id == asked.network);
        if exact || config.labels.contains_key(TASK_LABEL) {
            return Ok(join);
        }
        let attached = self
            .attachments
            .attach(Asked {
                network: asked.network.clone(),
                container_id: id.to_string(),
                name: name.to_owned(),
                aliases: join.aliases.clone(),
                addr: addr.map(|a| a.to_string()).unwrap_or_default(),
                addr6: asked.addr6.map(|a| a.to_string()).unwrap_or_default(),
            })
            .await;
        let place = match (attached, local) {
            // The beginning of a bridge's ID, which is no name of the swarm's.
            (Err(AttachError::NoSuchNetwork(_)), Some(bridge)) => {
                join.network = bridge.id;
                return Ok(join);
            }
            (attached, _) => attached?,
        };
        let bad = |addr: &str| format!("the manager sent address {addr:?} for network {}", asked.network);
        join.addr = Some(place.addr.parse().map_err(|_| bad(&place.addr))?);
        let addr6 = Some(&place.addr6).filter(|a| !a.is_empty()).map(|a| a.parse().map_err(|_| bad(a)));
        // One that was asked for stays, for the data plane to refuse where the manager knows of no IPv6.
        join.addr6 = addr6.transpose()?.or(join.addr6);
        join.network = place.network_id;
        Ok(join)
    }
}

/// Links as the data plane has them.
fn to_plane(linked: Vec<Linked>) -> Vec<skep_overlay::Linked> {
    let one = |l: Linked| skep_overlay::Linked { container_id: l.container_id, ports: l.ports };
    linked.into_iter().map(one).collect()
}

#[async_trait::async_trait]
impl Networking for LocalNetworking {
    async fn attach(
        &self,
        id: &ContainerId,
        name: &str,
        config: &ContainerConfig,
        userns: Option<&Userns>,
        linked: Vec<Linked>,
    ) -> Result<Attachment, NetworkError> {
        let NetworkMode::Networks(joins) = &config.network else {
            return Err("this container joins no network that needs preparing".into());
        };
        let mut networks = Vec::with_capacity(joins.len());
        for asked in joins.iter().filter(|j| !self.is_left_out(j)) {
            networks.push(self.join(id, name, config, asked).await?);
        }
        let attached = self
            .plane
            .attach(AttachRequest {
                container_id: id.to_string(),
                name: name.to_owned(),
                networks,
                ports: ports(config),
                linked: to_plane(linked),
                dns_servers: config.dns.clone(),
                dns_search: config.dns_search.clone(),
                dns_options: config.dns_options.clone(),
                user_namespace: userns.map(|userns| {
                    let [uid_map, gid_map] = userns.ids.lines();
                    UserNamespace { uid_map, gid_map, shared: userns.shared.clone() }
                }),
            })
            .await?;
        Ok(attachment(attached))
    }

    async fn attached(&self, id: &ContainerId) -> Option<Attachment> {
        self.plane.attached(id.as_str()).await.map(attachment)
    }

    async fn connect(
        &self,
        id: &ContainerId,
        name: &str,
        config: &ContainerConfig,
        join: &NetworkJoin,
    ) -> Result<Attachment, NetworkError> {
        let join = self.join(id, name, config, join).await?;
        let network = join.network.clone();
        match self.plane.connect(id.as_str(), join).await {
            Ok(attached) => Ok(attachment(attached)),
            Err(e) => {
                self.attachments.detach(id.as_str(), Some(&network)).await;
                Err(e.into())
            }
        }
    }

    async fn disconnect(&self, id: &ContainerId, network_id: &str) -> Result<Attachment, NetworkError> {
        let attached = self.plane.disconnect(id.as_str(), network_id).await;
        self.attachments.detach(id.as_str(), Some(network_id)).await;
        Ok(attachment(attached?))
    }

    async fn ports_changed(&self) -> ContainerId {
        ContainerId(self.plane.ports_changed().await)
    }

    fn host_gateway(&self) -> Vec<IpAddr> {
        if !self.host_gateway.is_empty() {
            return self.host_gateway.clone();
        }
        let Ok(bridge) = self.plane.inspect_bridge(DEFAULT_BRIDGE) else { return Vec::new() };
        let v6 = bridge.v6.map(|v6| IpAddr::V6(v6.gateway));
        bridge.gateway.map(IpAddr::V4).into_iter().chain(v6).collect()
    }

    async fn relink(&self, id: &ContainerId, linked: Vec<Linked>) -> Result<(), NetworkError> {
        Ok(self.plane.relink(id.as_str(), to_plane(linked)).await?)
    }

    async fn rename(&self, id: &ContainerId, name: &str) -> Result<(), NetworkError> {
        self.plane.rename(id.as_str(), name).await?;
        self.attachments.rename(id.as_str(), name).await;
        Ok(())
    }

    async fn detach(&self, id: &ContainerId) -> Result<(), NetworkError> {
        let detached = self.plane.detach(id.as_str()).await;
        self.attachments.detach(id.as_str(), None).await;
        Ok(detached?)
    }

    async fn retain(&self, running: &[ContainerId]) -> Result<(), NetworkError> {
        let running: Vec<String> = running.iter().map(ToString::to_string).collect();
        Ok(self.plane.retain(&running).await?)
    }
}

/// The further names of a container: its aliases and, as in Docker, the host name it was given. A service's tasks
/// share theirs, which may be the service's name, and that is its virtual address's.
fn names(config: &ContainerConfig, aliases: &[String]) -> Vec<String> {
    let mut names = aliases.to_vec();
    let hostname =
        config.hostname.iter().filter(|h| !h.is_empty() && !config.labels.contains_key(TASK_LABEL));
    names.extend(hostname.cloned());
    names
}

/// What is to be published: the bindings, and with `-P` every other port that the container exposes.
fn ports(config: &ContainerConfig) -> Vec<Publish> {
    let mut ports: Vec<Publish> = config
        .ports
        .iter()
        .map(|p| Publish {
            protocol: p.protocol.clone(),
            container_port: p.container_port,
            host_ip: p.host_ip,
            interface: p.interface.clone(),
            host_port: p.host_port,
            host_port_end: p.host_port_end,
        })
        .collect();
    let exposed = config.exposed.iter().filter(|_| config.publish_all);
    for (port, protocol) in exposed.filter_map(|p| p.split_once('/')) {
        let Ok(container_port) = port.parse() else { continue };
        if !ports.iter().any(|p| p.container_port == container_port && p.protocol == protocol) {
            ports.push(Publish {
                protocol: protocol.to_owned(),
                container_port,
                host_ip: None,
                interface: None,
                host_port: 0,
                host_port_end: 0,
            });
        }
    }
    ports
}

fn attachment(attached: Attached) -> Attachment {
    let endpoint = |e: skep_overlay::Endpoint| Endpoint {
        network: e.network,
        network_id: e.network_id,
        endpoint_id: e.endpoint_id,
        addr: e.addr.map(IpAddr::V4),
        prefix_len: e.prefix_len,
        gateway: e.gateway.map(IpAddr::V4),
        v6: e.v6.map(|v6| Endpoint6 { addr: v6.addr, prefix_len: v6.prefix_len, gateway: v6.gateway }),
        mac: e.mac,
        aliases: e.aliases,
    };
    let port = |p: skep_overlay::Bound| BoundPort {
        protocol: p.protocol,
        container_port: p.container_port,
        host_ip: p.host_ip,
        host_port: p.host_port,
    };
    let relay = |r: skep_overlay::Relayed| Relay { protocol: r.protocol, from: r.from, to: r.to };
    Attachment {
        netns: attached.netns,
        resolv_conf: attached.resolv_conf,
        endpoints: attached.endpoints.into_iter().map(endpoint).collect(),
        ports: attached.ports.into_iter().map(port).collect(),
        relays: attached.relays.into_iter().map(relay).collect(),
    }
}
