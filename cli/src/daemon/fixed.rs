//! What dockerd can be told and Skep does in one way only: taken where it says that way, else refused with the reason, and
//! never passed over.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::Value;

use super::file::File;

/// The flags, with dockerd's names.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Dockerd's options that have one value here")]
pub struct FixedArgs {
    /// native.cgroupdriver=cgroupfs
    #[arg(long = "exec-opt", value_name = "NAME=VALUE")]
    pub exec_opts: Vec<String>,
    /// overlay2
    #[arg(short = 's', long, value_name = "DRIVER")]
    pub storage_driver: Option<String>,
    /// Features by name: cdi=false turns devices by CDI off; containerd-snapshotter=false; buildkit has no effect
    #[arg(long = "feature", value_name = "NAME=BOOL")]
    pub features: Vec<String>,
    /// true: networks are made of rules in a table of their own, beside those of the host's firewall
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub iptables: Option<bool>,
    /// true
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub ip6tables: Option<bool>,
    /// true: the host passes on what containers send
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub ip_forward: Option<bool>,
    /// true: the policy of the host's firewall is left alone
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub ip_forward_no_drop: Option<bool>,
    /// nftables
    #[arg(long, value_name = "BACKEND")]
    pub firewall_backend: Option<String>,
    /// false: networks have gateway modes for that
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub allow_direct_routing: Option<bool>,
    /// false
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub rootless: Option<bool>,
    /// true where the kernel has a policy
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub selinux_enabled: Option<bool>,
    /// None: Docker's own clients take layers that are not to be distributed no more
    #[arg(long = "allow-nondistributable-artifacts", value_name = "REGISTRY")]
    pub allow_nondistributable_artifacts: Vec<String>,
    #[arg(long = "authorization-plugin", value_name = "PLUGIN", hide = true)]
    pub authorization_plugins: Vec<String>,
    #[arg(long, value_name = "FILE", hide = true)]
    pub userland_proxy_path: Option<String>,
    #[arg(long, value_name = "ADDRESS", hide = true)]
    pub containerd: Option<String>,
    #[arg(long, value_name = "NAME", hide = true)]
    pub containerd_namespace: Option<String>,
    #[arg(long, value_name = "NAME", hide = true)]
    pub containerd_plugins_namespace: Option<String>,
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", hide = true)]
    pub cri_containerd: Option<bool>,
    #[arg(long, value_name = "BYTES", hide = true)]
    pub network_control_plane_mtu: Option<u32>,
    #[arg(long, value_name = "PORT", hide = true)]
    pub network_diagnostic_port: Option<u16>,
    #[arg(long, value_name = "HEADERS", hide = true)]
    pub api_cors_header: Option<String>,
    #[arg(long, value_name = "MARK", hide = true)]
    pub bridge_accept_fwmark: Option<String>,
}

/// What is left to decide of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// Devices can be asked for by the Container Device Interface.
    pub cdi: bool,
    /// What of it has no effect.
    pub warnings: Vec<String>,
}

