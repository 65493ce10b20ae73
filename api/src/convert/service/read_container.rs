//! Reads `TaskTemplate.ContainerSpec`.

use serde_json::json;
use skep_engine::{MountConfig, MountKind, Propagation, TmpfsOptions};
use skep_proto::v1::{
    BindOptions, ContainerSpec, DependencyKind, HealthConfig, Mount, Ulimit, VolumeOptions,
};

use super::read::duration;
use crate::convert::mounts::read_mount;
use crate::convert::{container, dependency};
use crate::error::{ApiError, ApiResult};
use crate::fields::Fields;

pub(super) fn read_container(mut f: Fields) -> ApiResult<ContainerSpec> {
    f.only("Isolation", &[json!("default")], "isolation is a Windows setting; leave it out")?;
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
        mounts: f.objects("Mounts")?.into_iter().map(service_mount).collect::<ApiResult<_>>()?,
        cap_add: f.strings("CapabilityAdd")?,
        cap_drop: f.strings("CapabilityDrop")?,
        sysctls: f.string_map("Sysctls")?,
        ulimits: f.objects("Ulimits")?.into_iter().map(read_ulimit).collect::<ApiResult<_>>()?,
        init: f.opt_bool("Init")?,
        health: f
            .opt_object("Healthcheck")?
            .map(read_health)
            .transpose()?
            .filter(|h| *h != HealthConfig::default()),
        hosts: f.strings("Hosts")?,
        dns_servers: dns.strings("Nameservers")?,
        dns_search: dns.strings("Search")?,
        dns_options: dns.strings("Options")?,
        oom_score_adj: f.i64("OomScoreAdj")?,
        run: f.opt_object("RunOptions")?.map(super::run::read).transpose()?,
        registry_auth: String::new(),
        files: [(DependencyKind::Secret, "Secrets"), (DependencyKind::Config, "Configs")]
            .into_iter()
            .map(|(kind, key)| f.objects(key)?.into_iter().map(|r| dependency::read_file(kind, r)).collect())
            .collect::<ApiResult<Vec<Vec<_>>>>()?
            .concat(),
    };
    dns.refuse_rest(&[])?;
    if spec.image.is_empty() {
        let path = f.path("Image");
        return Err(ApiError::bad_request(format!("{path} is missing: name an image")));
    }
    let labels = "ask for it by RunOptions.SecurityOpt (skep service create --security-opt)";
    f.object("Privileges")?.refuse_rest(&[
        ("CredentialSpec", "credential specs are a Windows setting; leave it out"),
        ("SELinuxContext", labels),
        ("Seccomp", labels),
        ("AppArmor", labels),
        ("NoNewPrivileges", labels),
    ])?;
    f.refuse_rest(&[("OpenStdin", "a service's task has nobody at its stdin; use docker run -i")])?;
    Ok(spec)
}

/// As of a container; whether a bind's source is there only its node can tell.
fn service_mount(f: Fields) -> ApiResult<Mount> {
    let MountConfig { kind, target, read_only, .. } = read_mount(f)?;
    let mut mount = Mount { target: target.to_string_lossy().into_owned(), read_only, ..Mount::default() };
    match kind {
        MountKind::Bind { source, options } => {
            mount.r#type = "bind".into();
            mount.source = source.to_string_lossy().into_owned();
            let propagation = match options.propagation {
                Propagation::Rprivate => String::new(),
                other => other.word().into(),
            };
            let bind = BindOptions {
                propagation,
                non_recursive: options.non_recursive,
                read_only_non_recursive: options.read_only_non_recursive,
                create_mountpoint: options.create,
            };
            mount.bind = Some(bind).filter(|b| *b != BindOptions::default());
        }
        MountKind::Volume { name, options } => {
            mount.r#type = "volume".into();
            mount.source = name;
            let volume = VolumeOptions {
                no_copy: options.no_copy,
                labels: options.labels,
                driver: options.driver,
                driver_options: options.driver_options,
                subpath: options.subpath.map(|p| p.to_string_lossy().into_owned()).unwrap_or_default(),
            };
            mount.volume = Some(volume).filter(|v| *v != VolumeOptions::default());
        }
        MountKind::Image { .. } => {
            return Err(ApiError::bad_request(
                "invalid mount config for type \"image\": services mount no images, as in Docker: use a volume, bind or tmpfs",
            ));
        }
        MountKind::Tmpfs { options, .. } if options != TmpfsOptions::default() => {
            return Err(ApiError::bad_request(format!(
                "TmpfsOptions.Options of the mount at {} is not supported in services: leave it out, and give SizeBytes and Mode alone",
                mount.target
            )));
        }
        MountKind::Tmpfs { size, mode, .. } => {
            mount.r#type = "tmpfs".into();
            mount.tmpfs_size_bytes = size.and_then(|s| i64::try_from(s).ok()).unwrap_or(0);
            mount.tmpfs_mode = mode.unwrap_or(0);
        }
    }
    Ok(mount)
}

fn read_ulimit(mut f: Fields) -> ApiResult<Ulimit> {
    let ulimit = Ulimit { name: f.string("Name")?, soft: f.i64("Soft")?, hard: f.i64("Hard")? };
    f.refuse_rest(&[])?;
    Ok(ulimit)
}

fn read_health(f: Fields) -> ApiResult<HealthConfig> {
    let h = container::read_health(f)?.unwrap_or_default();
    let ns = |d: std::time::Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
    Ok(HealthConfig {
        test: h.test,
        interval_ns: ns(h.interval),
        timeout_ns: ns(h.timeout),
        start_period_ns: ns(h.start_period),
        start_interval_ns: ns(h.start_interval),
        retries: h.retries.into(),
    })
}
