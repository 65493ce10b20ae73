//! The driver options of a bridge network, by Docker's names.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::error::{Error, Result};

pub(super) const NAME: &str = "com.docker.network.bridge.name";
pub(super) const ICC: &str = "com.docker.network.bridge.enable_icc";
pub(super) const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
pub(super) const HOST_BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
pub(super) const MTU: &str = "com.docker.network.driver.mtu";
const IPV4: &str = "com.docker.network.enable_ipv4";
const IPV6: &str = "com.docker.network.enable_ipv6";
const MODE: &str = "com.docker.network.bridge.gateway_mode_ipv4";
const MODE6: &str = "com.docker.network.bridge.gateway_mode_ipv6";
const PREFIX: &str = "com.docker.network.container_iface_prefix";
const INHIBIT: &str = "com.docker.network.bridge.inhibit_ipv4";
const TRUSTED: &str = "com.docker.network.bridge.trusted_host_interfaces";
const DEFAULT: &str = "com.docker.network.bridge.default_bridge";
const SOURCE: &str = "com.docker.network.host_ipv4";
const SOURCE6: &str = "com.docker.network.host_ipv6";
const KNOWN: [&str; 15] = [
    NAME,
    ICC,
    MASQUERADE,
    HOST_BINDING,
    MTU,
    IPV4,
    IPV6,
    MODE,
    MODE6,
    PREFIX,
    INHIBIT,
    TRUSTED,
    DEFAULT,
    SOURCE,
    SOURCE6,
];
/// Digits that a container's interface may need after its prefix.
const NUMBER: usize = 3;

/// What the options come to.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// Name of the interface on the host; none = ours to choose.
    pub interface: Option<String>,
    /// Containers reach each other.
    pub icc: bool,
    /// What leaves the host has the host's address.
    pub masquerade: bool,
    /// Where ports are published when no host address is given.
    pub host_binding: Option<IpAddr>,
    /// MTU.
    pub mtu: u32,
    /// IPv4; none = nothing is said of it.
    pub ipv4: Option<bool>,
    /// IPv6 as well; none = nothing is said of it.
    pub ipv6: Option<bool>,
    /// What containers' interfaces are called, before their number; none = `eth`.
    pub prefix: Option<String>,
    /// The host does not take the gateway's IPv4 address.
    pub inhibited: bool,
    /// Interfaces of the host by which published ports are reached at the containers' addresses.
    pub trusted: Vec<String>,
    /// What leaves the host by IPv4 has this address; none = that of the interface it leaves by.
    pub source: Option<Ipv4Addr>,
    /// The same by IPv6.
    pub source6: Option<Ipv6Addr>,
    /// How the host stands between the network and others, by IPv4.
    pub mode: Mode,
    /// The same by IPv6.
    pub mode6: Mode,
}

/// How the host stands between a network and others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// It lends its address, and passes on what goes to published ports.
    #[default]
    Nat,
    /// It lends its address, and passes on everything.
    Open,
    /// It lends none, and passes on what goes to published ports of the containers' own addresses.
    Routed,
    /// It has no address in the network.
    Isolated,
}

impl Options {
    /// Reads them; one that is not valid is refused by name. For those that nobody knows see [`unknown`].
    pub fn read(options: &BTreeMap<String, String>) -> Result<Self> {
        let text = |name: &'static str| options.get(name).map(String::as_str).filter(|v| !v.is_empty());
        let mode = |name: &'static str| match text(name) {
            None | Some("nat") => Ok(Mode::Nat),
            Some("nat-unprotected") => Ok(Mode::Open),
            Some("routed") => Ok(Mode::Routed),
            Some("isolated") => Ok(Mode::Isolated),
            Some(other) => Err(invalid(name, other, "it can be nat, nat-unprotected, routed or isolated")),
        };
        if text(DEFAULT).map_or(Ok(false), |v| flag(DEFAULT, Some(v)))? {
            return Err(Error::Forbidden(format!(
                "conflicts with network bridge: networks have same bridge name; there is one default bridge, leave {DEFAULT} out"
            )));
        }
        Ok(Self {
            mode: mode(MODE)?,
            mode6: mode(MODE6)?,
            ipv4: text(IPV4).map(|v| flag(IPV4, Some(v))).transpose()?,
            ipv6: text(IPV6).map(|v| flag(IPV6, Some(v))).transpose()?,
            prefix: text(PREFIX).map(prefix).transpose()?,
            inhibited: text(INHIBIT).map_or(Ok(false), |v| flag(INHIBIT, Some(v)))?,
            trusted: text(TRUSTED).map_or(Ok(Vec::new()), trusted)?,
            source: address(SOURCE, text(SOURCE))?,
            source6: address(SOURCE6, text(SOURCE6))?,
            interface: text(NAME).map(|v| check_interface(NAME, v).map(|()| v.to_owned())).transpose()?,
            icc: flag(ICC, text(ICC))?,
            masquerade: flag(MASQUERADE, text(MASQUERADE))?,
            host_binding: text(HOST_BINDING)
                .map(|v| v.parse().map_err(|_| invalid(HOST_BINDING, v, "it must be an IP address")))
                .transpose()?
                // Docker's word for all addresses, of both families; `::` is those of IPv6 alone.
                .filter(|addr: &IpAddr| *addr != IpAddr::from([0; 4])),
            mtu: match text(MTU) {
                None => 1500,
                Some(v) => v
                    .parse()
                    .ok()
                    .filter(|mtu| (576..=65_535).contains(mtu))
                    .ok_or_else(|| invalid(MTU, v, "it must be between 576 and 65535"))?,
            },
        })
    }
}

