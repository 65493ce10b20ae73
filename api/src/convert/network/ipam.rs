//! `IPAM` of a network to make: its ranges read and checked, in Docker's words.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use skep_overlay::BridgeSpec;
use skep_overlay::desired::{Address, Cidr};

use crate::error::{ApiError, ApiResult, listed};
use crate::fields::Fields;

/// `IPAM.Config`, of which a network has one of each family.
#[derive(Default)]
pub struct Ipam {
    pub v4: Range<Ipv4Addr>,
    pub v6: Range<Ipv6Addr>,
}

impl Ipam {
    /// What of a local network it makes.
    pub fn into_spec(self) -> BridgeSpec {
        let Self { v4, v6 } = self;
        BridgeSpec {
            subnet: v4.subnet,
            gateway: v4.gateway,
            ip_range: v4.ip_range,
            aux_addresses: v4.aux_addresses,
            subnet6: v6.subnet,
            gateway6: v6.gateway,
            ip_range6: v6.ip_range,
            aux_addresses6: v6.aux_addresses,
            ..BridgeSpec::default()
        }
    }
}

/// The addresses of one family.
pub struct Range<A> {
    pub subnet: Option<Cidr<A>>,
    gateway: Option<A>,
    ip_range: Option<Cidr<A>>,
    aux_addresses: BTreeMap<String, A>,
}

impl<A> Default for Range<A> {
    fn default() -> Self {
        Self { subnet: None, gateway: None, ip_range: None, aux_addresses: BTreeMap::new() }
    }
}

impl<A: Address> Range<A> {
    /// Whether anything is said of it.
    pub fn is_given(&self) -> bool {
        let address = self.gateway.is_some() || !self.aux_addresses.is_empty();
        self.subnet.is_some() || self.ip_range.is_some() || address
    }

    /// Refuses what overlays have not.
    pub fn is_subnet_alone(&self) -> ApiResult<()> {
        let fields = [
            ("Gateway", self.gateway.is_some()),
            ("IPRange", self.ip_range.is_some()),
            ("AuxiliaryAddresses", !self.aux_addresses.is_empty()),
        ];
        let Some((field, _)) = fields.into_iter().find(|(_, set)| *set) else { return Ok(()) };
        Err(ApiError::bad_request(format!(
            "IPAM.Config[].{field} is not supported for an overlay: its containers are routed, and nodes hold parts of its range; leave it out"
        )))
    }

    /// Reads one of the list; tells what is wrong with it.
    fn read(config: &Written, wrong: &mut Vec<String>) -> Self {
        let mut range = Self::default();
        if let Some(text) = &config.subnet {
            let Ok(subnet) = text.parse::<Cidr<A>>() else {
                wrong.push(format!("invalid subnet {text}: invalid CIDR block notation"));
                return range;
            };
            if subnet != subnet.network() {
                wrong.push(format!("invalid subnet {text}: it should be {}", subnet.network()));
            }
            range.subnet = Some(subnet);
        }
        if let Some(text) = &config.ip_range {
            range.ip_range = range.part(text, wrong);
        }
        if let Some(text) = &config.gateway {
            let tell = |why| wrong.push(format!("invalid gateway {text}: {why}"));
            range.gateway = range.address(text).map_err(tell).ok();
        }
        for (name, text) in &config.aux_addresses {
            match range.address(text) {
                Ok(addr) => drop(range.aux_addresses.insert(name.clone(), addr)),
                Err(why) => wrong.push(format!("invalid auxiliary address {name}: {why}")),
            }
        }
        range
    }

    /// A part of the subnet.
    fn part(&self, text: &str, wrong: &mut Vec<String>) -> Option<Cidr<A>> {
        let mut tell = |why: String| wrong.push(format!("invalid ip-range {text}: {why}"));
        let Ok(part) = text.parse::<Cidr<A>>() else {
            tell(self.other_family(text).unwrap_or_else(|| "invalid CIDR block notation".into()));
            return None;
        };
        if let Some(subnet) = self.subnet.filter(|s| part.len < s.len) {
            tell(format!("CIDR block is bigger than its parent subnet {subnet}"));
        }
        if part != part.network() {
            tell(format!("it should be {}", part.network()));
        }
        if let Some(subnet) = self.subnet.filter(|s| !s.overlaps(&part)) {
            tell(format!("parent subnet {subnet} doesn't contain ip-range"));
        }
        Some(part)
    }

    /// An address of the subnet.
    fn address(&self, text: &str) -> Result<A, String> {
        let other = || self.other_family(text).unwrap_or_else(|| "invalid address".into());
        let addr: A = text.parse().map_err(|_| other())?;
        match self.subnet.filter(|s| !s.contains(addr)) {
            Some(subnet) => Err(format!("parent subnet {subnet} doesn't contain this address")),
            None => Ok(addr),
        }
    }

    /// What is said of an address, or a range of them, that is of the other family.
    fn other_family(&self, text: &str) -> Option<String> {
        let addr = text.split('/').next().and_then(|a| a.parse::<std::net::IpAddr>().ok())?;
        let own = if A::BITS == 32 { "IPv4" } else { "IPv6" };
        (addr.is_ipv4() != (A::BITS == 32)).then(|| format!("parent subnet is an {own} block"))
    }
}

/// One of the list as it was sent.
struct Written {
    subnet: Option<String>,
    ip_range: Option<String>,
    gateway: Option<String>,
    aux_addresses: BTreeMap<String, String>,
}

/// Reads the body's part.
pub fn read(mut f: Fields) -> ApiResult<Ipam> {
    match f.string("Driver")?.as_str() {
        "" | "default" => {}
        other => {
            return Err(ApiError::not_found(format!(
                "could not find plugin {other} in v1 plugin registry: plugin \"{other}\" not found"
            )));
        }
    }
    let configs = f.objects("Config")?;
    f.refuse_rest(&[("Options", "the driver default has none")])?;
    let mut ipam = Ipam::default();
    let mut wrong = Vec::new();
    for mut config in configs {
        let written = Written {
            subnet: config.opt_string("Subnet")?,
            ip_range: config.opt_string("IPRange")?,
            gateway: config.opt_string("Gateway")?,
            aux_addresses: config.string_map("AuxiliaryAddresses")?,
        };
        config.refuse_rest(&[])?;
        let texts = [&written.subnet, &written.ip_range, &written.gateway];
        // Whatever is written with a colon is meant to be IPv6.
        let v6 = texts.into_iter().flatten().next().is_some_and(|text| text.contains(':'));
        let twice = if v6 { ipam.v6.is_given() } else { ipam.v4.is_given() };
        if twice {
            return Err(ApiError::new(
                axum::http::StatusCode::FORBIDDEN,
                "bridge driver doesn't support multiple subnets: give one of each family",
            ));
        }
        if v6 {
            ipam.v6 = Range::read(&written, &mut wrong);
        } else {
            ipam.v4 = Range::read(&written, &mut wrong);
        }
    }
    match wrong.is_empty() {
        true => Ok(ipam),
        false => Err(ApiError::bad_request(format!("invalid network config:\n{}", listed(&wrong)))),
    }
}
