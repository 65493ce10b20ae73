//! What the daemon asks of a shim: one JSON file in the bundle directory, complete in itself.
//!
//! A bundle directory holds, besides [`SPEC_FILE`]: [`SOCKET_FILE`] (control), [`PID_FILE`] (host
//! PID of the container's init), [`EXIT_FILE`] (the exit status, once there is one) and
//! [`SHIM_LOG_FILE`] (what a shim could tell nobody else).

use std::collections::BTreeMap;
use std::net::{SocketAddr, SocketAddrV6};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cdi::{DeviceNode, Hook};
use crate::config::{DeviceConfig, ResourceLimits, Seccomp, UlimitConfig};
use crate::log_config::LogConfig;
use crate::lsm::Confined;
use crate::mount::MountConfig;
use crate::runtimes::ExternalRuntime;
use crate::userns::IdMaps;

/// The [`ShimSpec`] as JSON.
pub const SPEC_FILE: &str = "spec.json";
/// More variables of the command, for this start alone: a list in JSON, in memory and there no longer than until the command
/// has been started.
pub const VARIABLES_FILE: &str = "files/variables";
/// Control socket.
pub const SOCKET_FILE: &str = "shim.sock";
/// Process ID of the shim and host PID of the container's init: two decimal numbers.
pub const PID_FILE: &str = "pids";
/// Exit status as JSON, written before anybody is told of the exit.
pub const EXIT_FILE: &str = "exit.json";
/// Where shared memory is mounted that others may have.
pub const SHM_DIRECTORY: &str = "shm";
/// Errors met by the shim when no daemon was connected.
pub const SHIM_LOG_FILE: &str = "shim.log";

/// Everything a shim needs to make, run and log one container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShimSpec {
    /// Container ID, for messages.
    pub id: String,
    /// Root file system.
    pub rootfs: Rootfs,
    /// Mount the root file system read-only.
    pub read_only: bool,
    /// What is run; `argv[0]` is looked up in the container's `PATH`.
    pub argv: Vec<String>,
    /// Environment (`NAME=value`), complete. `HOME`, `PATH`, `HOSTNAME` and `TERM` (tty) are added when absent.
    pub env: Vec<String>,
    /// Working directory inside the container, made when missing; empty = `/`.
    pub cwd: String,
    /// `user[:group]`, names (looked up inside the root file system) or numbers; empty = root.
    pub user: String,
    /// Supplementary groups, names or numbers.
    pub groups: Vec<String>,
    /// Host name; ignored for the host's UTS namespace, which only privileged callers would want.
    pub hostname: String,
    /// NIS domain name; empty = none.
    pub domainname: String,
    /// Binds and tmpfs, in the order given (parents before children is the caller's business). A volume is a bind
    /// of its directory here.
    pub mounts: Vec<MountConfig>,
    /// Content for `/etc/hosts`, `/etc/resolv.conf` and `/etc/hostname`: host files bound over them.
    pub host_files: HostFiles,
    /// Bytes of `/dev/shm`; 0 = 64 MiB.
    pub shm_size: u64,
    /// Network namespace.
    pub network: NetworkNamespace,
    /// Ports of the host that the shim serves.
    pub relays: Vec<Relay>,
    /// PID namespace.
    pub pid: Namespace,
    /// IPC namespace.
    pub ipc: Namespace,
    /// UTS namespace; a path is not supported.
    pub uts: Namespace,
    /// Cgroup namespace; a path is not supported.
    pub cgroupns: Namespace,
    /// What is at /dev/shm.
    pub shm: Shm,
    /// Devices of the host, besides those that every container has.
    pub devices: Vec<DeviceConfig>,
    /// Device nodes that are known whole, in privileged containers too.
    pub device_nodes: Vec<DeviceNode>,
    /// Programs run on its way.
    pub hooks: Vec<Hook>,
    /// What other runtimes and hooks are told of it besides.
    pub annotations: std::collections::BTreeMap<String, String>,
    /// Further rules of the device cgroup.
    pub device_rules: Vec<String>,
    /// Paths hidden from it; none = the default ones.
    pub masked_paths: Option<Vec<String>>,
    /// Paths it must not write to; none = the default ones.
    pub readonly_paths: Option<Vec<String>>,
    /// Capabilities to add to Docker's default set (`ALL`, `NET_ADMIN`, with or without `CAP_`).
    pub cap_add: Vec<String>,
    /// Capabilities to drop.
    pub cap_drop: Vec<String>,
    /// All capabilities and devices, no seccomp, nothing masked, /sys and cgroups writable.
    pub privileged: bool,
    /// Set no_new_privs.
    pub no_new_privileges: bool,
    /// Seccomp filter.
    pub seccomp: Seccomp,
    /// Profile and labels of security modules.
    pub confined: Confined,
    /// Cgroup below each hierarchy's root, e.g. `skep-abc123/<id>`. Made by the shim, removed after the exit.
    pub cgroup: String,
    /// Limits of that cgroup.
    pub resources: ResourceLimits,
    /// Resource limits per process.
    pub ulimits: Vec<UlimitConfig>,
    /// Sysctls of the container's namespaces (`net.*` only with a network namespace of its own).
    pub sysctls: BTreeMap<String, String>,
    /// oom_score_adj; none = inherited.
    pub oom_score_adj: Option<i32>,
    /// Its user namespace; none = the host's.
    pub id_maps: Option<IdMaps>,
    /// The runtime that makes it in the place of ours.
    pub external: Option<ExternalRuntime>,
    /// The executable that is the container's init where another runtime makes it.
    pub init_exe: Option<PathBuf>,
    /// Run our own reaper as PID 1 and the command as its child.
    pub init: bool,
    /// Allocate a terminal.
    pub tty: bool,
    /// Keep stdin open until it is closed by a client.
    pub open_stdin: bool,
    /// Close stdin when the first client attached to it leaves.
    pub stdin_once: bool,
    /// Log driver and its options.
    pub log: LogConfig,
    /// The file that is kept; rotated ones get `.1`, `.2`, ... appended. Unused by driver `none`.
    pub log_path: PathBuf,
    /// What is told with each message.
    pub log_subject: LogTold,
}

