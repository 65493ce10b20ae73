//! Peers as wanted and as found, and the smallest change that leads from one to the other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use wireguard_control::{DeviceUpdate, Key, PeerConfigBuilder, PeerInfo};

use super::Error;
use crate::cidr::Address;
use crate::desired::{Cidr, Cidr6};

/// A peer as wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Base64 public key.
    pub public_key: String,
    /// Where its WireGuard listens.
    pub endpoint: SocketAddr,
    /// What it may send from, and what is sent to it.
    pub allowed_ips: Vec<Cidr>,
    /// The same of IPv6.
    pub allowed_ips6: Vec<Cidr6>,
}

/// A peer as the device has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerState {
    /// Base64 public key.
    pub public_key: String,
    /// Where packets go now: what was configured, or where the peer was last heard from.
    pub endpoint: Option<SocketAddr>,
    /// Its address ranges, sorted.
    pub allowed_ips: Vec<Cidr>,
    /// The same of IPv6.
    pub allowed_ips6: Vec<Cidr6>,
    /// Last completed handshake.
    pub last_handshake: Option<SystemTime>,
    /// Bytes received from it.
    pub rx_bytes: u64,
    /// Bytes sent to it.
    pub tx_bytes: u64,
}

impl From<&PeerInfo> for PeerState {
    fn from(info: &PeerInfo) -> Self {
        let allowed: BTreeSet<Cidr> = info.config.allowed_ips.iter().filter_map(v4).collect();
        let allowed6: BTreeSet<Cidr6> = info.config.allowed_ips.iter().filter_map(v6).collect();
        Self {
            public_key: info.config.public_key.to_base64(),
            endpoint: info.config.endpoint,
            allowed_ips: allowed.into_iter().collect(),
            allowed_ips6: allowed6.into_iter().collect(),
            last_handshake: info.stats.last_handshake_time,
            rx_bytes: info.stats.rx_bytes,
            tx_bytes: info.stats.tx_bytes,
        }
    }
}

fn v4(allowed: &wireguard_control::AllowedIp) -> Option<Cidr> {
    match allowed.address {
        IpAddr::V4(addr) => Some(Cidr { addr, len: allowed.cidr }),
        IpAddr::V6(_) => None,
    }
}

fn v6(allowed: &wireguard_control::AllowedIp) -> Option<Cidr6> {
    match allowed.address {
        IpAddr::V6(addr) => Some(Cidr6 { addr, len: allowed.cidr }),
        IpAddr::V4(_) => None,
    }
}

/// `10.1.2.3/24` is `10.1.2.0/24`, which is how the device will report it.
fn masked<A: Address>(ranges: &[crate::cidr::Cidr<A>]) -> BTreeSet<crate::cidr::Cidr<A>> {
    ranges.iter().map(crate::cidr::Cidr::network).collect()
}

