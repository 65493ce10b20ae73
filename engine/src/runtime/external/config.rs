//! The parts of an OCI configuration (runtime-spec config.md and config-linux.md), made from the description that
//! our own runtime has of a container.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::super::capabilities::Capabilities;
use super::super::command;
use super::super::error::Error;
use super::super::mounts::shm_size;
use super::super::user::User;
use super::super::{cgroup, devices, paths, rlimits, seccomp};
use super::ground::{Ground, INIT};
use crate::lsm::Confined;
use crate::mount::{BindOptions, MountConfig, MountKind, Propagation, TmpfsOptions};
use crate::shim::{Namespace, NetworkNamespace, ShimSpec, Shm};

/// `process`: of the container, or of a further command with its own values put in.
pub fn process(
    spec: &ShimSpec,
    user: &User,
    capabilities: Capabilities,
    size: Option<(u16, u16)>,
) -> Result<Value, Error> {
    let names = capabilities.names();
    let limits = rlimits::parse(&spec.ulimits)?;
    let groups: Vec<u32> = user.groups.iter().map(|g| g.as_raw()).collect();
    let mut capabilities = json!({ "bounding": names });
    if user.uid.is_root() {
        capabilities["permitted"] = json!(names);
        capabilities["effective"] = json!(names);
    }
    let mut out = json!({
        "terminal": spec.tty,
        "user": { "uid": user.uid.as_raw(), "gid": user.gid.as_raw(), "additionalGids": groups },
        "args": spec.argv, "env": command::environment(spec, user),
        "cwd": if spec.cwd.is_empty() { "/" } else { &spec.cwd },
        "capabilities": capabilities, "noNewPrivileges": spec.no_new_privileges,
        "rlimits": limits.iter().map(rlimits::Rlimit::oci).collect::<Vec<_>>(),
    });
    let Confined { apparmor, process_label, .. } = &spec.confined;
    for (key, value) in [("apparmorProfile", apparmor), ("selinuxLabel", process_label)] {
        if !value.is_empty() {
            out[key] = json!(value);
        }
    }
    if let Some(score) = spec.oom_score_adj {
        out["oomScoreAdj"] = score.into();
    }
    if let Some((rows, cols)) = size {
        out["consoleSize"] = json!({ "height": rows, "width": cols });
    }
    Ok(out)
}

/// `hooks`, by stage.
pub fn hooks(spec: &ShimSpec) -> Value {
    let mut out = Map::new();
    for hook in &spec.hooks {
        let mut one = json!({ "path": hook.path });
        for (key, list) in [("args", &hook.args), ("env", &hook.env)] {
            if !list.is_empty() {
                one[key] = json!(list);
            }
        }
        if let Some(timeout) = hook.timeout {
            one["timeout"] = timeout.into();
        }
        if let Some(stage) = json!(hook.hook_name).as_str()
            && let Some(list) = out.entry(stage).or_insert_with(|| json!([])).as_array_mut()
        {
            list.push(one);
        }
    }
    out.into()
}

/// What the container's own process runs: our init around the command, where it is wanted.
pub fn arguments(spec: &ShimSpec) -> Vec<String> {
    let before: &[&str] = if spec.init { &[INIT, "container-init", "--"] } else { &[] };
    before.iter().map(|w| (*w).to_owned()).chain(spec.argv.iter().cloned()).collect()
}

/// `mounts`: the kernel's file systems, then the host's files and the container's own mounts.
pub fn mounts(spec: &ShimSpec, ground: &Ground, directory: &Path) -> Vec<Value> {
    let protect: &[&str] = if spec.privileged { &[] } else { &["ro"] };
    let kernel = |kind: &str, target: &str, options: &[&str]| json!({ "type": kind, "source": kind, "destination": target, "options": options });
    let mut out = vec![
        kernel("proc", "/proc", &["nosuid", "noexec", "nodev"]),
        kernel("tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        kernel(
            "devpts",
            "/dev/pts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        kernel("sysfs", "/sys", &[&["nosuid", "noexec", "nodev"], protect].concat()),
        kernel("cgroup", "/sys/fs/cgroup", &[&["nosuid", "noexec", "nodev"], protect].concat()),
        kernel("mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"]),
    ];
    let shared = |source: &Path| {
        json!({
            "type": "bind", "source": source, "destination": "/dev/shm",
            "options": ["rbind", "rprivate", "nosuid", "noexec", "nodev"],
        })
    };
    match &spec.shm {
        Shm::None => {}
        Shm::Private => {
            let size = format!("size={}", shm_size(spec));
            out.push(kernel("tmpfs", "/dev/shm", &["nosuid", "noexec", "nodev", "mode=1777", &size]));
        }
        Shm::Shared => out.push(shared(&super::shared_memory(directory))),
        Shm::Path(path) => out.push(shared(path)),
    }
    for ready in &ground.mounts {
        out.push(match &ready.source {
            Some(source) => bind(&directory.join(source), &ready.config),
            None => tmpfs(&ready.config),
        });
    }
    out
}

