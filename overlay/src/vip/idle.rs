//! How long connections with tasks may be idle, by the task's address: so it holds for published ports and virtual
//! addresses once they are translated, and on the task's own node.

use std::collections::BTreeMap;

use super::key;
use crate::cidr::Address;
use crate::desired::{Backend, Desired, IdleTimeout};
use crate::nft::{Field, Set, TCP, Timeout, UDP};

/// The map from protocol and address to the timeout, and all timeouts it names.
pub fn map<A: Address>(
    desired: &Desired,
    field: Field,
    addr: impl Fn(&Backend) -> Option<A>,
) -> (Set, BTreeMap<String, Timeout>) {
    let mut map = Set::timeouts(&[Field::Protocol, field]);
    let services = desired.networks.values().flat_map(|n| &n.services).map(|s| (s.idle, &s.backends));
    let all = services.chain(desired.ports.iter().map(|p| (p.idle, &p.backends)));
    let mut named = BTreeMap::new();
    for (idle, backends) in all.filter(|(idle, _)| *idle != IdleTimeout::default()) {
        for (protocol, seconds) in [(TCP, idle.tcp), (UDP, idle.udp)] {
            let Some(seconds) = seconds else { continue };
            let timeout = Timeout { protocol, seconds };
            for addr in backends.iter().filter_map(&addr) {
                map.set_timeout(key(&[&[protocol], &addr.bytes()]), timeout);
                named.insert(timeout.name(), timeout);
            }
        }
    }
    (map, named)
}
