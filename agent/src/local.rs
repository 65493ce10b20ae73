//! Gives the engine's containers their network by way of the data plane.

use std::net::IpAddr;

use skep_engine::{
    Attachment, BoundPort, ContainerConfig, ContainerId, Endpoint, NetworkError, NetworkMode, Networking,
};
use skep_overlay::{AttachRequest, DataPlane, Join, Publish};

/// [`Networking`] over a [`DataPlane`].
pub struct LocalNetworking {
    plane: DataPlane,
}

impl LocalNetworking {
    /// Prepares namespaces with `plane`.
    pub fn new(plane: DataPlane) -> Self {
        Self { plane }
    }
}

#[async_trait::async_trait]
impl Networking for LocalNetworking {
    async fn attach(
        &self,
        id: &ContainerId,
        name: &str,
        config: &ContainerConfig,
    ) -> Result<Attachment, NetworkError> {
        let NetworkMode::Networks(joins) = &config.network else {
            return Err("this container joins no network that needs preparing".into());
        };
        let networks = joins
            .iter()
            .map(|j| {
                let addr = match j.addr {
                    None => None,
                    Some(IpAddr::V4(v4)) => Some(v4),
                    Some(IpAddr::V6(v6)) => {
                        return Err(format!("IPv6 address {v6} is not there yet: ask for an IPv4 address"));
                    }
                };
                Ok(Join { network: j.network.clone(), addr, aliases: j.aliases.clone() })
            })
            .collect::<Result<_, String>>()?;
        let ports = config
            .ports
            .iter()
            .map(|p| Publish {
                protocol: p.protocol.clone(),
                container_port: p.container_port,
                host_ip: p.host_ip,
                host_port: p.host_port,
            })
            .collect();
        let attached = self
            .plane
            .attach(AttachRequest {
                container_id: id.to_string(),
                name: name.to_owned(),
                networks,
                ports,
                dns_servers: config.dns.clone(),
                dns_search: config.dns_search.clone(),
                dns_options: config.dns_options.clone(),
            })
            .await?;
        Ok(Attachment {
            netns: attached.netns,
            resolv_conf: attached.resolv_conf,
            endpoints: attached
                .endpoints
                .into_iter()
                .map(|e| Endpoint {
                    network: e.network,
                    network_id: e.network_id,
                    endpoint_id: e.endpoint_id,
                    addr: IpAddr::V4(e.addr),
                    prefix_len: e.prefix_len,
                    gateway: e.gateway.map(IpAddr::V4),
                    mac: e.mac,
                    aliases: e.aliases,
                })
                .collect(),
            ports: attached
                .ports
                .into_iter()
                .map(|p| BoundPort {
                    protocol: p.protocol,
                    container_port: p.container_port,
                    host_ip: IpAddr::V4(p.host_ip),
                    host_port: p.host_port,
                })
                .collect(),
        })
    }

    async fn detach(&self, id: &ContainerId) -> Result<(), NetworkError> {
        Ok(self.plane.detach(id.as_str()).await?)
    }
}
