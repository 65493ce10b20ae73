//! What `skep daemon` can be told, by flags and by a file, TOML or JSON; flags win. Names follow dockerd's.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use skep_api::TlsFiles;
use skep_engine::{CDI_SPEC_DIRS, Defaults, IdMaps, LogConfig, Runtimes};
use skep_overlay::{DefaultBridge, Pools};
use skep_proto::privileges::Privilege;
use skep_proto::v1::GenericResource;

use super::bridge::{self, BridgeArgs};
use super::defaults::{self, DefaultArgs};
use super::file;
use super::fixed::{self, FixedArgs};
use super::hosts::{self, Host};
use super::lifetime::{self, Lifetime, LifetimeArgs};
use super::networks::{self, NetworkArgs};
use super::transfers::{self, Limits, TransferArgs};
use super::{runtimes, userns};
use crate::generic_resource;

/// Flags of `skep daemon`.
#[derive(Args, Clone, Debug, Default)]
pub struct DaemonArgs {
    /// Socket(s) to serve the API on: unix:///path or tcp://address:port [default: unix://<exec-root>/skep.sock]
    #[arg(short = 'H', long = "host", value_name = "URL")]
    pub hosts: Vec<String>,
    /// Directory of everything that must survive a restart [default: /var/lib/skep]
    #[arg(long, value_name = "DIR")]
    pub data_root: Option<PathBuf>,
    /// Directory of run-time state: sockets, namespaces, bundles [default: /run/skep]
    #[arg(long, value_name = "DIR")]
    pub exec_root: Option<PathBuf>,
    /// File the daemon's process ID is written to [default: <exec-root>/skep.pid]
    #[arg(short = 'p', long, value_name = "FILE")]
    pub pidfile: Option<PathBuf>,
    /// How much to log: trace, debug, info, warn or error [default: info]
    #[arg(short = 'l', long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Configuration file (TOML, or JSON where its name ends so) [default: /etc/skep/daemon.toml or daemon.json, where one exists]
    #[arg(long, value_name = "FILE")]
    pub config_file: Option<PathBuf>,
    /// Cgroup that containers' cgroups are made in [default: skep-<instance>]
    #[arg(long, value_name = "NAME")]
    pub cgroup_parent: Option<String>,
    /// Log at level debug
    #[arg(short = 'D', long)]
    pub debug: bool,
    /// Tell clients that they may use what Docker calls experimental, such as `docker build --squash`
    #[arg(long)]
    pub experimental: bool,
    /// Serve tcp:// sockets with TLS; implied by --tlsverify
    #[arg(long)]
    pub tls: bool,
    /// Serve tcp:// sockets with TLS, to clients with a certificate of --tlscacert only
    #[arg(long)]
    pub tlsverify: bool,
    /// CA (PEM) that clients' certificates must be signed by
    #[arg(long, value_name = "FILE")]
    pub tlscacert: Option<PathBuf>,
    /// Certificate (PEM) of this daemon
    #[arg(long, value_name = "FILE")]
    pub tlscert: Option<PathBuf>,
    /// Private key (PEM) of that certificate
    #[arg(long, value_name = "FILE")]
    pub tlskey: Option<PathBuf>,
    /// Log driver of containers that name none [default: json-file]
    #[arg(long, value_name = "DRIVER")]
    pub log_driver: Option<String>,
    /// Option of that log driver, name=value
    #[arg(long = "log-opt", value_name = "OPTION")]
    pub log_opts: Vec<String>,
    /// Label of this engine, name=value
    #[arg(long = "label", value_name = "LABEL")]
    pub labels: Vec<String>,
    /// Registry (host[:port], or a network such as 10.0.0.0/8) that may be spoken to without TLS
    #[arg(long = "insecure-registry", value_name = "REGISTRY")]
    pub insecure_registries: Vec<String>,
    /// URL that is asked before Docker Hub
    #[arg(long = "registry-mirror", value_name = "URL")]
    pub registry_mirrors: Vec<String>,
    /// Serve metrics for Prometheus at this address, under /metrics
    #[arg(long, value_name = "HOST:PORT")]
    pub metrics_addr: Option<String>,
    /// OCI runtime (crun, ...) that containers can ask for by this name; runc is there where it is on PATH
    #[arg(long = "add-runtime", value_name = "NAME=PATH")]
    pub add_runtimes: Vec<String>,
    /// Give containers a user namespace with the subordinate IDs of this user: default, USER[:GROUP] or UID[:GID]
    #[arg(long, value_name = "USER")]
    pub userns_remap: Option<String>,
    /// What containers have that say nothing of it.
    #[command(flatten)]
    pub defaults: DefaultArgs,
    /// Microseconds of each period that real-time processes of all containers may run (cgroups v1) [default: 0]
    #[arg(long, value_name = "MICROSECONDS")]
    pub cpu_rt_runtime: Option<i64>,
    /// That period, in microseconds [default: the kernel's]
    #[arg(long, value_name = "MICROSECONDS")]
    pub cpu_rt_period: Option<i64>,
    /// Directory of CDI specifications [default: /etc/cdi and /var/run/cdi]
    #[arg(long = "cdi-spec-dir", value_name = "DIR")]
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// Resource of this node that services can reserve, KIND=AMOUNT, or KIND=NAME for each unit
    #[arg(long = "node-generic-resource", value_name = "KIND=VALUE")]
    pub node_generic_resources: Vec<String>,
    /// Bytes a second, such as 50m, that this node sends of its images to other nodes of the swarm [default: no limit]
    #[arg(long, value_name = "BYTES")]
    pub image_share_rate: Option<String>,
    /// What containers of services may have here beyond Docker's: privileged, devices, host-namespaces, unconfined, capabilities, annotations, or all
    #[arg(long = "allow-in-services", value_name = "PRIVILEGE")]
    pub allow_in_services: Vec<String>,
    /// Runtime of containers that ask for none [default: skep, which is built in]
    #[arg(long, value_name = "NAME")]
    pub default_runtime: Option<String>,
    /// What the default bridge network is.
    #[command(flatten)]
    pub bridge: BridgeArgs,
    /// What networks have that say nothing of it.
    #[command(flatten)]
    pub networks: NetworkArgs,
    /// How images are transferred.
    #[command(flatten)]
    pub transfers: TransferArgs,
    /// What becomes of containers when the daemon stops.
    #[command(flatten)]
    pub lifetime: LifetimeArgs,
    /// Serve ports of IPv6 for containers that have IPv4 only, by their shims [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub userland_proxy: Option<bool>,
    /// Address or interface that other nodes of a swarm reach this one at, where `swarm init` and `join` name none
    #[arg(long, value_name = "ADDRESS")]
    pub swarm_default_advertise_addr: Option<String>,
    /// Group that may use the API's unix sockets
    #[arg(short = 'G', long, value_name = "GROUP")]
    pub group: Option<String>,
    /// Log without colours, also to a terminal
    #[arg(long)]
    pub raw_logs: bool,
    /// Form of the log: text
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Judge flags and configuration file, and end
    #[arg(long)]
    pub validate: bool,
    /// What has one value.
    #[command(flatten)]
    pub fixed: FixedArgs,
    /// Address that `host-gateway` in --add-host stands for, one of each family [default: those of the default bridge network]
    #[arg(long = "host-gateway-ip", value_name = "IP")]
    pub host_gateway_ips: Vec<String>,
}

