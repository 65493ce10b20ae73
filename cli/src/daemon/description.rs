//! What this node tells the swarm of itself.

use std::collections::BTreeMap;

use skep_proto::features::Feature;
use skep_proto::gpus::GPU;
use skep_proto::v1;

use super::node::NodeOptions;

/// The description of this host.
pub fn describe(options: &NodeOptions, labels: &[String], exchange_port: u16) -> v1::NodeDescription {
    let NodeOptions { engine, plane, generic, allowed, .. } = options;
    let (host, runtimes) = (engine.info(), engine.runtimes());
    let mut generic = generic.clone();
    // GPUs of CDI are told of unless the operator has resources of that kind.
    if !generic.iter().any(|g| g.kind == GPU) {
        let unit = |name| v1::GenericResource { kind: GPU.into(), name, amount: 0 };
        generic.extend(engine.gpus().into_iter().map(unit));
    }
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
        generic,
        allows: allowed.iter().map(|p| p.word().to_owned()).collect(),
        wireguard_public_key: plane.public_key(),
        keeps_client_address: plane.keeps_client_address(),
        keeps_client_address6: plane.keeps_client_address6(),
        addresses: plane.addresses().borrow().iter().map(ToString::to_string).collect(),
        has_idle_timeouts: plane.has_idle_timeouts(),
        takes_tunnels: true,
        exchange_port: exchange_port.into(),
        knows: Feature::ALL.map(|f| f.word().to_owned()).into(),
        default_runtime: if runtimes.default_is_own() { String::new() } else { runtimes.default.clone() },
        // Filled in by the agent, at each session.
        tls: None,
        certified_role: 0,
    }
}

/// The host's name.
pub fn hostname() -> String {
    nix::unistd::gethostname().map_or_else(|_| "localhost".into(), |n| n.to_string_lossy().into_owned())
}
