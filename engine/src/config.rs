//! What a container is asked to be and what it is: the engine's own model, independent of Docker's JSON.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::health::{Health, HealthConfig};
use crate::lsm::{Confined, SecurityLabels};
use crate::mount::MountConfig;
use crate::network::{BoundPort, Endpoint};

/// 64 hex characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContainerId(pub String);

impl ContainerId {
    /// The identifier as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for ContainerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A stop that waits as long as it takes.
pub const PATIENT: Duration = Duration::from_secs(u32::MAX as u64);

/// How a container is connected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// A new namespace with only a loopback interface.
    #[default]
    None,
    /// The host's namespace.
    Host,
    /// The namespace of another container (ID or name).
    Container(String),
    /// A namespace that [`crate::Networking`] prepares, joined to these networks; the first is the
    /// one the container was created with.
    Networks(Vec<NetworkJoin>),
}

/// One network to join.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkJoin {
    /// Network ID or name.
    pub network: String,
    /// Address asked for, or decided by the swarm's allocator.
    pub addr: Option<IpAddr>,
    /// IPv6 address asked for.
    #[serde(default)]
    pub addr6: Option<Ipv6Addr>,
    /// Link-local addresses to have besides.
    #[serde(default)]
    pub link_local: Vec<IpAddr>,
    /// Further DNS names.
    pub aliases: Vec<String>,
    /// Hardware address asked for.
    #[serde(default)]
    pub mac: Option<[u8; 6]>,
    /// Names by which it alone knows other containers of the network: container name or ID, and alias.
    #[serde(default)]
    pub links: Vec<(String, String)>,
    /// The way out is by the network with the highest.
    #[serde(default)]
    pub gw_priority: i64,
    /// Options of the network's driver.
    #[serde(default)]
    pub driver_opts: BTreeMap<String, String>,
}

/// A port to publish on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortBinding {
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Port inside the container.
    pub container_port: u16,
    /// Address on the host; none = all.
    pub host_ip: Option<IpAddr>,
    /// Instead of an address: on those that this interface of the host has, as they come and go.
    #[serde(default)]
    pub interface: Option<String>,
    /// Port on the host; 0 = any free one.
    pub host_port: u16,
    /// With a port on the host: any free one from that to this; 0 = that port only.
    #[serde(default)]
    pub host_port_end: u16,
}

/// What a rate of block I/O limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IoRate {
    /// Bytes read per second.
    ReadBytes,
    /// Bytes written per second.
    WriteBytes,
    /// Reads per second.
    ReadOperations,
    /// Writes per second.
    WriteOperations,
}

/// A rate of block I/O of one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRate {
    /// The device's node on the host.
    pub path: std::path::PathBuf,
    /// What is limited.
    pub limit: IoRate,
    /// Per second; 0 = no limit.
    pub rate: u64,
}

/// A weight of block I/O of one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceWeight {
    /// The device's node on the host.
    pub path: std::path::PathBuf,
    /// 10 to 1000.
    pub weight: u16,
}

/// Limits, by cgroup v1 or v2 whichever the host has. None = no limit; in an update, as before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourceLimits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of memory + swap; -1 = unlimited swap.
    pub memory_swap: Option<i64>,
    /// Billionths of a CPU.
    pub nano_cpus: Option<u64>,
    /// Relative weight (2-262144, Docker's `--cpu-shares`).
    pub cpu_shares: Option<u64>,
    /// Processes; -1 = no limit.
    pub pids: Option<i64>,
    /// Bytes of memory that it is pushed back to when the host runs short.
    pub memory_reservation: Option<u64>,
    /// How readily it is swapped out, 0 to 100 (cgroups v1).
    pub memory_swappiness: Option<u64>,
    /// At its memory limit processes wait instead of being killed (cgroups v1).
    pub oom_kill_disable: bool,
    /// Microseconds of CPU in each period; -1 = no limit.
    pub cpu_quota: Option<i64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// Microseconds of each period that its real-time processes may run (cgroups v1).
    pub cpu_rt_runtime: Option<i64>,
    /// That period, in microseconds.
    pub cpu_rt_period: Option<i64>,
    /// CPUs it may run on (`0-2,5`).
    pub cpuset_cpus: Option<String>,
    /// Memory nodes it may use.
    pub cpuset_mems: Option<String>,
    /// Relative weight of its block I/O, 10 to 1000.
    pub blkio_weight: Option<u16>,
    /// The same for single devices.
    pub blkio_weight_devices: Vec<DeviceWeight>,
    /// Rates of single devices.
    pub blkio_rates: Vec<DeviceRate>,
}