/// Everything decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// At least one.
    pub hosts: Vec<Host>,
    /// Absolute, exists.
    pub data_root: PathBuf,
    /// Absolute, exists.
    pub exec_root: PathBuf,
    /// Where the process ID goes.
    pub pidfile: PathBuf,
    /// A tracing level.
    pub log_level: tracing::Level,
    /// Clients may use what Docker calls experimental.
    pub experimental: bool,
    /// As asked for.
    pub cgroup_parent: Option<String>,
    /// `name=value`.
    pub labels: Vec<String>,
    /// Log driver of containers that name none.
    pub log: LogConfig,
    /// How registries are asked.
    pub registries: skep_registry::Options,
    /// What containers can be made by.
    pub runtimes: Runtimes,
    /// Where metrics are served.
    pub metrics_addr: Option<String>,
    /// The IDs of containers with a user namespace.
    pub userns: Option<IdMaps>,
    /// What containers have that say nothing of it.
    pub defaults: Defaults,
    /// Runtime and period of real-time processes, in microseconds; 0 = not set.
    pub real_time: (i64, i64),
    /// Where CDI specifications lie.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// What services can reserve here beside CPUs and memory.
    pub generic: Vec<GenericResource>,
    /// Bytes a second that are sent of images to other nodes; none = no limit.
    pub image_share_rate: Option<u64>,
    /// What services may have here.
    pub allowed: Vec<Privilege>,
    /// The default bridge network.
    pub bridge: DefaultBridge,
    /// What networks are cut from that ask for no range.
    pub pools: Pools,
    /// Options of new networks, by driver.
    pub network_options: networks::Options,
    /// How many layers are transferred at once.
    pub transfers: Limits,
    /// What becomes of containers when the daemon stops.
    pub lifetime: Lifetime,
    /// No process takes part in connections to published ports.
    pub without_relays: bool,
    /// What is told of the seccomp filter of containers that name none.
    pub seccomp_profile: String,
    /// Where other nodes reach this one, where nobody says.
    pub advertise_addr: Option<String>,
    /// The group that may use unix sockets.
    pub group: Option<u32>,
    /// The log has no colours.
    pub raw_logs: bool,
    /// What the daemon is to tell of its configuration.
    pub warnings: Vec<String>,
    /// What `host-gateway` stands for, at most one address of each family.
    pub host_gateway: Vec<IpAddr>,
    /// TLS of the TCP sockets.
    pub tls: Option<TlsFiles>,
    /// The swarm never has another node: nothing listens for one.
    pub solo: bool,
}