/// The change from what the device has to what is wanted; `None` when there is none.
///
/// `given` is the endpoint last configured for each peer by this process: a peer that has since been
/// heard from elsewhere keeps the address it was heard from, until the wanted endpoint itself changes.
pub(super) fn difference(
    have: &[PeerState],
    want: &[PeerConfig],
    given: &BTreeMap<String, SocketAddr>,
) -> Result<Option<DeviceUpdate>, Error> {
    let have: BTreeMap<&str, &PeerState> = have.iter().map(|p| (p.public_key.as_str(), p)).collect();
    let mut wanted = BTreeSet::new();
    let mut changes = Vec::new();
    for peer in want {
        let bad = || Error::BadPeerKey { key: peer.public_key.clone(), endpoint: peer.endpoint };
        let key = Key::from_base64(&peer.public_key).map_err(|_| bad())?;
        // The canonical spelling, so that the two sides compare.
        let name = key.to_base64();
        if !wanted.insert(name.clone()) {
            return Err(Error::DuplicatePeer { key: name });
        }
        let (allowed, allowed6) = (masked(&peer.allowed_ips), masked(&peer.allowed_ips6));
        let mut change = PeerConfigBuilder::new(&key);
        let found = have.get(name.as_str());
        let same_addresses = found.is_some_and(|f| {
            f.allowed_ips.iter().eq(allowed.iter()) && f.allowed_ips6.iter().eq(allowed6.iter())
        });
        let same_endpoint = found.is_some_and(|f| {
            f.endpoint == Some(peer.endpoint)
                || (f.endpoint.is_some() && given.get(&name) == Some(&peer.endpoint))
        });
        if same_addresses && same_endpoint {
            continue;
        }
        if !same_endpoint {
            change = change.set_endpoint(peer.endpoint);
        }
        if !same_addresses {
            change = change.replace_allowed_ips();
            for cidr in &allowed {
                change = change.add_allowed_ip(IpAddr::V4(cidr.addr), cidr.len);
            }
            for cidr in &allowed6 {
                change = change.add_allowed_ip(IpAddr::V6(cidr.addr), cidr.len);
            }
        }
        changes.push(change);
    }
    let gone = have.keys().filter(|key| !wanted.contains(**key)).filter_map(|key| Key::from_base64(key).ok());
    // Removals first: an address range may move from a removed peer to another.
    let mut all: Vec<_> = gone.map(|key| PeerConfigBuilder::new(&key).remove()).collect();
    all.append(&mut changes);
    Ok((!all.is_empty()).then(|| DeviceUpdate::new().add_peers(&all)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> String {
        Key([n; 32]).to_base64()
    }
    fn cidr(s: &str) -> Cidr {
        s.parse().expect("network")
    }
    fn want(n: u8, endpoint: &str, allowed: &[&str]) -> PeerConfig {
        PeerConfig {
            public_key: key(n),
            endpoint: endpoint.parse().expect("endpoint"),
            allowed_ips: allowed.iter().filter(|s| !s.contains(':')).map(|s| cidr(s)).collect(),
            allowed_ips6: six(allowed),
        }
    }
    fn six(allowed: &[&str]) -> Vec<Cidr6> {
        let six = allowed.iter().filter(|s| s.contains(':'));
        six.map(|s| s.parse().expect("network")).collect()
    }
    fn have(n: u8, endpoint: &str, allowed: &[&str]) -> PeerState {
        PeerState {
            public_key: key(n),
            endpoint: Some(endpoint.parse().expect("endpoint")),
            allowed_ips: allowed.iter().filter(|s| !s.contains(':')).map(|s| cidr(s)).collect(),
            allowed_ips6: six(allowed),
            last_handshake: None,
            rx_bytes: 0,
            tx_bytes: 0,
        }
    }
    fn shown(update: Option<DeviceUpdate>) -> String {
        format!("{update:?}")
    }

    #[test]
    fn nothing_changes_when_nothing_differs() {
        let update = difference(
            &[have(1, "1.1.1.1:1", &["10.0.0.0/24", "10.0.1.0/24", "fd00::/126"])],
            &[want(1, "1.1.1.1:1", &["10.0.1.0/24", "10.0.0.7/24", "fd00::2/126"])],
            &BTreeMap::new(),
        );
        assert!(update.expect("valid").is_none());
    }

    #[test]
    fn a_roamed_peer_is_left_where_it_was_heard() {
        let given = BTreeMap::from([(key(1), "1.1.1.1:1".parse().expect("endpoint"))]);
        let have = [have(1, "9.9.9.9:9", &[])];
        assert!(difference(&have, &[want(1, "1.1.1.1:1", &[])], &given).expect("valid").is_none());
        let moved = shown(difference(&have, &[want(1, "2.2.2.2:2", &[])], &given).expect("valid"));
        assert!(moved.contains("2.2.2.2:2"), "{moved}");
        // A new daemon does not know what was given before: it configures what is wanted.
        assert!(difference(&have, &[want(1, "1.1.1.1:1", &[])], &BTreeMap::new()).expect("valid").is_some());
    }

    #[test]
    fn only_what_differs_is_sent() {
        let update = difference(
            &[
                have(1, "1.1.1.1:1", &["10.0.0.0/24"]),
                have(2, "2.2.2.2:2", &["10.0.1.0/24"]),
                have(3, "3.3.3.3:3", &[]),
            ],
            &[
                want(1, "1.1.1.1:1", &["10.0.0.0/24"]),
                want(2, "2.2.2.2:2", &["10.0.1.0/24", "10.0.2.0/24", "fd00::8/126"]),
            ],
            &BTreeMap::new(),
        );
        let text = shown(update.expect("valid"));
        assert!(!text.contains("1.1.1.1") && !text.contains("2.2.2.2:2"), "{text}");
        assert!(text.contains("10.0.2.0/24") && text.contains("fd00::8"), "{text}");
        assert_eq!(text.matches("remove_me: true").count(), 1, "{text}");
    }

    #[test]
    fn bad_input_is_named() {
        let mut bad = want(1, "1.1.1.1:1", &[]);
        bad.public_key = "short".into();
        let error = difference(&[], &[bad], &BTreeMap::new()).expect_err("bad key").to_string();
        assert!(error.contains("short") && error.contains("1.1.1.1:1"), "{error}");
        let twice = [want(1, "1.1.1.1:1", &[]), want(1, "2.2.2.2:2", &[])];
        assert!(difference(&[], &twice, &BTreeMap::new()).is_err());
    }
}