impl ResourceLimits {
    /// Bytes of memory + swap: as asked for, else, as Docker, twice the memory; -1 = unlimited swap, none = no limit.
    pub fn memory_and_swap(&self) -> Option<i64> {
        let twice = |m: u64| i64::try_from(m.saturating_mul(2)).unwrap_or(i64::MAX);
        self.memory_swap.filter(|t| *t != 0).or_else(|| self.memory.filter(|m| *m > 0).map(twice))
    }

    /// Whether anything of it is about real-time processes.
    pub fn is_real_time(&self) -> bool {
        self.cpu_rt_period.is_some() || self.cpu_rt_runtime.is_some()
    }

    /// Whether anything of it is about block I/O.
    pub fn limits_io(&self) -> bool {
        self.blkio_weight.is_some() || !self.blkio_weight_devices.is_empty() || !self.blkio_rates.is_empty()
    }
}

/// `RLIMIT_*` by Docker's name (`nofile`, ...).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UlimitConfig {
    /// Lower-case name without `RLIMIT_`.
    pub name: String,
    /// Soft limit; -1 = unlimited.
    pub soft: i64,
    /// Hard limit; -1 = unlimited.
    pub hard: i64,
}

/// When the engine starts an exited container again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// Never (also every swarm task: its supervisor is the manager).
    #[default]
    No,
    /// Always, also after the daemon starts.
    Always,
    /// As `Always`, except when a user stopped it.
    UnlessStopped,
    /// After a non-zero exit, at most this often (0 = no limit).
    OnFailure(u32),
}

/// A size with an optional unit (`10m`, `1gb`, `512`), in powers of 1024 as Docker reads it.
pub fn parse_size(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let number = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match lower.get(number.len()..)? {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return None,
    };
    let number = number.trim_end();
    match number.parse::<u64>() {
        Ok(n) => n.checked_mul(1 << shift),
        // As `1.5g`. What is cut off is less than a byte.
        Err(_) if number.bytes().all(|b| b.is_ascii_digit() || b == b'.') => {
            let n = number.parse::<f64>().ok()? * (1u64 << shift) as f64;
            (n < u64::MAX as f64).then_some(n as u64)
        }
        Err(_) => None,
    }
}

/// Which PID namespace a container is in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PidMode {
    /// One of its own.
    #[default]
    Private,
    /// The host's.
    Host,
    /// That of another container (ID or name).
    Container(String),
}

/// Which IPC namespace and shared memory a container has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IpcMode {
    /// Its own, and nobody else's.
    #[default]
    Private,
    /// Its own, without /dev/shm.
    None,
    /// Its own, which other containers may join.
    Shareable,
    /// The host's.
    Host,
    /// Those of another container (ID or name), which must be shareable.
    Container(String),
}

/// A device of the host to be used inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceConfig {
    /// Node on the host, or a directory of nodes.
    pub host: std::path::PathBuf,
    /// Where it is inside.
    pub inside: std::path::PathBuf,
    /// Letters of `rwm`.
    pub access: String,
}

/// Devices asked for by what they are, or by their names in the Container Device Interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceRequest {
    /// `cdi`, `nvidia`, ...; empty = whichever is able.
    pub driver: String,
    /// How many; -1 = all.
    pub count: i64,
    /// Which ones; for `cdi` qualified names.
    pub ids: Vec<String>,
    /// Sets of capabilities, any of which will do.
    pub capabilities: Vec<Vec<String>>,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
}

/// Which seccomp filter a container gets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seccomp {
    /// As the daemon says, which is Docker's default profile unless it was told of another.
    #[default]
    Default,
    /// Docker's default profile.
    Builtin,
    /// None at all.
    Unconfined,
    /// A profile in Docker's JSON form.
    Profile(String),
}

/// A file that is in the container and on no disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryFile {
    /// What it is, for messages.
    pub what: String,
    /// Absolute path inside the container.
    pub target: std::path::PathBuf,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permissions.
    pub mode: u32,
}

