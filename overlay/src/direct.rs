//! Networks whose containers sit directly on an interface of the host, by macvlan or ipvlan: the host routes and
//! filters nothing of theirs, and publishes no ports.

use std::collections::BTreeMap;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::link::{Links, Upper, step};
use crate::model::{BridgeSpec, LocalDriver};
use crate::state::{Bridge, State};

const PARENT: &str = "parent";
const MACVLAN_MODE: &str = "macvlan_mode";
const IPVLAN_MODE: &str = "ipvlan_mode";
const IPVLAN_FLAG: &str = "ipvlan_flag";
/// What the interfaces are called that stand for a parent where none is given, and, with a network's ID, the length of it.
const DUMMY: &str = "dm-";
const DUMMY_ID: usize = 12;

/// How a network's containers sit on their parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Direct {
    /// What the containers' interfaces are.
    pub upper: Upper,
    /// The parent is ours: made with the network where it was missing, and gone with it.
    pub made: bool,
}

fn refused(words: impl Into<String>) -> Error {
    Error::Parent(words.into())
}

/// The options that mean nothing to a network's driver.
pub fn unknown(spec: &BridgeSpec) -> impl Iterator<Item = &String> {
    let known: &[&str] = match spec.driver {
        LocalDriver::Ipvlan => &[PARENT, IPVLAN_MODE, IPVLAN_FLAG],
        _ => &[PARENT, MACVLAN_MODE],
    };
    spec.options.keys().filter(move |name| !known.contains(&name.as_str()))
}

/// Reads the options of a network's driver: the parent's name (none = one of our own), and how containers sit on it.
pub fn read(spec: &BridgeSpec) -> Result<(Option<String>, Upper)> {
    let text = |name: &str| spec.options.get(name).map_or("", String::as_str);
    let parent = Some(text(PARENT)).filter(|p| !p.is_empty());
    let driver = spec.driver.as_str();
    if parent == Some("lo") {
        return Err(refused(format!("loopback interface is not a valid {driver} parent link")));
    }
    // The kernel does not even look for one that is longer.
    if let Some(name) = parent.filter(|name| name.len() > 15) {
        return Err(refused(format!(
            "an interface cannot be called {name}: names have at most 15 characters"
        )));
    }
    let upper = match spec.driver {
        LocalDriver::Ipvlan => Upper::Ipvlan {
            mode: match text(IPVLAN_MODE) {
                "" | "l2" => Upper::L2,
                "l3" => 1,
                "l3s" => 2,
                other => {
                    return Err(refused(format!(
                        "requested ipvlan mode '{other}' is not valid, 'l2' mode is the ipvlan driver default"
                    )));
                }
            },
            flag: match text(IPVLAN_FLAG) {
                "" | "bridge" => 0,
                "private" => 1,
                "vepa" => 2,
                other => {
                    return Err(refused(format!(
                        "requested ipvlan flag '{other}' is not valid, 'bridge' is the ipvlan driver default"
                    )));
                }
            },
        },
        _ => Upper::Macvlan {
            mode: match text(MACVLAN_MODE) {
                "private" => 1,
                "vepa" => 2,
                "" | "bridge" => 4,
                "passthru" => Upper::PASSTHRU,
                other => {
                    return Err(refused(format!(
                        "requested macvlan mode '{other}' is not valid, 'bridge' mode is the macvlan driver default"
                    )));
                }
            },
        },
    };
    Ok((parent.map(str::to_owned), upper))
}

/// The name of a parent that is ours.
pub fn dummy(network_id: &str) -> String {
    format!("{DUMMY}{}", network_id.get(..DUMMY_ID).unwrap_or(network_id))
}

/// Checks that the networks there are leave room for one more on this parent.
pub fn check_shared(state: &State, parent: &str, upper: &Upper) -> Result<()> {
    for other in state.direct.values().filter(|n| n.interface == parent) {
        let theirs = other.direct.as_ref().map(|d| &d.upper);
        let passthru = |u: &Upper| *u == Upper::Macvlan { mode: Upper::PASSTHRU };
        return Err(refused(match (upper, theirs) {
            (Upper::Macvlan { .. }, Some(Upper::Macvlan { .. })) if passthru(upper) => format!(
                "cannot use mode passthru, macvlan network {} is already using parent interface {parent}",
                other.id
            ),
            (Upper::Macvlan { .. }, Some(theirs @ Upper::Macvlan { .. })) if passthru(theirs) => format!(
                "macvlan network {} is already using parent interface {parent} in mode passthru",
                other.id
            ),
            (Upper::Macvlan { .. }, Some(Upper::Macvlan { .. })) => continue,
            _ => format!("network {} is already using parent interface {parent}", other.id),
        }));
    }
    Ok(())
}