/// A further command in a container that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExecSpec {
    /// Exec ID, to ask for it by.
    pub id: String,
    /// What is run.
    pub argv: Vec<String>,
    /// Environment, complete, as in [`ShimSpec::env`].
    pub env: Vec<String>,
    /// Working directory, which must be there; empty = `/`.
    pub cwd: String,
    /// `user[:group]`; empty = root.
    pub user: String,
    /// All capabilities.
    pub privileged: bool,
    /// Allocate a terminal.
    pub tty: bool,
    /// Rows and columns of the terminal.
    pub size: Option<(u16, u16)>,
    /// Take input from who starts it.
    pub open_stdin: bool,
}

impl ExecSpec {
    /// The specification of its container with this command's own put in.
    pub fn within(&self, container: &ShimSpec) -> ShimSpec {
        ShimSpec {
            argv: self.argv.clone(),
            env: self.env.clone(),
            cwd: self.cwd.clone(),
            user: self.user.clone(),
            tty: self.tty,
            ..container.clone()
        }
    }
}

/// An exec as the shim knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecState {
    /// What runs, without its environment.
    pub spec: ExecSpec,
    /// Its host PID.
    pub pid: u32,
}

/// Where the root file system comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rootfs {
    /// An overlay of read-only layers below a writable one.
    Overlay {
        /// Layers, topmost first. At least one.
        lowers: Vec<PathBuf>,
        /// The container's own changes.
        upper: PathBuf,
        /// Overlayfs's scratch directory, on the file system of `upper`.
        work: PathBuf,
        /// What is written is not to outlive a crash of the host: neither fsync(2) in there nor the unmounting waits for
        /// the disk (overlayfs's `volatile`, Linux 5.10).
        #[serde(default)]
        volatile: bool,
    },
    /// A plain directory, bound.
    Directory(PathBuf),
}

impl Default for Rootfs {
    fn default() -> Self {
        Self::Directory(PathBuf::new())
    }
}

/// Which network namespace the container enters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkNamespace {
    /// A new one with only a loopback interface.
    #[default]
    New,
    /// The host's.
    Host,
    /// One that exists, pinned at this path.
    Path(PathBuf),
}

/// A port of the host by IPv6 that leads to a container where the kernel does not: by IPv4, or for link-local clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relay {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// On the host.
    pub from: SocketAddrV6,
    /// In the container; none = nowhere for now, and the port is kept.
    pub to: Option<SocketAddr>,
}

/// Which namespace of a kind the container is in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Namespace {
    /// A new one.
    #[default]
    New,
    /// The host's.
    Host,
    /// One that exists.
    Path(PathBuf),
}

/// Shared memory of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shm {
    /// Nobody else's.
    #[default]
    Private,
    /// Not there.
    None,
    /// Mounted in the bundle at [`SHM_DIRECTORY`], for other containers to bind.
    Shared,
    /// This directory, bound.
    Path(PathBuf),
}

/// Host files bound over the container's; none = the image's own is left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostFiles {
    /// Over `/etc/hosts`.
    pub hosts: Option<PathBuf>,
    /// Over `/etc/resolv.conf`.
    pub resolv_conf: Option<PathBuf>,
    /// Over `/etc/hostname`.
    pub hostname: Option<PathBuf>,
}

/// What log messages say of their container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogTold {
    /// The tag, made from its template.
    pub tag: String,
    /// The container's name.
    pub name: String,
    /// Its image, as it was asked for.
    pub image: String,
    /// Labels and variables.
    pub attributes: BTreeMap<String, String>,
}

/// How a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code, 128+n when killed by signal n.
    pub code: i32,
    /// The kernel killed a process of it for want of memory.
    pub oom_killed: bool,
    /// Nanoseconds since the Unix epoch.
    pub finished_at_ns: i64,
}

/// How a shim and its container are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Host PID of the container's first process.
    pub pid: u32,
    /// Whether the command has been started.
    pub started: bool,
    /// The last error that kept the shim from its work, e.g. a full disk under the log.
    pub log_error: Option<String>,
}