/// All that `create` needs. Empty values mean "as the image says".
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    /// Bytes that its changes to the root file system may take of the disk.
    pub storage_size: Option<u64>,
    /// Image reference or ID as the user gave it.
    pub image: String,
    /// Replaces the image's ENTRYPOINT; `Some(vec![])` clears it.
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's CMD.
    pub cmd: Option<Vec<String>>,
    /// `NAME=value`, added to the image's; a bare `NAME` removes.
    pub env: Vec<String>,
    /// Working directory.
    pub working_dir: Option<String>,
    /// `user[:group]`, names or numbers.
    pub user: Option<String>,
    /// Supplementary groups.
    pub groups: Vec<String>,
    /// Host name; none = first 12 characters of the ID.
    pub hostname: Option<String>,
    /// NIS domain name.
    pub domainname: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the OCI runtime specification: other runtimes and hooks are told them, ours acts on none.
    pub annotations: BTreeMap<String, String>,
    /// Allocate a terminal.
    pub tty: bool,
    /// Keep stdin open.
    pub open_stdin: bool,
    /// Close stdin after the first attached client leaves.
    pub stdin_once: bool,
    /// Signal name or number sent by `stop`; none = the image's, else SIGTERM.
    pub stop_signal: Option<String>,
    /// Time from the stop signal to SIGKILL; none = 10 s, [`PATIENT`] = as long as it takes.
    pub stop_timeout: Option<Duration>,
    /// Network.
    pub network: NetworkMode,
    /// Ports to publish on the host (`-p`).
    pub ports: Vec<PortBinding>,
    /// Ports the container says it serves, beside the image's: `80/tcp`.
    pub exposed: Vec<String>,
    /// Publish every exposed port, the image's included (`-P`).
    pub publish_all: bool,
    /// Containers known by an alias in /etc/hosts and the environment (`--link` on the default network): name or
    /// ID, and alias.
    pub links: Vec<(String, String)>,
    /// Mounts; once created, with the names of anonymous volumes, those of the image and of `volumes_from`.
    pub mounts: Vec<MountConfig>,
    /// Paths that the image declared as volumes; filled in when it is created.
    #[serde(default)]
    pub image_volumes: Vec<String>,
    /// Files whose content is given at each start.
    pub files: Vec<MemoryFile>,
    /// Containers whose mounts are mounted too: `NAME` or `NAME:MODE`.
    pub volumes_from: Vec<String>,
    /// Capabilities to add (`ALL`, `NET_ADMIN`, with or without `CAP_`).
    pub cap_add: Vec<String>,
    /// Capabilities to drop.
    pub cap_drop: Vec<String>,
    /// All capabilities and devices, no seccomp, nothing masked.
    pub privileged: bool,
    /// Mount the root file system read-only.
    pub read_only: bool,
    /// Set no_new_privs; none = as the daemon says.
    pub no_new_privileges: Option<bool>,
    /// Seccomp filter.
    pub seccomp: Seccomp,
    /// Profile and labels of security modules.
    #[serde(default)]
    pub security: SecurityLabels,
    /// PID namespace.
    pub pid_mode: PidMode,
    /// IPC namespace; none = as the daemon says, which is decided when the container is made.
    pub ipc_mode: Option<IpcMode>,
    /// In the host's user namespace, whatever the daemon has others be in.
    pub host_userns: bool,
    /// In the host's UTS namespace.
    pub host_uts: bool,
    /// In the host's cgroup namespace; none = as the daemon says, which is decided when the container is made.
    pub host_cgroupns: Option<bool>,
    /// Devices of the host.
    pub devices: Vec<DeviceConfig>,
    /// Devices asked for otherwise.
    pub device_requests: Vec<DeviceRequest>,
    /// Further rules of the device cgroup, like `c 42:* rwm`.
    pub device_rules: Vec<String>,
    /// Paths hidden from it; none = the default ones.
    pub masked_paths: Option<Vec<String>>,
    /// Paths it must not write to; none = the default ones.
    pub readonly_paths: Option<Vec<String>>,
    /// Cgroup that its own is made in; none = the daemon's.
    pub cgroup_parent: Option<String>,
    /// Resource limits.
    pub resources: ResourceLimits,
    /// Resource limits per process.
    pub ulimits: Vec<UlimitConfig>,
    /// Sysctls of the container's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Bytes of /dev/shm; none = 64 MiB.
    pub shm_size: Option<u64>,
    /// oom_score_adj.
    pub oom_score_adj: Option<i32>,
    /// Name of the runtime; none = the daemon's default. In a container that exists, the one it was made with.
    pub runtime: Option<String>,
    /// Run our own init as PID 1; none = as the daemon says.
    pub init: Option<bool>,
    /// How its health is checked; none = as the image says. In a container that exists, with what the image says.
    pub health: Option<HealthConfig>,
    /// Restart policy.
    pub restart: RestartPolicy,
    /// Log driver.
    pub log: crate::log_config::LogConfig,
    /// `name:IP` lines for /etc/hosts.
    pub extra_hosts: Vec<String>,
    /// DNS servers, instead of the host's.
    pub dns: Vec<IpAddr>,
    /// DNS search domains.
    pub dns_search: Vec<String>,
    /// DNS options.
    pub dns_options: Vec<String>,
    /// Remove the container once it has exited.
    pub auto_remove: bool,
    /// It is a step of a build: what a crash leaves of it goes with the next start.
    pub of_build: bool,
    /// What the API was asked for, kept verbatim for `inspect` (Docker's HostConfig and friends).
    pub api_request: Option<serde_json::Value>,
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerState {
    /// Made, never started.
    Created,
    /// Its process runs.
    Running,
    /// Its cgroup is frozen.
    Paused,
    /// Between an exit and the next start of its restart policy.
    Restarting,
    /// Being removed.
    Removing,
    /// Its process ended.
    Exited,
    /// Could not be removed or recovered.
    Dead,
}