impl Config {
    /// Decides from flags and file, and makes the directories.
    pub fn decide(args: DaemonArgs) -> Result<Self> {
        let file = file::read(args.config_file.as_deref())?;
        let (mut defaults, seccomp_profile) = defaults::decide(args.defaults, &file)?;
        let fixed = fixed::decide(args.fixed, &file)?;
        let bridge = bridge::decide(args.bridge, &file)?;
        let (pools, network_options) = networks::decide(args.networks, &file)?;
        let (transfers, attempts, proxies) = transfers::decide(args.transfers, &file)?;
        proxies.check_environment()?;
        let lifetime = lifetime::decide(args.lifetime, &file)?;
        defaults.own_oom_score = lifetime.oom_score.is_some();
        // To be judged is not to be made.
        let directory = |path: PathBuf| match args.validate {
            true => std::path::absolute(&path).with_context(|| format!("directory {}", path.display())),
            false => directory(path),
        };
        let exec_root = directory(args.exec_root.or(file.exec_root).unwrap_or_else(|| "/run/skep".into()))?;
        let data_root =
            directory(args.data_root.or(file.data_root).unwrap_or_else(|| "/var/lib/skep".into()))?;
        let mut hosts = args.hosts;
        hosts.extend(file.hosts);
        let with_tls = args.tls || file.tls || args.tlsverify || file.tlsverify;
        let mut hosts = hosts.iter().map(|h| Host::parse(h, with_tls)).collect::<Result<Vec<_>>>()?;
        if hosts.is_empty() {
            hosts.push(Host::Unix(exec_root.join("skep.sock")));
        }
        let tls = tls(
            args.tls || file.tls,
            args.tlsverify || file.tlsverify,
            args.tlscacert.or(file.tlscacert),
            (args.tlscert.or(file.tlscert), args.tlskey.or(file.tlskey)),
        )?;
        let debug = (args.debug || file.debug).then(|| "debug".to_owned());
        let level = args.log_level.or(debug).or(file.log_level).unwrap_or_else(|| "info".into());
        // Of dockerd's, those that end it log no more than errors.
        let level = if matches!(level.as_str(), "fatal" | "panic") { "error".to_owned() } else { level };
        let log_level = level
            .parse()
            .map_err(|_| anyhow::anyhow!("log level {level:?}: want trace, debug, info, warn or error"))?;
        let mut labels = file.labels;
        labels.extend(args.labels);
        if let Some(bad) = labels.iter().find(|l| !l.contains('=')) {
            bail!("label {bad:?}: want name=value");
        }
        let labels = free_of_conflicts(labels)?;
        let mut cdi_spec_dirs = [file.cdi_spec_dirs, args.cdi_spec_dirs].concat();
        if cdi_spec_dirs.is_empty() {
            cdi_spec_dirs.extend(CDI_SPEC_DIRS.map(PathBuf::from));
        }
        // An empty name turns it off, as with dockerd.
        cdi_spec_dirs.retain(|d| !d.as_os_str().is_empty());
        if !fixed.cdi {
            cdi_spec_dirs.clear();
        }
        if let Some(format) =
            args.log_format.or(file.log_format).filter(|f| !matches!(f.as_str(), "" | "text"))
        {
            bail!("--log-format {format:?}: want text: the log has no other form");
        }
        let log = log(args.log_driver.or(file.log_driver), file.log_opts, &args.log_opts)?;
        Ok(Self {
            log,
            hosts,
            pidfile: args.pidfile.or(file.pidfile).unwrap_or_else(|| exec_root.join("skep.pid")),
            data_root,
            exec_root,
            log_level,
            experimental: args.experimental || file.experimental,
            cgroup_parent: args.cgroup_parent.or(file.cgroup_parent),
            labels,
            registries: skep_registry::Options {
                proxies,
                attempts,
                ..registries(
                    [args.insecure_registries, file.insecure_registries].concat(),
                    [args.registry_mirrors, file.registry_mirrors].concat(),
                )?
            },
            runtimes: runtimes::decide(
                args.add_runtimes,
                file.runtimes,
                args.default_runtime.or(file.default_runtime),
            )?,
            metrics_addr: args.metrics_addr.or(file.metrics_addr).filter(|a| !a.is_empty()),
            userns: userns::decide(args.userns_remap.or(file.userns_remap))?,
            defaults,
            real_time: real_time(
                args.cpu_rt_runtime.or(file.cpu_rt_runtime),
                args.cpu_rt_period.or(file.cpu_rt_period),
            )?,
            cdi_spec_dirs,
            generic: generic_resource::parse(
                &[file.node_generic_resources, args.node_generic_resources].concat(),
            )
            .context("--node-generic-resource")?,
            image_share_rate: args
                .image_share_rate
                .or(file.image_share_rate)
                .map(|text| image_share_rate(&text))
                .transpose()?,
            allowed: allowed(&[file.allow_in_services, args.allow_in_services].concat())?,
            bridge,
            pools,
            network_options,
            transfers,
            lifetime,
            without_relays: !args.userland_proxy.or(file.userland_proxy).unwrap_or(true),
            seccomp_profile,
            advertise_addr: args
                .swarm_default_advertise_addr
                .or(file.swarm_default_advertise_addr)
                .filter(|a| !a.is_empty()),
            group: hosts::group(args.group.or(file.group))?,
            raw_logs: args.raw_logs || file.raw_logs,
            warnings: fixed.warnings,
            host_gateway: host_gateway(if args.host_gateway_ips.is_empty() {
                file.host_gateway_ips.into_iter().chain(file.host_gateway_ip).collect()
            } else {
                args.host_gateway_ips
            })?,
            tls,
            solo: false,
        })
    }
}

