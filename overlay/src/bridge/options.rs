//! The driver options of a bridge network, by Docker's names.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::error::{Error, Result};

const NAME: &str = "com.docker.network.bridge.name";
const ICC: &str = "com.docker.network.bridge.enable_icc";
const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
const HOST_BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
const MTU: &str = "com.docker.network.driver.mtu";
const IPV6: &str = "com.docker.network.enable_ipv6";
const MODE: &str = "com.docker.network.bridge.gateway_mode_ipv4";
const MODE6: &str = "com.docker.network.bridge.gateway_mode_ipv6";
const KNOWN: [&str; 8] = [NAME, ICC, MASQUERADE, HOST_BINDING, MTU, IPV6, MODE, MODE6];

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
    pub host_binding: Option<Ipv4Addr>,
    /// MTU.
    pub mtu: u32,
    /// IPv6 as well; none = nothing is said of it.
    pub ipv6: Option<bool>,
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
    /// It has no address in the network.
    Isolated,
}

impl Options {
    /// Reads them; one that is not known, or not valid, is refused by name.
    pub fn read(options: &BTreeMap<String, String>) -> Result<Self> {
        if let Some(name) = options.keys().find(|name| !KNOWN.contains(&name.as_str())) {
            return Err(Error::Invalid {
                what: "network option",
                value: name.clone(),
                reason: format!("known are {}", KNOWN.join(", ")),
            });
        }
        let text = |name: &'static str| options.get(name).map(String::as_str).filter(|v| !v.is_empty());
        let mode = |name: &'static str| match text(name) {
            None | Some("nat") => Ok(Mode::Nat),
            Some("nat-unprotected") => Ok(Mode::Open),
            Some("isolated") => Ok(Mode::Isolated),
            Some(other) => Err(invalid(name, other, "it can be nat, nat-unprotected or isolated")),
        };
        Ok(Self {
            mode: mode(MODE)?,
            mode6: mode(MODE6)?,
            ipv6: text(IPV6).map(|v| flag(IPV6, Some(v))).transpose()?,
            interface: text(NAME).map(|v| check_interface(NAME, v).map(|()| v.to_owned())).transpose()?,
            icc: flag(ICC, text(ICC))?,
            masquerade: flag(MASQUERADE, text(MASQUERADE))?,
            host_binding: text(HOST_BINDING)
                .map(|v| v.parse().map_err(|_| invalid(HOST_BINDING, v, "it must be an IPv4 address")))
                .transpose()?
                .filter(|addr: &Ipv4Addr| !addr.is_unspecified()),
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
            (false, false, 1400, Some(Ipv4Addr::LOCALHOST))
        );
        for bad in [
            ("mtu", "9000"),
            (MTU, "9"),
            (ICC, "maybe"),
            (HOST_BINDING, "::1"),
            (NAME, "a/b"),
            (NAME, "br%d"),
            (MODE6, "routed"),
            (MODE, "x"),
            (IPV6, "x"),
        ] {
            let error = read(&[bad]).expect_err(bad.0).to_string();
            assert!(error.contains(bad.1) || error.contains(bad.0), "{error}");
        }
    }
}
