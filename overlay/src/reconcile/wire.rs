//! Wires one container, or one bridge, in the kernel: few requests, as many as possible in one write.

use std::path::Path;

use nix::errno::Errno;

use crate::desired::Cidr;
use crate::error::{Error, Result};
use crate::link::{Link, Links, Veth, step};
use crate::names::GATEWAY_MAC;
use crate::netns::Namespace;
use crate::routed::{self, GATEWAY};
use crate::state::{Bridge, Interface, Record};
use crate::sysctl;
use crate::{bridge, netns};

/// Makes the container's namespace where there is none, and its interfaces where they are missing.
pub fn wire(record: &Record, path: &Path) -> Result<()> {
    let found = netns::is_pinned(path);
    let mut namespace = match found {
        true => Namespace::open(path)?,
        false => Namespace::create(path)?,
    };
    let mut host = Links::open()?;
    let routes = routed::routes(record);
    for (number, (interface, routes)) in record.interfaces.iter().zip(routes).enumerate() {
        let guest = format!("eth{number}");
        if host.find(&interface.host)?.is_some() {
            if found {
                continue;
            }
            // It leads to a namespace that nobody can find any more.
            host.delete(&interface.host)?;
        }
        let bridge = interface.bridge.as_deref().map(|name| host.index(name)).transpose()?;
        host.add_veth(&Veth {
            host: &interface.host,
            host_mac: host_mac(interface),
            guest: &guest,
            guest_mac: interface.mac,
            netns: namespace.fd(),
            mtu: interface.mtu,
            bridge,
        })?;
        let index = namespace.links.index(&guest)?;
        let mut steps: Vec<_> =
            routed::addresses(interface).iter().map(|a| step::address(index, *a)).collect();
        steps.push(step::set(index, None, None));
        if bridge.is_none() {
            steps.push(step::neighbour(index, GATEWAY, GATEWAY_MAC));
        }
        steps.extend(routes.iter().map(|r| step::route(index, r)));
        namespace.links.run(steps, &[])?;
        if bridge.is_none() {
            let index = host.index(&interface.host)?;
            let steps = host_routes(interface).into_iter().map(|r| step::route(index, &r));
            host.run(steps.collect(), &[])?;
            ours(&interface.host)?;
        } else if !record.ports.is_empty() {
            let index = host.index(&interface.host)?;
            host.run(vec![step::hairpin(index)], &[])?;
        }
        host.wait_operational(&interface.host)?;
        namespace.links.wait_operational(&guest)?;
    }
    Ok(())
}

fn host_mac(interface: &Interface) -> crate::link::Mac {
    match interface.bridge {
        None => GATEWAY_MAC,
        Some(_) => {
            let [_, _, a, b, c, d] = interface.mac;
            [0x02, 0x43, a, b, c, d]
        }
    }
}

/// The host's routes to a routed container.
pub fn host_routes(interface: &Interface) -> Vec<crate::link::Route> {
    let to = |c: Cidr| crate::link::Route { to: c, via: None, src: None };
    routed::addresses(interface).into_iter().map(to).collect()
}

/// Settings of an interface of ours on the host: loopback traffic may be translated to it, and hairpins
/// are no reason for redirects.
pub fn ours(name: &str) -> Result<()> {
    for (key, value) in SETTINGS {
        sysctl::write(&format!("ipv4/conf/{name}/{key}"), value)?;
    }
    Ok(())
}

/// See [`ours`].
pub const SETTINGS: [(&str, &str); 3] =
    [("route_localnet", "1"), ("rp_filter", "0"), ("send_redirects", "0")];

/// Makes a bridge with its address where it is missing, and gives it back.
pub fn make_bridge(host: &mut Links, network: &Bridge) -> Result<Link> {
    let name = &network.interface;
    let made = step::bridge(name, bridge::mac_of(network.gateway), network.mtu);
    host.run(vec![made], &[Errno::EEXIST])?;
    let link = host.find(name)?.ok_or_else(|| Error::Io {
        operation: "find the new bridge",
        subject: name.clone(),
        source: Errno::ENODEV.into(),
    })?;
    let addr = Cidr { addr: network.gateway, len: network.subnet.len };
    host.run(vec![step::address(link.index, addr), step::set(link.index, None, None)], &[])?;
    ours(name)?;
    Ok(link)
}