/// Judges both.
///
/// # Errors
/// One of them asks for another way: the error says which, and what to do instead.
pub fn decide(args: FixedArgs, file: &File) -> Result<Decided> {
    for option in file.exec_opts.iter().chain(&args.exec_opts) {
        exec_option(option)?;
    }
    match args.storage_driver.as_ref().or(file.storage_driver.as_ref()).map(String::as_str) {
        None | Some("" | "overlay2") => {}
        Some(other) => bail!(
            "--storage-driver {other:?}: layers are directories that overlayfs mounts: use overlay2, or leave it out"
        ),
    }
    let either = |flag: Option<bool>, key: Option<bool>| flag.or(key);
    for (name, given, way, why) in [
        ("iptables", either(args.iptables, file.iptables), true, RULES),
        ("ip6tables", either(args.ip6tables, file.ip6tables), true, RULES),
        (
            "ip-forward",
            either(args.ip_forward, file.ip_forward),
            true,
            "what containers send and what is sent to them passes through the host, which has to forward it",
        ),
        (
            "ip-forward-no-drop",
            either(args.ip_forward_no_drop, file.ip_forward_no_drop),
            true,
            "the policies of the host's own chains are its administrator's",
        ),
        (
            "allow-direct-routing",
            either(args.allow_direct_routing, file.allow_direct_routing),
            false,
            "make networks with -o com.docker.network.bridge.trusted_host_interfaces=NAME, or with gateway mode nat-unprotected or routed",
        ),
        ("rootless", either(args.rootless, file.rootless), false, "the daemon needs root"),
        ("cri-containerd", either(args.cri_containerd, file.cri_containerd), false, NO_CONTAINERD),
    ] {
        if given.is_some_and(|given| given != way) {
            bail!("{name} = {} is not supported: {why}", !way);
        }
    }
    if let Some(other) = args
        .firewall_backend
        .as_ref()
        .or(file.firewall_backend.as_ref())
        .filter(|b| !matches!(b.as_str(), "" | "nftables"))
    {
        bail!("--firewall-backend {other:?}: {RULES}: use nftables, or leave it out");
    }
    let pick = |flag: &Option<String>, key: &Option<String>| {
        flag.as_ref().or(key.as_ref()).is_some_and(|text| !text.is_empty())
    };
    for (name, given, why) in [
        (
            "authorization-plugins",
            !args.authorization_plugins.is_empty() || !file.authorization_plugins.is_empty(),
            "there are no plugins: let TLS client certificates (--tlsverify) say who may use the API",
        ),
        (
            "userland-proxy-path",
            pick(&args.userland_proxy_path, &file.userland_proxy_path),
            "no program is run for ports: the kernel leads them, and what it cannot, the container's shim (userland-proxy)",
        ),
        ("containerd", pick(&args.containerd, &file.containerd), NO_CONTAINERD),
        ("containerd-namespace", pick(&args.containerd_namespace, &file.containerd_namespace), NO_CONTAINERD),
        (
            "containerd-plugins-namespace",
            pick(&args.containerd_plugins_namespace, &file.containerd_plugins_namespace),
            NO_CONTAINERD,
        ),
        (
            "api-cors-header",
            pick(&args.api_cors_header, &file.api_cors_header),
            "it is gone from dockerd, too: use a reverse proxy if you need CORS headers",
        ),
        (
            "bridge-accept-fwmark",
            pick(&args.bridge_accept_fwmark, &file.bridge_accept_fwmark),
            "no mark of packets opens a network: make it with -o com.docker.network.bridge.trusted_host_interfaces=NAME",
        ),
        (
            "network-diagnostic-port",
            args.network_diagnostic_port.or(file.network_diagnostic_port).is_some_and(|p| p != 0),
            "there is no such server: use `skep system check`, and --metrics-addr",
        ),
        (
            "network-control-plane-mtu",
            args.network_control_plane_mtu
                .or(file.network_control_plane_mtu)
                .is_some_and(|m| !matches!(m, 0 | 1500)),
            "nodes of a swarm talk over TCP, which finds its own size of segments",
        ),
        (
            "builder",
            file.builder.as_ref().is_some_and(|builder| !collects_nothing(builder)),
            "the cache of builds is kept until `builder prune` takes it away",
        ),
        (
            "swarm-raft-heartbeat-tick, swarm-raft-election-tick",
            file.swarm_raft_heartbeat_tick.is_some() || file.swarm_raft_election_tick.is_some(),
            "managers notice a lost leader after 0.8 to 1.4 s",
        ),
    ] {
        if given {
            bail!("{name} is not supported: {why}; leave it out");
        }
    }
    let mut warnings = Vec::new();
    if !args.allow_nondistributable_artifacts.is_empty() || !file.allow_nondistributable_artifacts.is_empty()
    {
        warnings.push(
            "allow-nondistributable-artifacts has no effect, as with dockerd 28: no image has such layers here".into(),
        );
    }
    warnings.extend(selinux(args.selinux_enabled.or(file.selinux_enabled)));
    let cdi = features(&args.features, &file.features, &mut warnings)?;
    Ok(Decided { cdi, warnings })
}

const RULES: &str = "networks, published ports and the swarm are made of nftables rules in a table of Skep's own, which other firewalls of the host judge beside";
const NO_CONTAINERD: &str = "no containerd takes part in anything";

fn exec_option(option: &str) -> Result<()> {
    let pair = option.split_once('=').map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim()));
    match &pair {
        Some((name, "cgroupfs")) if name == "native.cgroupdriver" => Ok(()),
        Some((name, other)) if name == "native.cgroupdriver" => bail!(
            "invalid exec-opt ({option}): cgroup driver {other:?} is not supported: the shims of containers make their cgroups themselves, below --cgroup-parent; use native.cgroupdriver=cgroupfs, or leave it out"
        ),
        Some((name, value)) if !name.is_empty() && !value.is_empty() => {
            bail!("invalid exec-opt ({option}): unknown option: '{name}'")
        }
        _ => bail!("invalid exec-opt ({option}): must be formatted 'opt=value'"),
    }
}

/// As with dockerd, a kernel without it is warned of.
fn selinux(asked: Option<bool>) -> Option<String> {
    match (asked?, skep_engine::lsm::selinux::is_enabled()) {
        (true, false) => Some("selinux-enabled: this host's kernel has no SELinux policy".into()),
        (false, true) => Some(
            "selinux-enabled = false has no effect: where the kernel has a policy, containers have labels (--security-opt label=disable)".into(),
        ),
        _ => None,
    }
}

