//! What this node tells the swarm of itself.

use std::collections::BTreeMap;

use skep_engine::Engine;
use skep_overlay::DataPlane;
use skep_proto::v1;

/// The description of this host.
pub fn describe(
    engine: &Engine,
    plane: &DataPlane,
    labels: &[String],
    generic: &[v1::GenericResource],
    exchange_port: u16,
) -> v1::NodeDescription {
    let host = engine.info();
    v1::NodeDescription {
        hostname: hostname(),
        platform: Some(v1::Platform { os: "linux".into(), architecture: host.arch.clone() }),
        resources: Some(v1::Resources {
            nano_cpus: i64::try_from(host.ncpu).unwrap_or(0).saturating_mul(1_000_000_000),
            memory_bytes: i64::try_from(host.mem_total).unwrap_or(i64::MAX),
            pids: 0,
        }),
        engine_version: env!("CARGO_PKG_VERSION").into(),
        engine_labels: labels
            .iter()
            .filter_map(|l| l.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect::<BTreeMap<_, _>>(),
        generic: generic.to_vec(),
        wireguard_public_key: plane.public_key(),
        keeps_client_address: plane.keeps_client_address(),
        takes_tunnels: true,
        exchange_port: exchange_port.into(),
        // Filled in by the agent, at each session.
        tls: None,
    }
}

/// The host's name.
pub fn hostname() -> String {
    nix::unistd::gethostname().map_or_else(|_| "localhost".into(), |n| n.to_string_lossy().into_owned())
}
