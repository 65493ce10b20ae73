//! The configuration file of `skep daemon`: TOML, or JSON such as dockerd's `daemon.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::defaults::{Size, Ulimits};
use super::networks::{self, PoolEntry};
use super::runtimes;
use super::transfers::ProxyEntries;

/// The configuration file. An unknown key is an error that names it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct File {
    pub hosts: Vec<String>,
    pub data_root: Option<PathBuf>,
    pub exec_root: Option<PathBuf>,
    pub pidfile: Option<PathBuf>,
    pub log_level: Option<String>,
    pub cgroup_parent: Option<String>,
    pub log_driver: Option<String>,
    pub log_opts: BTreeMap<String, String>,
    pub labels: Vec<String>,
    pub insecure_registries: Vec<String>,
    pub registry_mirrors: Vec<String>,
    pub runtimes: BTreeMap<String, runtimes::Entry>,
    pub default_runtime: Option<String>,
    pub metrics_addr: Option<String>,
    pub userns_remap: Option<String>,
    pub default_ulimits: Ulimits,
    pub dns: Vec<String>,
    pub dns_search: Vec<String>,
    pub dns_opts: Vec<String>,
    pub init: bool,
    pub default_shm_size: Option<Size>,
    pub no_new_privileges: bool,
    pub seccomp_profile: Option<String>,
    pub default_ipc_mode: Option<String>,
    pub default_cgroupns_mode: Option<String>,
    pub init_path: Option<PathBuf>,
    pub storage_opts: Vec<String>,
    pub live_restore: Option<bool>,
    pub shutdown_timeout: Option<i64>,
    pub oom_score_adjust: Option<i32>,
    pub cpu_rt_runtime: Option<i64>,
    pub cpu_rt_period: Option<i64>,
    pub cdi_spec_dirs: Vec<PathBuf>,
    pub node_generic_resources: Vec<String>,
    pub image_share_rate: Option<String>,
    pub allow_in_services: Vec<String>,
    pub bridge: Option<String>,
    pub bip: Option<String>,
    pub bip6: Option<String>,
    pub fixed_cidr: Option<String>,
    pub fixed_cidr_v6: Option<String>,
    pub default_gateway: Option<String>,
    pub default_gateway_v6: Option<String>,
    pub ipv6: Option<bool>,
    pub mtu: Option<u32>,
    pub icc: Option<bool>,
    pub ip_masq: Option<bool>,
    pub ip: Option<String>,
    pub userland_proxy: Option<bool>,
    pub default_address_pools: Vec<PoolEntry>,
    pub default_network_opts: networks::Options,
    pub max_concurrent_downloads: Option<usize>,
    pub max_concurrent_uploads: Option<usize>,
    pub max_download_attempts: Option<u32>,
    pub proxies: ProxyEntries,
    pub http_proxy: Option<String>,
    pub https_proxy: Option<String>,
    pub no_proxy: Option<String>,
    pub swarm_default_advertise_addr: Option<String>,
    pub group: Option<String>,
    pub raw_logs: bool,
    pub log_format: Option<String>,
    pub exec_opts: Vec<String>,
    pub storage_driver: Option<String>,
    pub features: BTreeMap<String, bool>,
    pub iptables: Option<bool>,
    pub ip6tables: Option<bool>,
    pub ip_forward: Option<bool>,
    pub ip_forward_no_drop: Option<bool>,
    pub firewall_backend: Option<String>,
    pub allow_direct_routing: Option<bool>,
    pub rootless: Option<bool>,
    pub selinux_enabled: Option<bool>,
    pub allow_nondistributable_artifacts: Vec<String>,
    pub authorization_plugins: Vec<String>,
    pub userland_proxy_path: Option<String>,
    pub containerd: Option<String>,
    pub containerd_namespace: Option<String>,
    pub containerd_plugins_namespace: Option<String>,
    pub cri_containerd: Option<bool>,
    pub network_control_plane_mtu: Option<u32>,
    pub network_diagnostic_port: Option<u16>,
    pub api_cors_header: Option<String>,
    pub bridge_accept_fwmark: Option<String>,
    pub builder: Option<serde_json::Value>,
    pub swarm_raft_heartbeat_tick: Option<u32>,
    pub swarm_raft_election_tick: Option<u32>,
    /// Docker's name for one.
    pub host_gateway_ip: Option<String>,
    pub host_gateway_ips: Vec<String>,
    pub debug: bool,
    pub experimental: bool,
    pub tls: bool,
    pub tlsverify: bool,
    pub tlscacert: Option<PathBuf>,
    pub tlscert: Option<PathBuf>,
    pub tlskey: Option<PathBuf>,
}

/// Where the file is looked for.
const FILES: [&str; 2] = ["/etc/skep/daemon.toml", "/etc/skep/daemon.json"];

/// What is in it; nothing where there is none.
pub fn read(path: Option<&Path>) -> Result<File> {
    let there: Vec<&Path> = FILES.map(Path::new).into_iter().filter(|p| p.exists()).collect();
    let path = match (path, &there[..]) {
        (Some(path), _) => path,
        (None, []) => return Ok(File::default()),
        (None, [path]) => path,
        (None, _) => bail!("there are {}: keep one, or name it with --config-file", FILES.join(" and ")),
    };
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("read configuration file {}", path.display()))?;
    let is_json = path.extension().is_some_and(|e| e == "json");
    let parsed = if is_json {
        // As dockerd takes an empty one.
        let text = if text.trim().is_empty() { "{}" } else { text.as_str() };
        serde_json::from_str(text).map_err(anyhow::Error::from)
    } else {
        toml::from_str(&text).map_err(anyhow::Error::from)
    };
    parsed.with_context(|| format!("configuration file {}", path.display()))
}
