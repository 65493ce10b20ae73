//! The default bridge network: what its daemon was told of it (dockerd's `bip`, `fixed-cidr`, `mtu` and their like), and what
//! it comes to.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::options::{HOST_BINDING, ICC, MASQUERADE, MTU, NAME};
use super::{Surroundings, plan};
use crate::cidr::{Address, Cidr, Cidr6};
use crate::error::{Error, Result};
use crate::link::Links;
use crate::model::BridgeSpec;
use crate::names::Names;
use crate::reconcile::earlier;
use crate::state::{Bridge, DEFAULT_BRIDGE, State};

/// What the daemon was told of the default bridge network. The default is Docker's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DefaultBridge {
    /// There is to be none.
    pub absent: bool,
    /// The bridge of the user's that it is to be on; none = one of ours.
    pub interface: Option<String>,
    /// The host's address in it, with the range (`bip`).
    pub addr: Option<Cidr>,
    /// The same of IPv6 (`bip6`).
    pub addr6: Option<Cidr6>,
    /// Where addresses are given from; without `addr` also the range itself (`fixed-cidr`).
    pub fixed: Option<Cidr>,
    /// The same of IPv6 (`fixed-cidr-v6`).
    pub fixed6: Option<Cidr6>,
    /// What containers send to others by, instead of the host (`default-gateway`).
    pub way: Option<Ipv4Addr>,
    /// The same of IPv6 (`default-gateway-v6`).
    pub way6: Option<Ipv6Addr>,
    /// IPv6 as well.
    pub ipv6: bool,
    /// MTU of the bridge and its containers.
    pub mtu: Option<u32>,
    /// Containers are kept from each other, but for what links open (`icc=false`).
    pub isolated: bool,
    /// What leaves the host keeps its source (`ip-masq=false`).
    pub unmasked: bool,
    /// Where ports are published when no host address is given (`ip`).
    pub binding: Option<IpAddr>,
}

