//! Changes to the running device that leave every session alive that can be: a peer whose addresses or
//! endpoint change goes on with its keys.

use std::collections::HashSet;
use std::io;
use std::net::{Ipv6Addr, UdpSocket};

use gotatun::device::Peer;
use gotatun::device::configure::DeviceWrite;
use gotatun::device::uapi::command::{Set, SetPeer, SetUnset};
use gotatun::x25519::{PublicKey, StaticSecret};

use super::serve::Device;
use super::{tun, udp};

type Transports = (udp::Factory, tun::Writer, tun::Reader);

/// Moves the device to a UDP port; a port that is taken leaves it where it is.
pub(super) async fn listen(device: &Device, port: u16) -> io::Result<()> {
    probe(port)?;
    let moved = device.write(async |device| {
        device.set_listen_port(port);
        // Also opens the socket of a device that has no peers yet.
        if device.peers().await.is_empty() {
            device.clear_peers();
        }
    });
    moved.await.map_err(io::Error::other)
}

/// The device would give up its old socket before it finds the new port taken.
fn probe(port: u16) -> io::Result<()> {
    match UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => {
            UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, port)).map(drop)
        }
        result => result.map(drop),
    }
}

/// Applies a change; returns the errno and the peers that are new to the device and can be called.
pub(super) async fn apply(device: &Device, set: Set) -> (i32, Vec<PublicKey>) {
    match change(device, set).await {
        Ok(added) => (0, added),
        Err(e) => {
            tracing::warn!("change refused: {e}");
            (e.raw_os_error().unwrap_or(libc::EINVAL), Vec::new())
        }
    }
}

async fn change(device: &Device, set: Set) -> io::Result<Vec<PublicKey>> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
    if set.protocol_version.as_deref().is_some_and(|v| v != "1") {
        return Err(invalid("protocol_version is not 1"));
    }
    let mut keys = HashSet::new();
    if !set.peers.iter().all(|p| keys.insert(p.peer.public_key.0)) {
        return Err(invalid("a peer is given twice"));
    }
    if set.private_key.as_ref().is_some_and(|key| key.0 == [0; 32]) {
        return Err(invalid("the private key cannot be removed; delete the interface"));
    }
    if let Some(port) = set.listen_port
        && port != device.read(async |device| device.listen_port()).await
    {
        listen(device, port).await?;
    }
    let Set { private_key, fwmark, replace_peers, peers, .. } = set;
    let changed = device.write(async |device| {
        if let Some(key) = private_key {
            device.set_private_key(StaticSecret::from(key.0)).await;
        }
        if let Some(mark) = fwmark {
            let mark = match mark {
                SetUnset::Set(mark) => mark.get(),
                SetUnset::Unset => 0,
            };
            device.set_fwmark(mark).map_err(io::Error::other)?;
        }
        if replace_peers {
            for old in device.peers().await {
                if !keys.contains(old.peer.public_key.as_bytes()) {
                    device.remove_peer(&old.peer.public_key).await;
                }
            }
        }
        let mut added = Vec::new();
        for peer in peers {
            let key = PublicKey::from(peer.peer.public_key.0);
            if set_peer(device, &key, peer, replace_peers).await {
                added.push(key);
            }
        }
        Ok(added)
    });
    changed.await.map_err(io::Error::other)?
}

/// Applies one peer's part; `true` if it is new and has an endpoint.
async fn set_peer(
    device: &mut DeviceWrite<'_, Transports>,
    key: &PublicKey,
    set: SetPeer,
    replace: bool,
) -> bool {
    let SetPeer { peer, remove, update_only, replace_allowed_ips, .. } = set;
    if remove {
        device.remove_peer(key).await;
        return false;
    }
    let preshared = peer.preshared_key.map(|key| match key {
        SetUnset::Set(key) => Some(key.0),
        SetUnset::Unset => None,
    });
    let known = device
        .modify_peer(key, |found| {
            if let Some(endpoint) = peer.endpoint {
                found.set_endpoint(Some(endpoint));
            }
            if let Some(keepalive) = peer.persistent_keepalive_interval {
                found.set_keepalive((keepalive > 0).then_some(keepalive));
            }
            if let Some(preshared) = preshared {
                found.set_preshared_key(preshared);
            }
            if replace_allowed_ips || replace {
                found.clear_allowed_ips();
            }
            found.add_allowed_ips(peer.allowed_ip.iter().copied());
        })
        .await;
    if known || update_only {
        return false;
    }
    let mut new = Peer::new(*key).with_allowed_ips(peer.allowed_ip);
    new.endpoint = peer.endpoint;
    new.keepalive = peer.persistent_keepalive_interval.filter(|seconds| *seconds > 0);
    new.preshared_key = preshared.flatten();
    device.add_peer(new) && peer.endpoint.is_some()
}
