//! Connections of services that say how long theirs may be idle: what begins one gets its timeout, last of all, once its
//! destination is translated. One that was forgotten is reset where it came in: with nothing left that knows it, its next
//! packet would be led to any task.

use super::{FILTER, MANGLE, base};
use crate::nft::{Chain, Family, OUTPUT, POSTROUTING, Rule};
use crate::vip::SwarmMaps;

/// Chains of its own; without rules where no service asks for it.
pub fn chains(family: Family, maps: &SwarmMaps) -> [(&'static str, Chain); 2] {
    let begins = is_needed(family, maps)
        .then(|| Rule::about(family, "connection with a timeout of its own").starts().times_out_by("idle"));
    [
        ("idle", base("filter", POSTROUTING, MANGLE, begins.into_iter().collect())),
        ("idle_own", base("filter", OUTPUT, FILTER, forgotten(family, maps).into_iter().collect())),
    ]
}

/// Resets what goes on with a connection that was forgotten; those that are known have passed before.
pub fn forgotten(family: Family, maps: &SwarmMaps) -> Option<Rule> {
    let rule = Rule::about(family, "connection that was forgotten").starts().translated();
    is_needed(family, maps).then(|| rule.opens_midway().keyed_in("idle").reset())
}

fn is_needed(family: Family, maps: &SwarmMaps) -> bool {
    let [four, six] = &maps.timeouts;
    !(if family == Family::V4 { four } else { six }).is_empty()
}
