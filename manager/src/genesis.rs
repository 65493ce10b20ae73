//! The objects a new cluster begins with: itself, its first node, and the ingress network.

use rand::Rng;
use skep_identity::{Host, JoinToken, RootCa, UnlockKey};
use skep_proto::v1::{self, NodeRole};
use skep_proto::{defaults, ids};

use crate::allocator::Cidr;
use crate::ca::new_node;
use crate::control::with_defaults;
use crate::raft::Timing;
use crate::store::change::put;

/// What `swarm init` decides. Empty and zero stand for the defaults.
#[derive(Clone, Debug, Default)]
pub struct InitOptions {
    /// Settings of the cluster.
    pub spec: v1::ClusterSpec,
    /// Availability of the first node.
    pub availability: v1::NodeAvailability,
    /// Name of the first node.
    pub hostname: String,
    /// Pools overlay networks are cut from.
    pub address_pools: Vec<String>,
    /// Prefix length of each network.
    pub subnet_size: u32,
    /// UDP port of the data path.
    pub data_path_port: u32,
    /// Raft's periods on the first manager.
    pub timing: Timing,
    /// The host of the first manager.
    pub host: Host,
}

/// Refuses what cannot be a cluster's address plan.
pub(crate) fn check(init: &InitOptions) -> Result<(), String> {
    if init.subnet_size != 0 && !(8..=28).contains(&init.subnet_size) {
        return Err(format!("subnet size {} is not between 8 and 28", init.subnet_size));
    }
    let mut pools: Vec<Cidr> = Vec::new();
    for pool in &init.address_pools {
        let cidr: Cidr = pool.parse().map_err(|e| format!("address pool: {e}"))?;
        if init.subnet_size != 0 && cidr.size() < 1 << (32 - init.subnet_size) {
            return Err(format!("address pool {pool} is smaller than one network of /{}", init.subnet_size));
        }
        if let Some(other) = pools.iter().find(|o: &&Cidr| o.overlaps(cidr)) {
            return Err(format!(
                "address pools {other} and {cidr} overlap: give ranges apart from each other"
            ));
        }
        pools.push(cidr);
    }
    if init.data_path_port != 0 && !(1024..=49151).contains(&init.data_path_port) {
        return Err(format!("data path port {} is not between 1024 and 49151", init.data_path_port));
    }
    crate::control::check_cluster_spec(&init.spec).map_err(|status| status.message().to_owned())
}

pub(crate) fn objects(
    init: &InitOptions,
    ca: &RootCa,
    unlock_key: Option<&UnlockKey>,
    node_id: &str,
    manager: v1::ManagerStatus,
    rng: &mut impl Rng,
) -> Vec<v1::Change> {
    let token = |rng: &mut _| JoinToken::generate(ca.digest(), rng).to_string();
    let or = |value: u32, default: u32| if value == 0 { default } else { value };
    let pools = if init.address_pools.is_empty() {
        vec![defaults::ADDRESS_POOL.to_owned()]
    } else {
        init.address_pools.clone()
    };
    let cluster = v1::Cluster {
        id: ca.cluster_id().as_str().to_owned(),
        meta: None,
        spec: Some(with_defaults(init.spec.clone())),
        root_ca_pem: ca.cert_pem().to_owned(),
        root_key_pem: ca.key_pem().to_owned(),
        worker_token: token(rng),
        manager_token: token(rng),
        address_pools: pools,
        subnet_size: or(init.subnet_size, defaults::SUBNET_SIZE),
        data_path_port: or(init.data_path_port, defaults::DATA_PATH_PORT.into()),
        node_pool: defaults::NODE_POOL.to_owned(),
        unlock_key: unlock_key.map(ToString::to_string).unwrap_or_default(),
        last_forced_rotation: init.spec.force_rotate,
        ..Default::default()
    };
    let node = v1::Node {
        manager: Some(manager),
        ..new_node(node_id, NodeRole::Manager, init.availability.into(), &init.hostname)
    };
    let ingress = v1::Network {
        id: ids::random(rng),
        spec: Some(v1::NetworkSpec {
            annotations: Some(v1::Annotations { name: "ingress".to_owned(), ..Default::default() }),
            driver: "overlay".to_owned(),
            ingress: true,
            ..Default::default()
        }),
        ..Default::default()
    };
    vec![put(cluster), put(node), put(ingress)]
}
