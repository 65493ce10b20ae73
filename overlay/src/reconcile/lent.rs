//! A bridge of the user's, while a network is on it: the kernel's settings that it had before, to be put back when the
//! network leaves it.

use std::collections::BTreeMap;

use super::wire::SETTINGS;
use crate::error::{Error, Result};
use crate::state::Bridge;
use crate::sysctl;

fn key(interface: &str, setting: &str) -> String {
    format!("ipv4/conf/{interface}/{setting}")
}

/// The settings of an interface as they are without us. One that is not ours was set by somebody since, or by a new start of
/// the host; one that is was what `held` says, where the network is on that interface already.
pub fn earlier(interface: &str, held: Option<&Bridge>) -> BTreeMap<String, String> {
    let held = held.filter(|b| b.foreign && b.interface == interface);
    let all = SETTINGS.into_iter().filter_map(|(setting, ours)| {
        let now = sysctl::read(&key(interface, setting))?;
        let before = match held {
            Some(held) if now == ours => held.lent.get(setting).cloned()?,
            _ => now,
        };
        Some((setting.to_owned(), before))
    });
    all.collect()
}

/// Puts back what is still as we set it.
pub fn give_back(bridge: &Bridge) -> Result<()> {
    let all = SETTINGS.into_iter().filter_map(|(setting, ours)| {
        let (key, before) = (key(&bridge.interface, setting), bridge.lent.get(setting)?);
        // None: the interface is gone.
        (sysctl::read(&key)? == ours).then(|| sysctl::write(&key, before))
    });
    Error::gather(all.filter_map(Result::err).collect())
}