fn real_time(runtime: Option<i64>, period: Option<i64>) -> Result<(i64, i64)> {
    let both = (runtime.unwrap_or(0), period.unwrap_or(0));
    if both != (0, 0) && !skep_engine::has_real_time_groups() {
        bail!("--cpu-rt-runtime and --cpu-rt-period need cgroups v1 and a kernel with CONFIG_RT_GROUP_SCHED");
    }
    Ok(both)
}

fn image_share_rate(text: &str) -> Result<u64> {
    let rate = skep_engine::parse_size(text).filter(|rate| *rate >= 64 << 10);
    rate.with_context(|| format!("--image-share-rate {text:?}: want bytes a second like 50m, at least 64k"))
}

/// Privileges by their names.
fn allowed(words: &[String]) -> Result<Vec<Privilege>> {
    let mut allowed = std::collections::BTreeSet::new();
    for word in words {
        match (word.as_str(), Privilege::of(word)) {
            ("all", _) => allowed.extend(Privilege::ALL),
            (_, Some(p)) => drop(allowed.insert(p)),
            (_, None) => bail!(
                "--allow-in-services {word:?}: want {} or all",
                Privilege::ALL.map(Privilege::word).join(", ")
            ),
        }
    }
    Ok(allowed.into_iter().collect())
}

/// The default log driver, checked. Options of flags win over the file's.
fn log(driver: Option<String>, mut options: BTreeMap<String, String>, flags: &[String]) -> Result<LogConfig> {
    for option in flags {
        let (name, value) =
            option.split_once('=').with_context(|| format!("log option {option:?}: want name=value"))?;
        options.insert(name.to_owned(), value.to_owned());
    }
    let config = LogConfig { driver: driver.unwrap_or_default(), options };
    let config = config.with_default(&LogConfig::default());
    config.check().map_err(|e| anyhow::anyhow!("--log-driver {}: {e}", config.driver))?;
    Ok(config)
}