fn bind(source: &Path, config: &MountConfig) -> Value {
    let given = match &config.kind {
        MountKind::Bind { options, .. } => options.clone(),
        MountKind::Volume { .. } | MountKind::Image { .. } | MountKind::Tmpfs { .. } => {
            BindOptions::default()
        }
    };
    let mut options = vec!["rbind", given.propagation.word()];
    let words = [(given.nosuid, "nosuid"), (given.nodev, "nodev"), (given.noexec, "noexec")];
    options.extend(words.iter().filter(|(wanted, _)| *wanted).map(|(_, word)| *word));
    if config.read_only {
        options.push("ro");
    }
    json!({ "type": "bind", "source": source, "destination": config.target, "options": options })
}

fn tmpfs(config: &MountConfig) -> Value {
    let default = TmpfsOptions::default();
    let (size, mode, given) = match &config.kind {
        MountKind::Tmpfs { size, mode, options } => (*size, *mode, options),
        MountKind::Bind { .. } | MountKind::Volume { .. } | MountKind::Image { .. } => (None, None, &default),
    };
    let mut options = vec![format!("mode={:o}", mode.unwrap_or(0o1777))];
    options.extend(size.filter(|s| *s > 0).map(|s| format!("size={s}")));
    options.extend(given.more.iter().map(|(k, v)| if v.is_empty() { k.clone() } else { format!("{k}={v}") }));
    for (allowed, word) in [(given.exec, "noexec"), (given.suid, "nosuid"), (given.dev, "nodev")] {
        if !allowed {
            options.push(word.to_owned());
        }
    }
    if config.read_only {
        options.push("ro".into());
    }
    json!({ "type": "tmpfs", "source": "tmpfs", "destination": config.target, "options": options })
}

/// `linux`.
pub fn linux(spec: &ShimSpec, ground: &Ground, capabilities: Capabilities) -> Result<Value, Error> {
    let chosen = devices::chosen(spec)?;
    let nodes = devices::nodes(spec, &chosen);
    let mut resources = cgroup::oci::resources(&spec.resources)?;
    resources["devices"] = match devices::rules(spec, &chosen)? {
        None => json!([{ "allow": true, "access": "rwm" }]),
        Some(rules) => {
            let deny = json!({ "allow": false, "access": "rwm" });
            [deny].into_iter().chain(rules.iter().map(devices::DeviceRule::oci)).collect()
        }
    };
    let mut sysctls = spec.sysctls.clone();
    if !spec.domainname.is_empty() && spec.uts == Namespace::New {
        sysctls.insert("kernel.domainname".into(), spec.domainname.clone());
    }
    let [masked, read_only] = match spec.privileged {
        true => [Vec::new(), Vec::new()],
        false => paths::named(spec.masked_paths.as_deref(), spec.readonly_paths.as_deref()),
    };
    let mut out = json!({
        "namespaces": namespaces(spec), "cgroupsPath": format!("/{}", spec.cgroup.trim_start_matches('/')),
        "resources": resources, "sysctl": sysctls, "devices": nodes.iter().map(devices::HostDevice::oci).collect::<Vec<_>>(),
        "maskedPaths": masked, "readonlyPaths": read_only,
    });
    if let Some(profile) = seccomp::oci::profile(&spec.seccomp, capabilities, spec.privileged)? {
        out["seccomp"] = profile;
    }
    if !spec.confined.mount_label.is_empty() {
        out["mountLabel"] = json!(spec.confined.mount_label);
    }
    if let Some(propagation) = root_propagation(ground) {
        out["rootfsPropagation"] = propagation.into();
    }
    Ok(out)
}

/// A bind can pass mounts on only if the root does.
fn root_propagation(ground: &Ground) -> Option<&'static str> {
    let all = || {
        ground.mounts.iter().filter_map(|m| match &m.config.kind {
            MountKind::Bind { options, .. } => Some(options.propagation),
            MountKind::Volume { .. } | MountKind::Image { .. } | MountKind::Tmpfs { .. } => None,
        })
    };
    if all().any(|p| matches!(p, Propagation::Shared | Propagation::Rshared)) {
        return Some("shared");
    }
    all().any(|p| matches!(p, Propagation::Slave | Propagation::Rslave)).then_some("rslave")
}

fn namespaces(spec: &ShimSpec) -> Vec<Value> {
    let mut out = vec![json!({ "type": "mount" })];
    let network = match &spec.network {
        NetworkNamespace::New => Namespace::New,
        NetworkNamespace::Host => Namespace::Host,
        NetworkNamespace::Path(path) => Namespace::Path(path.clone()),
    };
    for (kind, namespace) in [
        ("network", &network),
        ("pid", &spec.pid),
        ("ipc", &spec.ipc),
        ("uts", &spec.uts),
        ("cgroup", &spec.cgroupns),
    ] {
        let mut one = Map::from_iter([("type".to_owned(), Value::from(kind))]);
        match namespace {
            Namespace::Host => continue,
            Namespace::New => {}
            Namespace::Path(path) => drop(one.insert("path".into(), json!(path))),
        }
        out.push(one.into());
    }
    out
}
