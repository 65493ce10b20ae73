//! The data plane in figures: how often it had to put something right, and how the tunnel's peers do.

use prometheus::proto::MetricFamily;
use skep_overlay::DataPlane;

use super::Snapshot;

pub(super) async fn read(plane: &DataPlane) -> Result<Vec<MetricFamily>, prometheus::Error> {
    let f = plane.figures();
    let s = Snapshot::default();
    s.counter(
        "skep_network_reconciliations_total",
        "Comparisons of the whole data plane with the kernel",
        f.comparisons as f64,
    )?;
    s.counter(
        "skep_network_reconciliations_failed_total",
        "Comparisons after which not everything was in order",
        f.failures as f64,
    )?;
    s.counter(
        "skep_network_repairs_total",
        "Links, addresses and routes that were not as they should be and were put right",
        f.repairs as f64,
    )?;
    s.gauge("skep_network_bridges", "The number of bridge networks", f.bridges as f64)?;
    s.gauge("skep_network_containers", "The number of containers with a network", f.containers as f64)?;
    let peers = match plane.peers().await {
        Ok(peers) => peers,
        Err(error) => {
            // Everything else is known all the same.
            tracing::warn!(%error, "the tunnel does not tell of its peers");
            s.gauge("skep_wireguard_up", "Whether the tunnel answers", 0.0)?;
            return Ok(s.families());
        }
    };
    s.gauge("skep_wireguard_up", "Whether the tunnel answers", 1.0)?;
    s.gauge("skep_wireguard_peers", "The number of peers of the tunnel", peers.len() as f64)?;
    let keyed = |value: fn(&skep_overlay::wireguard::PeerState) -> Option<f64>| {
        peers.iter().filter_map(move |p| Some((p.public_key.as_str(), value(p)?)))
    };
    // Nothing is told of a peer that never answered.
    s.gauges(
        (
            "skep_wireguard_peer_handshake_age_seconds",
            "Time since the last handshake with a peer; there is one every two minutes while something is sent",
            "public_key",
        ),
        keyed(|p| Some(p.last_handshake?.elapsed().unwrap_or_default().as_secs_f64())),
    )?;
    s.counters(
        ("skep_wireguard_peer_receive_bytes_total", "Bytes received from a peer", "public_key"),
        keyed(|p| Some(p.rx_bytes as f64)),
    )?;
    s.counters(
        ("skep_wireguard_peer_transmit_bytes_total", "Bytes sent to a peer", "public_key"),
        keyed(|p| Some(p.tx_bytes as f64)),
    )?;
    Ok(s.families())
}
