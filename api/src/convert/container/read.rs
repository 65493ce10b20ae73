//! Reads the body of `POST /containers/create`.

use std::time::Duration;

use serde_json::{Value, json};
use skep_engine::{ContainerConfig, NetworkMode};

use super::health::read_health;
use super::host_config::read_host_config;
use super::networking::{DEFAULT, check_mode, check_port_key, read_mac, read_network};
use crate::convert::mounts::read_bind;
use crate::error::{ApiError, ApiResult};
use crate::fields::{Fields, Unknown};

/// What a `create` asks for.
#[derive(Clone, Debug)]
pub struct Create {
    /// For the engine.
    pub config: ContainerConfig,
    /// What is asked for to no effect.
    pub warnings: Vec<String>,
}

/// Reads a whole request body.
pub fn read(body: &[u8]) -> ApiResult<Create> {
    let mut verbatim: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let unknown = Unknown::default();
    let mut f = Fields::parse_telling(body, &unknown)?;
    let mut config = ContainerConfig {
        image: f.string("Image")?,
        env: f.strings("Env")?,
        working_dir: f.opt_string("WorkingDir")?,
        user: f.opt_string("User")?,
        hostname: f.opt_string("Hostname")?,
        domainname: f.opt_string("Domainname")?,
        labels: f.string_map("Labels")?,
        tty: f.bool("Tty")?,
        open_stdin: f.bool("OpenStdin")?,
        stdin_once: f.bool("StdinOnce")?,
        stop_signal: f.opt_string("StopSignal")?,
        stop_timeout: f
            .opt_i64("StopTimeout")?
            .map(|n| u64::try_from(n).map_or(skep_engine::PATIENT, Duration::from_secs)),
        ..ContainerConfig::default()
    };
    if config.image.is_empty() {
        return Err(ApiError::bad_request(
            "Image is missing: no image is named to create the container from",
        ));
    }
    // An empty list means "as the image says"; one empty string (`--entrypoint ""`) clears it.
    config.entrypoint = f.opt_strings("Entrypoint")?.filter(|e| !e.is_empty());
    if config.entrypoint.as_ref().is_some_and(|e| e.len() == 1 && e[0].is_empty()) {
        config.entrypoint = Some(Vec::new());
    }
    config.cmd = f.opt_strings("Cmd")?.filter(|c| !c.is_empty());
    if config.entrypoint.is_some() && config.cmd.is_none() {
        // The image's CMD was written for the image's own entrypoint.
        config.cmd = Some(Vec::new());
    }
    config.health = read_health(f.object("Healthcheck")?)?;
    for port in f.entries("ExposedPorts")?.keys() {
        let (port, protocol) = check_port_key("ExposedPorts", port)?;
        config.exposed.push(format!("{port}/{protocol}"));
    }
    let volumes = f.entries("Volumes")?;
    let disabled = f.bool("NetworkDisabled")?;
    let host = f.object("HostConfig")?;
    let (mode, volume_driver) = read_host_config(host, &mut config)?;
    for target in volumes.keys() {
        let mut mount = read_bind(target, &volume_driver)?;
        if !config.mounts.iter().any(|m| m.target == mount.target) {
            mount.mode.clear();
            config.mounts.push(mount);
        }
    }
    let mode = if disabled { "none".to_owned() } else { mode };
    config.network = read_network(&mode, f.object("NetworkingConfig")?)?;
    // Since API 1.44 an endpoint has it; before, and still with some clients, the container.
    let mac = read_mac("MacAddress", &f.string("MacAddress")?)?;
    if let (Some(mac), NetworkMode::Networks(joins)) = (mac, &mut config.network)
        && let Some(first) = joins.first_mut()
    {
        first.mac.get_or_insert(mac);
    }
    let mut warnings = check_mode(&config, !config.links.is_empty(), mac.is_some())?;
    if config.resources.oom_kill_disable && config.resources.memory.is_none() {
        warnings.push("OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources.".into());
    }
    if config.security.selinux.names_one() && !skep_engine::lsm::selinux::is_enabled() {
        warnings.push(
            "SELinux is not enabled on this host: the label options of --security-opt were discarded.".into(),
        );
    }
    if !matches!(&config.network, NetworkMode::Networks(joins) if joins.iter().any(|j| j.network == DEFAULT))
    {
        // On a network of the user's own the endpoint has them, as names that resolve.
        config.links.clear();
    }
    // Which streams the creating client attaches itself to, and what only a build reads.
    f.drop_all(&["AttachStdin", "AttachStdout", "AttachStderr", "ArgsEscaped", "OnBuild", "Shell"]);
    f.refuse_rest(&[])?;
    unknown.paths().iter().for_each(|path| discard(&mut verbatim, path));
    config.api_request = Some(kept(verbatim));
    warnings.extend(unknown.warnings());
    Ok(Create { config, warnings })
}

/// Takes a field out of a request, so that `inspect` does not show it as honoured.
fn discard(request: &mut Value, path: &str) {
    let (parent, key) = path.rsplit_once('.').unwrap_or(("", path));
    let steps = parent.split(['.', '[']).filter(|step| !step.is_empty());
    let pointer: String = steps.map(|step| format!("/{}", step.trim_end_matches(']'))).collect();
    if let Some(Value::Object(map)) = request.pointer_mut(&pointer) {
        map.remove(key);
    }
}

/// The parts of the request that `inspect` shows and that the engine's own model does not carry.
fn kept(mut verbatim: Value) -> Value {
    let mut keep = json!({});
    for key in ["HostConfig", "ExposedPorts", "Volumes", "AttachStdin", "AttachStdout", "AttachStderr"] {
        if let Some(value) = verbatim.get_mut(key) {
            keep[key] = value.take();
        }
    }
    keep
}