/// Makes a network's parent where it is missing.
///
/// # Errors
/// It is not there, and its name is none of an interface that can be made.
pub fn raise(host: &mut Links, network: &Bridge) -> Result<()> {
    let name = &network.interface;
    if host.find(name)?.is_some() {
        return Ok(());
    }
    let made = if *name == dummy(&network.id) {
        step::dummy(name)
    } else {
        let (below, id) = vlan(name)?;
        let below = host
            .find(below)?
            .ok_or_else(|| refused(format!("-o parent interface does not exist on the host: {below}")))?;
        step::vlan(name, below.index, id)
    };
    host.run(vec![made], &[Errno::EEXIST])?;
    let index = host.index(name)?;
    host.run(vec![step::set(index, None, None)], &[])
}

/// `eth0.10`: the interface below and the VLAN's number.
fn vlan(name: &str) -> Result<(&str, u16)> {
    let parts: Vec<&str> = name.split('.').collect();
    let [below, id] = parts[..] else {
        return Err(refused(format!(
            "invalid subinterface vlan name {name}, example formatting is eth0.10; this host has no interface {name}"
        )));
    };
    let id: u16 = id.parse().map_err(|_| {
        refused(format!("unable to parse a valid vlan id from: {id} (ex. eth0.10 for vlan 10)"))
    })?;
    if !(1..=4094).contains(&id) {
        return Err(refused(format!("vlan id must be between 1-4094, received: {id}")));
    }
    Ok((below, id))
}

/// Takes a network out of those there are. Its parent, if it is ours, goes to another network that uses it; else its
/// name is told, to be removed.
pub fn release(direct: &mut BTreeMap<String, Bridge>, name: &str) -> Option<String> {
    let gone = direct.remove(name)?;
    if !gone.direct.as_ref().is_some_and(|d| d.made) {
        return None;
    }
    let heir = direct.values_mut().find(|n| n.interface == gone.interface);
    match heir.and_then(|n| n.direct.as_mut()) {
        Some(heir) => {
            heir.made = true;
            None
        }
        None => Some(gone.interface),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(driver: LocalDriver, options: &[(&str, &str)]) -> BridgeSpec {
        let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        BridgeSpec { driver, options, ..BridgeSpec::default() }
    }

    #[test]
    fn options_are_dockers_and_what_is_not_known_or_valid_is_named() {
        let (parent, upper) = read(&spec(LocalDriver::Macvlan, &[])).expect("none");
        assert_eq!((parent, upper), (None, Upper::Macvlan { mode: 4 }));
        let l3 = [("parent", "eth0.10"), ("ipvlan_mode", "l3s"), ("ipvlan_flag", "vepa")];
        let (parent, upper) = read(&spec(LocalDriver::Ipvlan, &l3)).expect("all");
        assert_eq!((parent.as_deref(), &upper), (Some("eth0.10"), &Upper::Ipvlan { mode: 2, flag: 2 }));
        assert!(upper.is_layer3());
        let strange = spec(LocalDriver::Macvlan, &[("ipvlan_mode", "l2"), ("parent", "eth0")]);
        assert_eq!(unknown(&strange).collect::<Vec<_>>(), ["ipvlan_mode"]);
        for (driver, option, word) in [
            (LocalDriver::Macvlan, ("macvlan_mode", "x"), "requested macvlan mode 'x'"),
            (LocalDriver::Macvlan, ("parent", "lo"), "loopback interface is not a valid macvlan parent link"),
            (LocalDriver::Macvlan, ("parent", "longinterfacename.1"), "at most 15 characters"),
            (LocalDriver::Ipvlan, ("ipvlan_mode", "l4"), "requested ipvlan mode 'l4'"),
            (LocalDriver::Ipvlan, ("ipvlan_flag", "x"), "requested ipvlan flag 'x'"),
        ] {
            let error = read(&spec(driver, &[option])).expect_err(word).to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn vlans_are_told_by_their_names() {
        assert_eq!(vlan("eth0.10").ok(), Some(("eth0", 10)));
        for bad in ["eth9", "eth0.0", "eth0.4095", "eth0.x", "a.b.1"] {
            assert!(vlan(bad).is_err(), "{bad}");
        }
        assert_eq!(dummy(&"ab".repeat(32)).len(), 15);
    }
}