impl ContainerState {
    /// Docker's word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }
}

/// A container as `inspect` shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Container {
    /// Identifier.
    pub id: ContainerId,
    /// Name without the leading slash.
    pub name: String,
    /// Image ID (`sha256:...`).
    pub image_id: String,
    /// As asked for.
    pub config: ContainerConfig,
    /// What is run: entrypoint and arguments resolved with the image.
    pub argv: Vec<String>,
    /// Environment resolved with the image.
    pub env: Vec<String>,
    /// Nanoseconds since the Unix epoch.
    pub created_at_ns: i64,
    /// State.
    pub state: ContainerState,
    /// Host PID while running.
    pub pid: Option<u32>,
    /// Exit code of the last run (128+n when killed by signal n).
    pub exit_code: Option<i32>,
    /// The kernel killed it for want of memory.
    pub oom_killed: bool,
    /// Why the last start failed.
    pub error: String,
    /// Nanoseconds since the Unix epoch; 0 = never.
    pub started_at_ns: i64,
    /// Nanoseconds since the Unix epoch; 0 = never.
    pub finished_at_ns: i64,
    /// Times the restart policy has started it.
    pub restart_count: u32,
    /// Networks as joined.
    pub endpoints: Vec<Endpoint>,
    /// Ports as bound.
    pub ports: Vec<BoundPort>,
    /// What is known of its health; none = it is not checked.
    #[serde(default)]
    pub health: Option<Health>,
    /// The IDs of its user namespace since its last start; none = the host's.
    #[serde(default)]
    pub id_maps: Option<crate::userns::IdMaps>,
    /// Path of the log file, empty for driver `none`.
    pub log_path: std::path::PathBuf,
    /// Profile and labels of its last start.
    #[serde(default)]
    pub confined: Confined,
    /// Its network namespace, while it is in networks; empty = none.
    #[serde(default)]
    pub netns: std::path::PathBuf,
}

impl Container {
    /// Paths below /proc and /sys that it does not see, and that it cannot write to; none where it is privileged.
    pub fn protected_paths(&self) -> Option<[Vec<String>; 2]> {
        let (masked, read_only) =
            (self.config.masked_paths.as_deref(), self.config.readonly_paths.as_deref());
        (!self.config.privileged).then(|| crate::runtime::usual_paths(masked, read_only))
    }

    /// What it is linked to by an alias.
    pub(crate) fn link(&self, alias: &str) -> Option<&str> {
        self.config.links.iter().find(|(_, a)| a == alias).map(|(target, _)| target.as_str())
    }
}