/// Whether the builder is to collect nothing by itself, and to give no more leave than it does.
fn collects_nothing(builder: &Value) -> bool {
    let off = |gc: &Value| {
        gc.as_object().is_some_and(|gc| gc.is_empty() || gc.get("enabled") == Some(&Value::Bool(false)))
    };
    builder.as_object().is_some_and(|all| all.iter().all(|(key, value)| key == "gc" && off(value)))
}

/// Whether devices can be asked for by CDI.
fn features(flags: &[String], file: &BTreeMap<String, bool>, warnings: &mut Vec<String>) -> Result<bool> {
    let mut all = file.clone();
    for text in flags {
        let (name, value) = text.split_once('=').unwrap_or((text, "true"));
        let Ok(value) = value.parse() else { bail!("--feature {text:?}: want NAME=true or NAME=false") };
        all.insert(name.to_owned(), value);
    }
    let mut cdi = true;
    for (name, on) in all {
        match (name.as_str(), on) {
            ("cdi", on) => cdi = on,
            ("buildkit" | "containerd-snapshotter", false) => {}
            // Written in many a file, where it chose the builder of clients that know both.
            ("buildkit", true) => warnings.push(
                "feature buildkit = true has no effect: builds are asked for by the classic builder's protocol (`docker build` with DOCKER_BUILDKIT=0, `skep build`)"
                    .into(),
            ),
            ("containerd-snapshotter", true) => {
                bail!("feature containerd-snapshotter = true is not supported: {NO_CONTAINERD}; leave it out")
            }
            _ => bail!(
                "feature {name:?} is none that is known here (buildkit, cdi, containerd-snapshotter): leave it out"
            ),
        }
    }
    Ok(cdi)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_way_is_taken_and_any_other_refused_with_the_reason() {
        let told = |json: &str| {
            let file: File = serde_json::from_str(json).expect("a file");
            decide(FixedArgs::default(), &file).map_err(|e| format!("{e:#}"))
        };
        let all = r#"{ "exec-opts": ["native.cgroupdriver=cgroupfs"], "storage-driver": "overlay2", "iptables": true,
            "ip6tables": true, "ip-forward": true, "ip-forward-no-drop": true, "firewall-backend": "nftables",
            "allow-direct-routing": false, "builder": { "gc": { "enabled": false } }, "containerd": "", "selinux-enabled": false, "network-control-plane-mtu": 1500,
            "features": { "buildkit": false, "cdi": false, "containerd-snapshotter": false },
            "allow-nondistributable-artifacts": ["r.example"] }"#;
        let taken = told(all).expect("the one way");
        assert!(!taken.cdi && taken.warnings[0].contains("allow-nondistributable-artifacts"), "{taken:?}");
        let buildkit = told(r#"{ "features": { "buildkit": true } }"#).expect("a warning");
        assert!(buildkit.warnings[0].contains("buildkit = true has no effect"), "{buildkit:?}");
        assert_eq!(told("{}"), Ok(Decided { cdi: true, warnings: Vec::new() }));
        for (json, reason) in [
            (r#"{ "exec-opts": ["native.cgroupdriver=systemd"] }"#, "shims of containers make their cgroups"),
            (r#"{ "exec-opts": ["isolation=hyperv"] }"#, "unknown option: 'isolation'"),
            (r#"{ "exec-opts": ["x"] }"#, "must be formatted 'opt=value'"),
            (r#"{ "storage-driver": "btrfs" }"#, "use overlay2"),
            (r#"{ "iptables": false }"#, "iptables = false is not supported: networks"),
            (r#"{ "ip6tables": false }"#, "ip6tables = false"),
            (r#"{ "ip-forward": false }"#, "has to forward"),
            (r#"{ "firewall-backend": "iptables" }"#, "use nftables"),
            (r#"{ "allow-direct-routing": true }"#, "trusted_host_interfaces"),
            (r#"{ "features": { "containerd-snapshotter": true } }"#, "no containerd"),
            (r#"{ "features": { "magic": false } }"#, "\"magic\""),
            (r#"{ "authorization-plugins": ["x"] }"#, "no plugins"),
            (r#"{ "userland-proxy-path": "/x" }"#, "userland-proxy-path"),
            (r#"{ "containerd": "/x" }"#, "no containerd"),
            (r#"{ "builder": { "gc": { "enabled": true } } }"#, "builder prune"),
            (r#"{ "network-control-plane-mtu": 1400 }"#, "network-control-plane-mtu"),
            (r#"{ "builder": { "entitlements": { "network-host": true } } }"#, "builder is not supported"),
            (r#"{ "swarm-raft-election-tick": 10 }"#, "swarm-raft"),
        ] {
            let error = told(json).expect_err(json);
            assert!(error.contains(reason), "{error}");
        }
        let args =
            FixedArgs { features: vec!["cdi=false".into()], iptables: Some(true), ..FixedArgs::default() };
        let file = serde_json::from_str(r#"{ "iptables": false }"#).expect("a file");
        assert!(!decide(args, &file).expect("flags win").cdi);
    }
}
