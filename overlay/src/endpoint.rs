//! The driver options of one container's place in a network, by Docker's names.

use std::collections::BTreeMap;

use crate::bridge::check_interface;
use crate::error::{Error, Result};
use crate::state::Record;

const IFNAME: &str = "com.docker.network.endpoint.ifname";
const SYSCTLS: &str = "com.docker.network.endpoint.sysctls";
/// What stands for the interface's name in a setting.
const PLACE: &str = "IFNAME";
/// Families that have settings of interfaces.
const FAMILIES: [&str; 3] = ["ipv4", "ipv6", "mpls"];

/// What the options come to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Name of the interface in the container.
    pub ifname: Option<String>,
    /// Settings below `/proc/sys/net`, with `IFNAME` for the interface's name, and their values.
    pub sysctls: Vec<(String, String)>,
}

impl Options {
    /// Reads them; one that is not known, or not valid, is refused by name.
    pub fn read(options: &BTreeMap<String, String>) -> Result<Self> {
        let mut read = Self::default();
        for (name, value) in options {
            match name.as_str() {
                IFNAME => {
                    check_interface(IFNAME, value)?;
                    read.ifname = Some(value.clone());
                }
                SYSCTLS => {
                    read.sysctls = value.split(',').map(sysctl).collect::<Result<_>>()?;
                }
                _ => {
                    return Err(Error::Invalid {
                        what: "endpoint option",
                        value: name.clone(),
                        reason: format!("known are {IFNAME} and {SYSCTLS}"),
                    });
                }
            }
        }
        Ok(read)
    }
}

/// `net.ipv4.conf.IFNAME.log_martians=1`.
fn sysctl(text: &str) -> Result<(String, String)> {
    let bad =
        |reason: &str| Error::Invalid { what: "endpoint sysctl", value: text.into(), reason: reason.into() };
    let form = "want net.X.Y.IFNAME.Z=value";
    let (key, value) = text.trim().split_once('=').filter(|(_, v)| !v.is_empty()).ok_or_else(|| bad(form))?;
    let parts: Vec<&str> = key.split('.').collect();
    let word = |p: &&str| !p.is_empty() && p.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    match parts.as_slice() {
        // Docker's client makes small letters of them.
        ["net", family, kind, place, name]
            if FAMILIES.contains(family) && place.eq_ignore_ascii_case(PLACE) && word(kind) && word(name) =>
        {
            Ok((format!("{family}/{kind}/{PLACE}/{name}"), value.to_owned()))
        }
        _ => Err(bad(form)),
    }
}

/// A setting's path once the interface has its name.
pub fn path(setting: &str, guest: &str) -> String {
    setting.replace(PLACE, guest)
}

/// Names the interfaces that have no name yet, eth0 (or what their network says instead) first; what was asked for must be free.
pub fn name(record: &mut Record) -> Result<()> {
    let mut taken: Vec<String> = Vec::new();
    for interface in record.interfaces.iter().filter(|i| !i.guest.is_empty()) {
        if taken.contains(&interface.guest) || interface.guest == "lo" {
            return Err(Error::Invalid {
                what: IFNAME,
                value: interface.guest.clone(),
                reason: "the container has an interface of that name".into(),
            });
        }
        taken.push(interface.guest.clone());
    }
    for interface in record.interfaces.iter_mut().filter(|i| i.guest.is_empty()) {
        let free = |name: &String| !taken.contains(name);
        let prefix = if interface.prefix.is_empty() { "eth" } else { &interface.prefix };
        interface.guest = (0..).map(|n| format!("{prefix}{n}")).find(free).unwrap_or_default();
        taken.push(interface.guest.clone());
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
        let sysctls = "net.ipv4.conf.IFNAME.log_martians=1,net.ipv4.neigh.IFNAME.gc_stale_time=7";
        let all = read(&[(IFNAME, "web0"), (SYSCTLS, sysctls)]).expect("valid");
        assert_eq!(all.ifname.as_deref(), Some("web0"));
        assert_eq!(path(&all.sysctls[1].0, "web0"), "ipv4/neigh/web0/gc_stale_time");
        let small = read(&[(SYSCTLS, "net.ipv6.conf.ifname.forwarding=1")]).expect("as the client sends it");
        assert_eq!(path(&small.sysctls[0].0, "eth0"), "ipv6/conf/eth0/forwarding");
        for bad in [
            ("mtu", "9"),
            (SYSCTLS, "net.core.conf.IFNAME.x=1"),
            (IFNAME, "a/b"),
            (IFNAME, "eth%d"),
            (IFNAME, ""),
            (SYSCTLS, "net.ipv4.conf.eth0.log_martians=1"),
            (SYSCTLS, "net.ipv4.conf.IFNAME.../x=1"),
            (SYSCTLS, "kernel.a.b.IFNAME.x=1"),
            (SYSCTLS, "net.ipv4.conf.IFNAME.x"),
        ] {
            assert!(read(&[bad]).is_err(), "{bad:?}");
        }
    }
}
