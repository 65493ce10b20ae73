//! Reads `TaskTemplate.ContainerSpec`.

use serde_json::json;
use skep_proto::v1::{ContainerSpec, Mount, Ulimit};

use super::read::duration;
use crate::error::{ApiError, ApiResult};
use crate::fields::Fields;

const VOLUMES: &str = "named volumes come in a later version; use type bind or tmpfs";

pub(super) fn read_container(mut f: Fields) -> ApiResult<ContainerSpec> {
    f.only("Isolation", &[json!("default")], "isolation is a Windows setting; leave it out")?;
    let mut health = f.object("Healthcheck")?;
    let test = health.strings("Test")?;
    if !test.is_empty() && test != ["NONE"] {
        let path = health.path("Test");
        return Err(ApiError::bad_request(format!(
            "{path}: health checks come in a later version; leave it out"
        )));
    }
    health.refuse_rest(&[])?;
    let mut dns = f.object("DNSConfig")?;
    let spec = ContainerSpec {
        image: f.string("Image")?,
        command: f.strings("Command")?,
        args: f.strings("Args")?,
        env: f.strings("Env")?,
        dir: f.string("Dir")?,
        user: f.string("User")?,
        groups: f.strings("Groups")?,
        hostname: f.string("Hostname")?,
        labels: f.string_map("Labels")?,
        tty: f.bool("TTY")?,
        read_only: f.bool("ReadOnly")?,
        stop_signal: f.string("StopSignal")?,
        stop_grace_period_ns: duration(&mut f, "StopGracePeriod")?.unwrap_or(0),
        mounts: f.objects("Mounts")?.into_iter().map(read_mount).collect::<ApiResult<_>>()?,
        cap_add: f.strings("CapabilityAdd")?,
        cap_drop: f.strings("CapabilityDrop")?,
        sysctls: f.string_map("Sysctls")?,
        ulimits: f.objects("Ulimits")?.into_iter().map(read_ulimit).collect::<ApiResult<_>>()?,
        init: f.opt_bool("Init")?,
        health: None,
        hosts: f.strings("Hosts")?,
        dns_servers: dns.strings("Nameservers")?,
        dns_search: dns.strings("Search")?,
        dns_options: dns.strings("Options")?,
        oom_score_adj: f.i64("OomScoreAdj")?,
    };
    dns.refuse_rest(&[])?;
    if spec.image.is_empty() {
        let path = f.path("Image");
        return Err(ApiError::bad_request(format!("{path} is missing: name an image")));
    }
    f.refuse_rest(&[
        ("Secrets", "secrets come in a later version; pass the value by env or a bind mount"),
        ("Configs", "configs come in a later version; pass the value by env or a bind mount"),
        ("Privileges", "the default seccomp profile and no labels are used"),
        ("OpenStdin", "a service's task has nobody at its stdin; use docker run -i"),
    ])?;
    Ok(spec)
}

fn read_mount(mut f: Fields) -> ApiResult<Mount> {
    let kind = f.string("Type")?;
    f.only("Consistency", &[json!("default"), json!("consistent")], "leave it out")?;
    let mut bind = f.object("BindOptions")?;
    bind.only("Propagation", &[json!("rprivate")], "mounts are rprivate; leave it out")?;
    bind.refuse_rest(&[])?;
    let mut tmpfs = f.object("TmpfsOptions")?;
    let mount = Mount {
        source: f.string("Source")?,
        target: f.string("Target")?,
        read_only: f.bool("ReadOnly")?,
        tmpfs_size_bytes: tmpfs.i64("SizeBytes")?,
        r#type: kind,
    };
    tmpfs.refuse_rest(&[("Mode", "a tmpfs of a service has mode 1777; leave it out")])?;
    let path = |key| f.path(key);
    match mount.r#type.as_str() {
        "bind" if !mount.source.starts_with('/') => Err(ApiError::bad_request(format!(
            "{} = {:?} must be an absolute path of the host",
            path("Source"),
            mount.source
        ))),
        "tmpfs" if !mount.source.is_empty() => {
            Err(ApiError::bad_request(format!("{}: a tmpfs has no source", path("Source"))))
        }
        "bind" | "tmpfs" if mount.target.starts_with('/') => f.refuse_rest(&[]).map(|()| mount),
        "bind" | "tmpfs" => Err(ApiError::bad_request(format!(
            "{} = {:?} must be an absolute path in the container",
            path("Target"),
            mount.target
        ))),
        "volume" | "" => Err(ApiError::bad_request(format!("{} = \"volume\": {VOLUMES}", path("Type")))),
        other => Err(ApiError::bad_request(format!(
            "{} = {other:?} is not supported: use bind or tmpfs",
            path("Type")
        ))),
    }
}

fn read_ulimit(mut f: Fields) -> ApiResult<Ulimit> {
    let ulimit = Ulimit { name: f.string("Name")?, soft: f.i64("Soft")?, hard: f.i64("Hard")? };
    f.refuse_rest(&[])?;
    Ok(ulimit)
}
