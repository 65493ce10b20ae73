//! Reads which networks a container joins and which of its ports are published.

use std::net::IpAddr;

use serde_json::Value;
use skep_engine::{ContainerConfig, NetworkJoin, NetworkMode, PortBinding};

use crate::error::{ApiError, ApiResult, listed};
use crate::fields::Fields;

/// The network every container is on unless it asks for another.
pub const DEFAULT: &str = "bridge";

/// Checks `port[/protocol]`.
pub fn check_port_key(path: &str, key: &str) -> ApiResult<(u16, String)> {
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
pub(super) fn read_ports(host: &mut Fields) -> ApiResult<Vec<PortBinding>> {
    let path = host.path("PortBindings");
    let mut ports = Vec::new();
    for (key, bindings) in host.entries("PortBindings")? {
        let (container_port, protocol) = check_port_key(&path, &key)?;
        let at = format!("{path}[{key:?}]");
        let bindings = match bindings {
            Value::Null => Vec::new(),
            Value::Array(list) => list,
            _ => return Err(ApiError::bad_request(format!("{at} must be a list"))),
        };
        for binding in bindings {
            let mut f = host.part(binding, at.as_str())?;
            let (ip, port) = (f.string("HostIp")?, f.string("HostPort")?);
            f.refuse_rest(&[])?;
            let host_ip = match ip.as_str() {
                "" => None,
                ip => Some(ip.parse::<IpAddr>().map_err(|_| {
                    ApiError::bad_request(format!("{at}.HostIp = {ip:?} is not an IP address"))
                })?),
            };
            let number = |text: &str| {
                text.parse::<u16>().map_err(|_| {
                    ApiError::bad_request(format!(
                        "{at}.HostPort = {port:?} is not a port number; to let Skep choose one, leave it empty"
                    ))
                })
            };
            let (host_port, host_port_end) = match port.split_once('-') {
                _ if port.is_empty() => (0, 0),
                None => (number(&port)?, 0),
                Some((first, last)) => (number(first)?, number(last)?),
            };
            if host_port_end != 0 && host_port_end < host_port {
                return Err(ApiError::bad_request(format!("{at}.HostPort = {port:?} ends before it begins")));
            }
            let protocol = protocol.clone();
            ports.push(PortBinding {
                protocol,
                container_port,
                host_ip,
                interface: None,
                host_port,
                host_port_end,
            });
        }
    }
    Ok(ports)
}

/// `HostConfig.NetworkMode` and `NetworkingConfig` together.
pub fn read_network(mode: &str, mut f: Fields) -> ApiResult<NetworkMode> {
    let mut endpoints = f.entries("EndpointsConfig")?;
    let nothing = f.part(Value::Null, "")?;
    std::mem::replace(&mut f, nothing).refuse_rest(&[])?;
    let read_one = |network: &str, settings: Value| {
        read_join(network, f.part(settings, format!("NetworkingConfig.EndpointsConfig.{network}"))?)
    };
    let mode = if matches!(mode, "" | "default") { DEFAULT } else { mode };
    // The client files the first network's settings under the mode as it was typed.
    if let Some(settings) = endpoints.remove("default") {
        endpoints.entry(DEFAULT.into()).or_insert(settings);
    }
    if matches!(mode, "none" | "host") || mode.starts_with("container:") {
        let join = read_one(mode, endpoints.remove(mode).unwrap_or(Value::Null))?;
        check_named(&join)?;
        if join.mac.is_some() {
            return Err(ApiError::bad_request(WITH_MAC));
        }
        if !endpoints.is_empty() {
            let none = mode == "none" || (mode != "host" && endpoints.contains_key("none"));
            return Err(ApiError::bad_request(if none { WITH_NONE } else { SHARED }));
        }
        return Ok(match mode.strip_prefix("container:") {
            Some("") => {
                return Err(ApiError::bad_request(
                    "invalid network mode: container: wants a container's name or ID",
                ));
            }
            Some(container) => NetworkMode::Container(container.into()),
            None if mode == "host" => NetworkMode::Host,
            None => NetworkMode::None,
        });
    }
    let first = read_one(mode, endpoints.remove(mode).unwrap_or(Value::Null))?;
    let rest = endpoints.into_iter().map(|(name, settings)| read_one(&name, settings));
    let joins: Vec<NetworkJoin> = std::iter::once(Ok(first)).chain(rest).collect::<ApiResult<_>>()?;
    for join in &joins {
        check_named(join)?;
        match join.network.as_str() {
            "none" => return Err(ApiError::bad_request(WITH_NONE)),
            "host" => return Err(ApiError::bad_request(WITH_HOST)),
            _ => {}
        }
    }
    Ok(NetworkMode::Networks(joins))
}

// Docker's words for what cannot be joined with what.
const WITH_NONE: &str =
    "container cannot be connected to multiple networks with one of the networks in private (none) mode";
const WITH_MAC: &str = "conflicting options: mac-address and the network mode";
const WITH_HOST: &str = "container cannot be disconnected from host network or connected to host network";
const SHARED: &str = "container sharing network namespace with another container or host cannot be connected to any other network";

fn check_named(join: &NetworkJoin) -> ApiResult<()> {
    check_join(join)
        .map_err(|e| ApiError::bad_request(format!("invalid config for network {}: {e}", join.network)))
}

/// What only networks of the user's own can give, and settings that are not of an interface, in Docker's words.
pub fn check_join(join: &NetworkJoin) -> ApiResult<()> {
    let name = join.network.as_str();
    let users = !matches!(name, DEFAULT | "none" | "host") && !name.starts_with("container:");
    let mut wrong: Vec<String> = Vec::new();
    if !users && (join.addr.is_some() || join.addr6.is_some()) {
        wrong.push("user specified IP address is supported on user defined networks only".into());
    }
    if !users && !join.aliases.is_empty() {
        wrong.push("network-scoped alias is supported only for containers in user defined networks".into());
    }
    let sysctls = join.driver_opts.get("com.docker.network.endpoint.sysctls");
    for setting in sysctls.iter().flat_map(|all| all.split(',')) {
        let parts: Vec<&str> = setting.splitn(5, '.').collect();
        if !matches!(parts[..], [_, "ipv4" | "ipv6" | "mpls", _, "IFNAME" | "ifname", _]) {
            wrong.push(format!(
                "unrecognised network interface sysctl '{setting}'; represent 'net.X.Y.ethN.Z=V' as 'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'"
            ));
        }
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(ApiError::bad_request(format!("invalid endpoint settings:\n{}", listed(&wrong)))),
    }
}

/// `aa:bb:cc:dd:ee:ff`; empty is none.
pub(super) fn read_mac(path: &str, text: &str) -> ApiResult<Option<[u8; 6]>> {
    if text.is_empty() {
        return Ok(None);
    }
    let bytes: Option<Vec<u8>> =
        text.split([':', '-']).map(|b| u8::from_str_radix(b, 16).ok().filter(|_| b.len() == 2)).collect();
    let mac = bytes.and_then(|b| <[u8; 6]>::try_from(b).ok());
    // A container with a group's address, or none, could not be reached.
    let mac = mac.filter(|m| m[0] & 1 == 0 && *m != [0; 6]);
    mac.map(Some).ok_or_else(|| ApiError::bad_request(format!("{path}: invalid MAC address: {text}")))
}

/// `container[:alias]`, as `--link` has it.
pub(super) fn read_links(path: &str, links: &[String]) -> ApiResult<Vec<(String, String)>> {
    let one = |link: &String| {
        let (name, alias) = link.split_once(':').unwrap_or((link, link));
        let name = name.trim_start_matches('/');
        // Docker's own form, as `inspect` shows it: /other:/this/alias.
        let alias = alias.rsplit('/').next().unwrap_or(alias);
        if name.is_empty() || alias.is_empty() || alias.contains(':') {
            return Err(ApiError::bad_request(format!("{path}: bad format for links: {link}")));
        }
        Ok((name.to_owned(), alias.to_owned()))
    };
    links.iter().map(one).collect()
}

/// What cannot go with a network namespace that is the host's or another container's, in Docker's words; and
/// what goes with it, to no effect.
pub(super) fn check_mode(config: &ContainerConfig, links: bool, mac: bool) -> ApiResult<Vec<String>> {
    let refuse = |what: &str| Err(ApiError::bad_request(format!("conflicting options: {what}")));
    match &config.network {
        NetworkMode::Container(_) => {
            let published = !config.ports.is_empty() || config.publish_all;
            let conflicts = [
                (config.hostname.as_ref().is_some_and(|h| !h.is_empty()), "hostname and the network mode"),
                (
                    links,
                    "container type network can't be used with links. This would result in undefined behavior",
                ),
                (!config.dns.is_empty(), "dns and the network mode"),
                (!config.extra_hosts.is_empty(), "custom host-to-IP mapping and the network mode"),
                (mac, "mac-address and the network mode"),
                (published, "port publishing and the container type network mode"),
                (!config.exposed.is_empty(), "port exposing and the container type network mode"),
            ];
            conflicts.iter().find(|(set, _)| *set).map_or(Ok(Vec::new()), |(_, what)| refuse(what))
        }
        // What is asked for could not be; Docker says so to clients of before API 1.44 only, and leaves it out for others.
        NetworkMode::Host | NetworkMode::None if mac => Err(ApiError::bad_request(WITH_MAC)),
        NetworkMode::Host if links => {
            refuse("host type networking can't be used with links. This would result in undefined behavior")
        }
        NetworkMode::Host if !config.ports.is_empty() || config.publish_all => {
            Ok(vec!["Published ports are discarded when using host network mode".to_owned()])
        }
        _ => Ok(Vec::new()),
    }
}

/// The settings of one endpoint, also the body of `network connect`.
pub fn read_join(network: &str, mut f: Fields) -> ApiResult<NetworkJoin> {
    let mut ipam = f.object("IPAMConfig")?;
    let bad = |kind: &str, ip: &str| {
        ApiError::bad_request(format!("invalid endpoint settings:\ninvalid {kind} address: {ip}"))
    };
    let text = |ip: Option<String>| ip.filter(|ip| !ip.is_empty());
    let addr = text(ipam.opt_string("IPv4Address")?)
        .map(|ip| ip.parse().map(IpAddr::V4).map_err(|_| bad("IPv4", &ip)))
        .transpose()?;
    let addr6 = text(ipam.opt_string("IPv6Address")?)
        .map(|ip| ip.parse().map_err(|_| bad("IPv6", &ip)))
        .transpose()?;
    let link_local = ipam.strings("LinkLocalIPs")?;
    let link_local = link_local
        .iter()
        .map(|ip| {
            let addr = ip.parse::<IpAddr>().ok().filter(|a| !a.is_unspecified());
            addr.ok_or_else(|| bad("link-local IP", ip))
        })
        .collect::<ApiResult<_>>()?;
    ipam.refuse_rest(&[])?;
    let aliases = f.strings("Aliases")?;
    let mac = read_mac(&f.path("MacAddress"), &f.string("MacAddress")?)?;
    let links = read_links(&f.path("Links"), &f.strings("Links")?)?;
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
    let (gw_priority, driver_opts) = (f.i64("GwPriority")?, f.string_map("DriverOpts")?);
    f.refuse_rest(&[])?;
    let network = network.into();
    Ok(NetworkJoin { network, addr, addr6, link_local, aliases, mac, links, gw_priority, driver_opts })
}
