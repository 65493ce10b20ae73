//! Reads which networks a container joins and which of its ports are published.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;
use skep_engine::{NetworkJoin, NetworkMode, PortBinding};

use crate::error::{ApiError, ApiResult};
use crate::fields::Fields;

/// The network every container is on unless it asks for another.
pub const DEFAULT: &str = "bridge";

/// Checks `port[/protocol]`.
pub(super) fn check_port_key(path: &str, key: &str) -> ApiResult<(u16, String)> {
    let (port, protocol) = key.split_once('/').unwrap_or((key, "tcp"));
    match port.parse() {
        Ok(port) if port != 0 && matches!(protocol, "tcp" | "udp" | "sctp") => {
            Ok((port, protocol.to_owned()))
        }
        _ => Err(ApiError::bad_request(format!(
            "{path}: invalid port specification {key:?}: write a port and a protocol, as in 80/tcp"
        ))),
    }
}

/// `PortBindings`.
pub(super) fn read_ports(path: &str, map: BTreeMap<String, Value>) -> ApiResult<Vec<PortBinding>> {
    let mut ports = Vec::new();
    for (key, bindings) in map {
        let (container_port, protocol) = check_port_key(path, &key)?;
        let at = format!("{path}[{key:?}]");
        let bindings = match bindings {
            Value::Null => Vec::new(),
            Value::Array(list) => list,
            _ => return Err(ApiError::bad_request(format!("{at} must be a list"))),
        };
        for binding in bindings {
            let mut f = Fields::of(binding, at.as_str())?;
            let (ip, port) = (f.string("HostIp")?, f.string("HostPort")?);
            f.refuse_rest(&[])?;
            let host_ip = match ip.as_str() {
                "" => None,
                ip => Some(ip.parse::<IpAddr>().map_err(|_| {
                    ApiError::bad_request(format!("{at}.HostIp = {ip:?} is not an IP address"))
                })?),
            };
            let host_port = match port.as_str() {
                "" => 0,
                port => port.parse().map_err(|_| {
                    ApiError::bad_request(format!(
                        "{at}.HostPort = {port:?} is not a port number; to let Skep choose one, leave it empty"
                    ))
                })?,
            };
            let protocol = protocol.clone();
            ports.push(PortBinding { protocol, container_port, host_ip, host_port });
        }
    }
    Ok(ports)
}

/// `HostConfig.NetworkMode` and `NetworkingConfig` together.
pub(super) fn read_network(mode: &str, mut f: Fields) -> ApiResult<NetworkMode> {
    let mut endpoints = f.entries("EndpointsConfig")?;
    f.refuse_rest(&[])?;
    let mode = if matches!(mode, "" | "default") { DEFAULT } else { mode };
    // The client files the first network's settings under the mode as it was typed.
    if let Some(settings) = endpoints.remove("default") {
        endpoints.entry(DEFAULT.into()).or_insert(settings);
    }
    if matches!(mode, "none" | "host") || mode.starts_with("container:") {
        let settings = endpoints.remove(mode).unwrap_or(Value::Null);
        read_join(mode, settings)?;
        if let Some(other) = endpoints.keys().next() {
            return Err(ApiError::bad_request(format!(
                "conflicting options: network mode {mode:?} cannot be joined with network {other:?}"
            )));
        }
        return Ok(match mode.strip_prefix("container:") {
            Some(container) => NetworkMode::Container(container.into()),
            None if mode == "host" => NetworkMode::Host,
            None => NetworkMode::None,
        });
    }
    let first = read_join(mode, endpoints.remove(mode).unwrap_or(Value::Null))?;
    let rest = endpoints.into_iter().map(|(name, settings)| read_join(&name, settings));
    std::iter::once(Ok(first)).chain(rest).collect::<ApiResult<_>>().map(NetworkMode::Networks)
}

/// The settings of one endpoint, also the body of `network connect`.
fn read_join(network: &str, settings: Value) -> ApiResult<NetworkJoin> {
    let mut f = Fields::of(settings, format!("NetworkingConfig.EndpointsConfig.{network}"))?;
    let mut ipam = f.object("IPAMConfig")?;
    let addr = match ipam.opt_string("IPv4Address")? {
        None => None,
        Some(ip) => Some(ip.parse().map_err(|_| {
            ApiError::bad_request(format!("{} = {ip:?} is not an IP address", ipam.path("IPv4Address")))
        })?),
    };
    ipam.refuse_rest(&[("IPv6Address", "networks are IPv4; leave it out")])?;
    let aliases = f.strings("Aliases")?;
    // What the daemon decides; a client that copies an endpoint from `inspect` sends it back.
    f.drop_all(&[
        "NetworkID",
        "EndpointID",
        "Gateway",
        "IPAddress",
        "IPPrefixLen",
        "IPv6Gateway",
        "GlobalIPv6Address",
        "GlobalIPv6PrefixLen",
        "DNSNames",
    ]);
    f.refuse_rest(&[
        ("MacAddress", "addresses are chosen by the network"),
        ("Links", "use names or aliases"),
    ])?;
    Ok(NetworkJoin { network: network.into(), addr, aliases })
}