/// The settings in which two forms of the default bridge network differ, by dockerd's names.
#[derive(Debug, PartialEq, Eq)]
pub struct Changed(pub Vec<&'static str>);

impl Changed {
    /// From what there is to what is wanted.
    pub fn between(held: &Bridge, wanted: &Bridge) -> Self {
        let range6 = |b: &Bridge| b.v6.as_ref().map(|v6| (v6.subnet, v6.gateway));
        let part6 = |b: &Bridge| b.v6.as_ref().and_then(|v6| v6.ip_range);
        let way6 = |b: &Bridge| b.v6.as_ref().map(|v6| v6.aux_addresses.clone());
        let all = [
            ("bridge", (held.foreign, &held.interface) != (wanted.foreign, &wanted.interface)),
            ("bip", (held.subnet, held.gateway) != (wanted.subnet, wanted.gateway)),
            ("fixed-cidr", held.ip_range != wanted.ip_range),
            ("default-gateway", held.aux_addresses != wanted.aux_addresses),
            ("ipv6", held.v6.is_some() != wanted.v6.is_some()),
            ("bip6", held.v6.is_some() && wanted.v6.is_some() && range6(held) != range6(wanted)),
            ("fixed-cidr-v6", part6(held) != part6(wanted)),
            ("default-gateway-v6", held.v6.is_some() && wanted.v6.is_some() && way6(held) != way6(wanted)),
            ("mtu", held.mtu != wanted.mtu),
            ("icc", held.isolated != wanted.isolated),
            ("ip-masq", held.unmasked != wanted.unmasked),
            ("ip", held.host_binding != wanted.host_binding),
        ];
        Self(all.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect())
    }
}

impl DefaultBridge {
    /// The network as it was told to be. What nothing is said of stays as it is in `held`, where it still may be;
    /// `others` are the networks beside it.
    pub fn wanted(
        &self,
        held: Option<&Bridge>,
        others: &State,
        names: &Names,
        around: &Surroundings,
        host: &mut Links,
    ) -> Result<Bridge> {
        let mut spec = self.spec();
        if let Some(name) = &self.interface {
            self.take_addresses(name, &mut spec, host)?;
        }
        let said6 = spec.subnet6.is_some();
        if let Some(held) = held {
            spec.subnet = spec.subnet.or(held.subnet.filter(|s| around.pools.have(*s)));
            let range6 = held.v6.as_ref().map(|v6| v6.subnet).filter(|_| spec.ipv6);
            spec.subnet6 = spec.subnet6.or(range6.filter(|s| around.pools.have6(around.host, *s)));
        }
        let mut wanted = plan(others, &spec, names, around)?;
        // As with Docker, IPv4 addresses are chosen in networks of the user's own only.
        wanted.chosen = false;
        if let Some(v6) = &mut wanted.v6 {
            v6.chosen = said6;
        }
        if let Some(held) = held {
            (wanted.id, wanted.created_at_ns) = (held.id.clone(), held.created_at_ns);
        }
        wanted.foreign = self.interface.is_some();
        wanted.interface = self.interface.clone().unwrap_or_else(|| names.bridge(&wanted.id));
        if wanted.foreign {
            wanted.lent = earlier(&wanted.interface, held);
        }
        Ok(wanted)
    }

    fn spec(&self) -> BridgeSpec {
        let set = |name: &str, value: Option<String>| value.map(|v| (name.to_owned(), v));
        let options = [
            set(MTU, self.mtu.map(|mtu| mtu.to_string())),
            set(ICC, self.isolated.then(|| "false".to_owned())),
            set(MASQUERADE, self.unmasked.then(|| "false".to_owned())),
            set(HOST_BINDING, self.binding.map(|addr| addr.to_string())),
            set(NAME, self.interface.clone()),
        ];
        BridgeSpec {
            name: DEFAULT_BRIDGE.into(),
            subnet: self.addr.or(self.fixed).map(|c| c.network()),
            gateway: self.addr.map(|c| c.addr),
            ip_range: self.fixed.filter(|_| self.addr.is_some() || self.interface.is_some()),
            aux_addresses: named("DefaultGatewayIPv4", self.way),
            ipv6: self.ipv6,
            subnet6: self.addr6.or(self.fixed6).map(|c| c.network()),
            gateway6: self.addr6.map(|c| c.addr),
            ip_range6: self.fixed6.filter(|_| self.addr6.is_some() || self.interface.is_some()),
            aux_addresses6: named("DefaultGatewayIPv6", self.way6),
            options: options.into_iter().flatten().collect(),
            ..BridgeSpec::default()
        }
    }

    /// Ranges and gateways of the network on a bridge of the user's: the addresses it has, those that fit what addresses are
    /// given from first.
    fn take_addresses(&self, name: &str, spec: &mut BridgeSpec, host: &mut Links) -> Result<()> {
        let Some(link) = host.find(name)? else {
            return Err(Error::Parent(format!(
                "bridge device with non default name {name} must be created manually (ip link add {name} type bridge)"
            )));
        };
        let v4 = fitting(host.addresses()?, link.index, self.fixed, |_| true);
        let v4 = v4.ok_or_else(|| {
            Error::Parent(format!(
                "bridge {name} has no IPv4 address: give it one (ip addr add ADDRESS/BITS dev {name})"
            ))
        })?;
        (spec.subnet, spec.gateway) = (Some(v4.network()), Some(v4.addr));
        if self.ipv6 {
            let global = |addr: &Ipv6Addr| !addr.is_unicast_link_local();
            let v6 = fitting(host.addresses()?, link.index, self.fixed6, global);
            let v6 = v6.ok_or_else(|| {
                Error::Parent(format!(
                    "bridge {name} has no IPv6 address: give it one (ip addr add ADDRESS/BITS dev {name}), or leave out ipv6"
                ))
            })?;
            (spec.subnet6, spec.gateway6) = (Some(v6.network()), Some(v6.addr));
        }
        Ok(())
    }
}

fn named<A>(name: &str, addr: Option<A>) -> BTreeMap<String, A> {
    addr.into_iter().map(|addr| (name.to_owned(), addr)).collect()
}

/// An address of an interface: one whose range holds `part`, else the first.
fn fitting<A: Address>(
    all: Vec<(u32, Cidr<A>)>,
    index: u32,
    part: Option<Cidr<A>>,
    good: impl Fn(&A) -> bool,
) -> Option<Cidr<A>> {
    let own: Vec<_> =
        all.into_iter().filter(|(at, c)| *at == index && good(&c.addr)).map(|(_, c)| c).collect();
    let holds = |c: &&Cidr<A>| part.is_some_and(|p| c.overlaps(&p));
    own.iter().find(holds).or(own.first()).copied()
}
