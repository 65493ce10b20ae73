//! Defaults of the swarm that more than one part must agree on.

use std::time::Duration;

/// Heartbeat period asked of agents; a node is down after [`HEARTBEAT_GRACE`] missed ones.
pub const HEARTBEAT: Duration = Duration::from_secs(2);
/// Missed heartbeats after which a node is down.
pub const HEARTBEAT_GRACE: u32 = 3;
/// TCP port managers serve gRPC on.
pub const MANAGER_PORT: u16 = 2377;
/// TCP port that nodes hand images to each other on, where it is free (Docker's port for traffic between nodes).
pub const EXCHANGE_PORT: u16 = 7946;
/// Addresses of its own that a node tells others of, and that are taken from it, at most: all nodes keep rules about them.
pub const HOST_ADDRESSES: usize = 256;
/// UDP port of the WireGuard data path.
pub const DATA_PATH_PORT: u16 = 4789;
/// Delay before a failed task is started again (Docker: 5 s).
pub const RESTART_DELAY: Duration = Duration::from_secs(5);
/// Time a task has between its stop signal and SIGKILL.
pub const STOP_GRACE: Duration = Duration::from_secs(10);
/// Time a task that is to stop has for the connections it has, once it gets no new ones.
pub const DRAIN: Duration = Duration::from_secs(1);
/// Time an updated task is watched for failure.
pub const UPDATE_MONITOR: Duration = Duration::from_secs(5);
/// Finished tasks kept per slot.
pub const TASK_HISTORY: i64 = 5;
/// Lifetime of a node certificate.
pub const CERT_EXPIRY: Duration = Duration::from_secs(90 * 24 * 3600);
/// Log entries between raft snapshots.
pub const SNAPSHOT_INTERVAL: u64 = 10_000;
/// Pool overlay networks are cut from.
pub const ADDRESS_POOL: &str = "10.0.0.0/8";
/// Prefix length of a network cut from the pool: room for blocks of many nodes.
pub const SUBNET_SIZE: u32 = 20;
/// Pool of the nodes' own overlay addresses (RFC 6598 shared address space).
pub const NODE_POOL: &str = "100.64.0.0/16";
/// Ports the allocator publishes on when the user names none.
pub const PUBLISHED_PORTS: std::ops::RangeInclusive<u32> = 30000..=32767;
