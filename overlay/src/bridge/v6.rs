//! The IPv6 range of a bridge network.

use super::{Surroundings, within};
use crate::cidr::{Address as _, Cidr, Cidr6};
use crate::error::{Error, Result};
use crate::model::{BridgeSpec, LocalDriver, Range6};
use crate::state::State;

/// Checks the range asked for, or chooses one. `by_option` = IPv6 was turned on by an option of the driver; `hosted` =
/// the host has an address in it.
pub fn plan(
    state: &State,
    spec: &BridgeSpec,
    by_option: Option<bool>,
    hosted: bool,
    around: &Surroundings,
) -> Result<Option<Range6>> {
    if !(spec.ipv6 || by_option == Some(true)) {
        let given = spec.subnet6.or(spec.ip_range6).or(spec.gateway6.map(Cidr::host));
        return given.map_or(Ok(None), |range| {
            Err(invalid(
                "subnet",
                range,
                "it is IPv6, which the network is made without: turn it on with --ipv6",
            ))
        });
    }
    if !crate::sysctl::knows_ipv6() {
        return Err(invalid("network", &spec.name, "this host has no IPv6: make the network without it"));
    }
    let subnet = match spec.subnet6 {
        Some(subnet) => check(state, subnet)?,
        None => {
            let ours = state.local().filter_map(|b| b.v6.as_ref()).map(|r| r.subnet);
            let used: Vec<_> = around.taken6.iter().copied().chain(ours).collect();
            around.pools.free6(around.host, &used).ok_or_else(|| Error::NoSubnet(spec.name.clone()))?
        }
    };
    let first = std::net::Ipv6Addr::from_number(subnet.first().number() + 1);
    if let Some(gateway) = spec.gateway6.filter(|g| !subnet.contains(*g) || *g == subnet.first()) {
        return Err(invalid("gateway", gateway, &format!("not a host address of {subnet}")));
    }
    let gateway = match spec.driver {
        LocalDriver::Bridge if hosted => spec.gateway6.unwrap_or(first),
        LocalDriver::Bridge => subnet.first(),
        _ => spec.gateway6.unwrap_or(subnet.first()),
    };
    let ip_range = spec.ip_range6.map(|r| r.network());
    if let Some(range) = ip_range {
        within("IP range", subnet, range)?;
    }
    for addr in spec.aux_addresses6.values() {
        within("auxiliary address", subnet, Cidr::host(*addr))?;
    }
    let aux_addresses = spec.aux_addresses6.clone();
    let chosen = spec.subnet6.is_some();
    Ok(Some(Range6 { subnet, gateway, ip_range, aux_addresses, chosen }))
}

fn invalid(what: &'static str, value: impl std::fmt::Display, reason: &str) -> Error {
    Error::Invalid { what, value: value.to_string(), reason: reason.to_owned() }
}

fn check(state: &State, subnet: Cidr6) -> Result<Cidr6> {
    let subnet = subnet.network();
    let addr = subnet.addr;
    let special = addr.is_loopback() || addr.is_multicast() || addr.is_unicast_link_local();
    if !(8..=126).contains(&subnet.len) || special || addr.to_ipv4_mapped().is_some() {
        return Err(invalid("subnet", subnet, "it must be a unicast range between /8 and /126"));
    }
    let mut others = state.local().filter_map(|b| Some((b.v6.as_ref()?.subnet, &b.name)));
    match others.find(|(other, _)| other.overlaps(&subnet)) {
        Some((other, name)) => {
            Err(Error::Overlap { subnet: subnet.to_string(), other: format!("{other} of network {name}") })
        }
        None => Ok(subnet),
    }
}