fn address<A: std::str::FromStr>(name: &'static str, value: Option<&str>) -> Result<Option<A>> {
    let family = if name == SOURCE { "IPv4" } else { "IPv6" };
    let parse = |v: &str| v.parse().map_err(|_| invalid(name, v, &format!("it must be an {family} address")));
    value.map(parse).transpose()
}

/// Checks options that networks are to have which say nothing of them.
pub fn check(options: &BTreeMap<String, String>) -> Result<()> {
    Options::read(options).map(drop)
}

/// The options that mean nothing to a bridge. They are taken as Docker takes them, and shown.
pub fn unknown(options: &BTreeMap<String, String>) -> impl Iterator<Item = &String> {
    options.keys().filter(|name| !KNOWN.contains(&name.as_str()))
}

fn prefix(value: &str) -> Result<String> {
    check_interface(PREFIX, value)?;
    match value.len() + NUMBER > 15 {
        true => Err(invalid(
            PREFIX,
            value,
            "with a number it would be longer than the 15 characters that a name may have",
        )),
        false => Ok(value.to_owned()),
    }
}

/// Names with colons between them.
fn trusted(value: &str) -> Result<Vec<String>> {
    let names = value.split(':').filter(|name| !name.is_empty());
    names.map(|name| check_interface(TRUSTED, name).map(|()| name.to_owned())).collect()
}

fn invalid(what: &'static str, value: &str, reason: &str) -> Error {
    Error::Invalid { what, value: value.to_owned(), reason: reason.to_owned() }
}

fn flag(name: &'static str, value: Option<&str>) -> Result<bool> {
    match value {
        None | Some("true" | "1" | "t" | "T" | "TRUE" | "True") => Ok(true),
        Some("false" | "0" | "f" | "F" | "FALSE" | "False") => Ok(false),
        Some(other) => Err(invalid(name, other, "it must be true or false")),
    }
}

/// Checks that the kernel takes a name as it is (dev_valid_name in net/core/dev.c): `%d` it would replace by a number.
pub fn check_interface(option: &'static str, name: &str) -> Result<()> {
    let odd = |c: char| "/:*%".contains(c) || c.is_whitespace();
    if name.is_empty() || name.len() > 15 || name == "." || name == ".." || name.contains(odd) {
        return Err(invalid(
            option,
            name,
            "an interface name has at most 15 characters, and no space, /, :, * or %",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(options: &[(&str, &str)]) -> Result<Options> {
        Options::read(&options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn options_are_dockers_and_what_is_not_known_or_valid_is_named() {
        let none = read(&[]).expect("none");
        assert_eq!((none.icc, none.masquerade, none.mtu, none.host_binding), (true, true, 1500, None));
        let all = read(&[
            (NAME, "br-x"),
            (ICC, "false"),
            (MASQUERADE, "0"),
            (HOST_BINDING, "127.0.0.1"),
            (MTU, "1400"),
        ]);
        let all = all.expect("all valid");
        assert_eq!(all.interface.as_deref(), Some("br-x"));
        assert_eq!(
            (all.icc, all.masquerade, all.mtu, all.host_binding),
            (false, false, 1400, Some(IpAddr::from([127, 0, 0, 1])))
        );
        let more = read(&[
            (PREFIX, "net"),
            (INHIBIT, "true"),
            (TRUSTED, "vxlan.1:eth3"),
            (DEFAULT, "false"),
            (MODE, "routed"),
            (HOST_BINDING, "::"),
            (IPV4, "false"),
            ("org.example.colour", "blue"),
        ]);
        let more = more.expect("all valid");
        assert_eq!((more.prefix.as_deref(), more.inhibited, more.mode), (Some("net"), true, Mode::Routed));
        assert_eq!(more.trusted, ["vxlan.1", "eth3"]);
        let strange =
            [("org.example.colour".to_owned(), String::new()), (MTU.to_owned(), String::new())].into();
        assert_eq!(unknown(&strange).collect::<Vec<_>>(), ["org.example.colour"]);
        assert_eq!((more.host_binding, more.ipv4), (Some(IpAddr::from([0u16; 8])), Some(false)));
        for bad in [
            (DEFAULT, "true"),
            (SOURCE, "::1"),
            (MTU, "9"),
            (ICC, "maybe"),
            (HOST_BINDING, "::g"),
            (NAME, "a/b"),
            (NAME, "br%d"),
            (MODE6, "bridged"),
            (PREFIX, "thirteenchars"),
            (TRUSTED, "eth0:a/b"),
            (INHIBIT, "maybe"),
            (MODE, "x"),
            (IPV6, "x"),
        ] {
            let error = read(&[bad]).expect_err(bad.0).to_string();
            assert!(error.contains(bad.1) || error.contains(bad.0), "{error}");
        }
    }
}