fn host_gateway(texts: Vec<String>) -> Result<Vec<IpAddr>> {
    let mut addrs: Vec<IpAddr> = Vec::new();
    for text in texts {
        let addr =
            text.parse().map_err(|_| anyhow::anyhow!("--host-gateway-ip {text:?}: not an IP address"))?;
        if addrs.iter().any(|a| a.is_ipv4() == IpAddr::is_ipv4(&addr)) {
            bail!("--host-gateway-ip {text}: give at most one IPv4 and one IPv6 address");
        }
        addrs.push(addr);
    }
    addrs.sort();
    Ok(addrs)
}

/// Where registries' own certificates lie: Docker's place and ours.
const CERTIFICATES: [&str; 2] = ["/etc/docker/certs.d", "/etc/skep/certs.d"];

fn registries(insecure: Vec<String>, mirrors: Vec<String>) -> Result<skep_registry::Options> {
    let options = skep_registry::Options {
        insecure,
        mirrors,
        certificates: CERTIFICATES.map(PathBuf::from).into(),
        user_agent: format!("skep/{}", env!("CARGO_PKG_VERSION")),
        ..skep_registry::Options::default()
    };
    Ok(options.checked()?)
}

/// What TLS is asked for; half of it is an error that names the other half.
fn tls(
    tls: bool,
    verify: bool,
    ca: Option<PathBuf>,
    (cert, key): (Option<PathBuf>, Option<PathBuf>),
) -> Result<Option<TlsFiles>> {
    if !tls && !verify {
        if ca.is_some() || cert.is_some() || key.is_some() {
            bail!("--tlscacert, --tlscert and --tlskey do nothing without --tlsverify or --tls");
        }
        return Ok(None);
    }
    let cert = cert.context("TLS needs the daemon's certificate: name it with --tlscert")?;
    let key = key.context("TLS needs the key of the daemon's certificate: name it with --tlskey")?;
    if verify && ca.is_none() {
        bail!("--tlsverify needs the CA of the clients' certificates: name it with --tlscacert");
    }
    Ok(Some(TlsFiles { ca: ca.filter(|_| verify), cert, key }))
}

fn directory(path: PathBuf) -> Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(&path)
        .with_context(|| format!("make directory {}", path.display()))?;
    path.canonicalize().with_context(|| format!("resolve directory {}", path.display()))
}

/// Labels of one key must say the same; one that is given twice counts once.
fn free_of_conflicts(labels: Vec<String>) -> Result<Vec<String>> {
    let mut kept: Vec<String> = Vec::new();
    for label in labels {
        let key = |l: &str| l.split('=').next().unwrap_or_default().to_owned();
        match kept.iter().find(|k| key(k) == key(&label)) {
            None => kept.push(label),
            Some(same) if *same == label => {}
            Some(other) => bail!("conflict labels for {label} and {other}"),
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn args(dir: &Path) -> DaemonArgs {
        DaemonArgs {
            data_root: Some(dir.join("data")),
            exec_root: Some(dir.join("exec")),
            ..Default::default()
        }
    }

    #[test]
    fn flags_win_over_the_file_and_unknown_keys_are_named() {
        let dir = tempfile::tempdir().expect("temp dir");
        let file = dir.path().join("daemon.toml");
        std::fs::write(&file, "log-level = \"debug\"\nlabels = [\"a=1\"]\nhosts = [\"tcp://127.0.0.1:1\"]\n")
            .expect("write");
        let mut a = args(dir.path());
        a.config_file = Some(file.clone());
        a.log_level = Some("warn".into());
        let config = Config::decide(a.clone()).expect("config");
        assert_eq!(config.log_level, tracing::Level::WARN);
        assert_eq!(config.labels, ["a=1"]);
        assert_eq!(config.hosts, [Host::Tcp("127.0.0.1:1".parse().expect("addr"))]);
        a.labels = vec!["a=1".into(), "b=2".into()];
        assert_eq!(Config::decide(a.clone()).expect("config").labels, ["a=1", "b=2"]);
        a.labels.push("b=3".into());
        let error = format!("{:#}", Config::decide(a.clone()).expect_err("two values"));
        assert!(error.contains("conflict labels for b=3 and b=2"), "{error}");
        std::fs::write(&file, "colour = \"red\"\n").expect("write");
        let error = format!("{:#}", Config::decide(a).expect_err("unknown key"));
        assert!(error.contains("colour"), "{error}");
    }

    #[test]
    fn dockerds_own_file_is_read() {
        let dir = tempfile::tempdir().expect("temp dir");
        let file = dir.path().join("daemon.json");
        let mut a = args(dir.path());
        a.config_file = Some(file.clone());
        let with = |text: &str| {
            std::fs::write(&file, text).expect("write");
            Config::decide(a.clone()).map_err(|e| format!("{e:#}"))
        };
        let config = with(
            r#"{ "debug": true, "labels": ["a=1"], "live-restore": true, "dns": ["10.0.0.53"], "init": true,
                 "log-driver": "json-file", "log-opts": { "max-size": "10m" }, "default-shm-size": "128M",
                 "default-ulimits": { "nofile": { "Name": "nofile", "Hard": 64000, "Soft": 64000 } } }"#,
        );
        let config = config.expect("valid");
        assert_eq!((config.log_level, config.labels), (tracing::Level::DEBUG, vec!["a=1".to_owned()]));
        assert_eq!((config.defaults.init, config.defaults.shm_size), (true, Some(128 << 20)));
        assert_eq!((config.defaults.ulimits.len(), config.defaults.dns.len()), (1, 1));
        assert_eq!(with("").expect("empty").defaults, Defaults::default());
        for (bad, told) in [(r#"{ "colour": "red" }"#, "unknown field `colour`"), ("{", "daemon.json")] {
            let error = with(bad).expect_err(bad);
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn the_default_log_driver_is_checked_and_its_options_are_joined() {
        let dir = tempfile::tempdir().expect("temp dir");
        let file = dir.path().join("daemon.toml");
        std::fs::write(&file, "log-driver = \"local\"\n[log-opts]\nmax-size = \"1m\"\nmax-file = \"2\"\n")
            .expect("write");
        let mut a = args(dir.path());
        a.config_file = Some(file);
        a.log_opts = vec!["max-file=3".into()];
        let log = Config::decide(a.clone()).expect("config").log;
        assert_eq!((log.driver.as_str(), log.options["max-size"].as_str()), ("local", "1m"));
        assert_eq!(log.options["max-file"], "3");
        a.log_driver = Some("splunk".into());
        let error = format!("{:#}", Config::decide(a).expect_err("unknown driver"));
        assert!(error.contains("no log driver named 'splunk' is registered"), "{error}");
    }

    #[test]
    fn the_host_gateway_has_one_address_of_each_family() {
        let dir = tempfile::tempdir().expect("temp dir");
        let file = dir.path().join("daemon.toml");
        std::fs::write(&file, "host-gateway-ips = [\"fd00::1\", \"10.0.0.1\"]\n").expect("write");
        let mut a = args(dir.path());
        a.config_file = Some(file);
        let shown = |a: &DaemonArgs| {
            let config = Config::decide(a.clone()).map_err(|e| format!("{e:#}"));
            config.map(|c| c.host_gateway.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(shown(&a).expect("both"), ["10.0.0.1", "fd00::1"]);
        a.host_gateway_ips = vec!["10.0.0.2".into()];
        assert_eq!(shown(&a).expect("flags win"), ["10.0.0.2"]);
        a.host_gateway_ips.push("10.0.0.3".into());
        assert!(shown(&a).expect_err("two of a family").contains("at most one IPv4"));
        a.host_gateway_ips = vec!["here".into()];
        assert!(shown(&a).expect_err("no address").contains("\"here\""));
    }

    #[test]
    fn half_of_tls_is_refused_by_what_is_missing() {
        let dir = tempfile::tempdir().expect("temp dir");
        let with = |change: &dyn Fn(&mut DaemonArgs)| {
            let mut a = args(dir.path());
            change(&mut a);
            Config::decide(a).map(|c| c.tls).map_err(|e| format!("{e:#}"))
        };
        assert_eq!(with(&|_| {}), Ok(None));
        for (error, change) in [
            ("--tlscert", &(|a: &mut DaemonArgs| a.tls = true) as &dyn Fn(&mut DaemonArgs)),
            ("without --tlsverify", &|a| a.tlskey = Some("k".into())),
            ("--tlscacert", &|a| {
                (a.tlsverify, a.tlscert, a.tlskey) = (true, Some("c".into()), Some("k".into()));
            }),
        ] {
            assert!(with(change).expect_err(error).contains(error));
        }
    }
}
