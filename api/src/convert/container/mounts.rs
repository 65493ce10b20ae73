//! Reads the three ways a request can ask for a mount: `Binds`, `Mounts`, `Tmpfs`.

use std::path::PathBuf;

use serde_json::json;
use skep_engine::{MountConfig, MountKind};

use crate::error::{ApiError, ApiResult};
use crate::fields::Fields;
use skep_engine::parse_size;

fn target(path: &str, target: &str) -> ApiResult<PathBuf> {
    if !target.starts_with('/') || target.trim_matches('/').is_empty() {
        return Err(ApiError::bad_request(format!(
            "{path}: invalid mount target {target:?}: give an absolute path in the container other than /"
        )));
    }
    Ok(target.into())
}

/// `source:target[:options]`; answers the source too.
pub(super) fn read_bind(path: &str, bind: &str) -> ApiResult<(MountConfig, PathBuf)> {
    let parts: Vec<&str> = bind.split(':').collect();
    let (source, to, options) = match parts[..] {
        [source, to] => (source, to, ""),
        [source, to, options] => (source, to, options),
        _ => {
            return Err(ApiError::bad_request(format!(
                "{path}: invalid volume specification {bind:?}: write /host/path:/container/path[:ro]"
            )));
        }
    };
    if !source.starts_with('/') {
        return Err(ApiError::bad_request(format!(
            "{path}: {source:?} would be a named volume: these come in a later version; give an absolute path of the host"
        )));
    }
    let mut read_only = false;
    for option in options.split(',').filter(|o| !o.is_empty()) {
        match option {
            "ro" => read_only = true,
            // What happens anyhow: writable, private, and no SELinux labels to share.
            "rw" | "rprivate" | "z" | "Z" | "nocopy" => {}
            other => {
                return Err(ApiError::bad_request(format!(
                    "{path}: invalid mode {other:?} in {bind:?}: use ro or rw"
                )));
            }
        }
    }
    let source = PathBuf::from(source);
    let kind = MountKind::Bind { source: source.clone() };
    Ok((MountConfig { kind, target: target(path, to)?, read_only }, source))
}

/// One of `Mounts`.
pub(super) fn read_mount(mut f: Fields) -> ApiResult<MountConfig> {
    let kind = f.string("Type")?;
    let source = f.string("Source")?;
    let to = target(&f.path("Target"), &f.string("Target")?)?;
    let read_only = f.bool("ReadOnly")?;
    f.only("Consistency", &[json!("default"), json!("consistent")], "leave it out")?;
    let kind = match kind.as_str() {
        "bind" => {
            let mut bind = f.object("BindOptions")?;
            bind.only("Propagation", &[json!("rprivate")], "mounts are rprivate; leave it out")?;
            bind.refuse_rest(&[("CreateMountpoint", "make the directory first, or use -v")])?;
            if !source.starts_with('/') {
                return Err(ApiError::bad_request(format!(
                    "invalid mount config for type \"bind\": invalid mount path: '{source}' mount path must be absolute"
                )));
            }
            if !std::path::Path::new(&source).exists() {
                return Err(ApiError::bad_request(format!(
                    "invalid mount config for type \"bind\": bind source path does not exist: {source}"
                )));
            }
            MountKind::Bind { source: source.into() }
        }
        "tmpfs" if !source.is_empty() => {
            return Err(ApiError::bad_request(format!("{}: a tmpfs has no source", f.path("Source"))));
        }
        "tmpfs" => {
            let mut tmpfs = f.object("TmpfsOptions")?;
            let size = tmpfs.opt_u64("SizeBytes")?.filter(|n| *n != 0);
            let mode = tmpfs.opt_u64("Mode")?.filter(|n| *n != 0).map(|n| n as u32);
            tmpfs.refuse_rest(&[])?;
            MountKind::Tmpfs { size, mode }
        }
        "volume" | "" => {
            return Err(ApiError::bad_request(format!(
                "{} = \"volume\": named volumes come in a later version; use type bind or tmpfs",
                f.path("Type")
            )));
        }
        other => {
            return Err(ApiError::bad_request(format!(
                "{} = {other:?} is not supported: use bind or tmpfs",
                f.path("Type")
            )));
        }
    };
    f.refuse_rest(&[])?;
    Ok(MountConfig { kind, target: to, read_only })
}

/// One of `Tmpfs`: target and mount options.
pub(super) fn read_tmpfs(path: &str, to: &str, options: &str) -> ApiResult<MountConfig> {
    let (mut size, mut mode, mut read_only) = (None, None, false);
    for option in options.split(',').filter(|o| !o.is_empty()) {
        let bad = || {
            ApiError::bad_request(format!(
                "{path}: tmpfs option {option:?} is not supported: use size=, mode=, ro or rw"
            ))
        };
        match option.split_once('=') {
            Some(("size", value)) => size = Some(parse_size(value).ok_or_else(bad)?),
            Some(("mode", value)) => mode = Some(u32::from_str_radix(value, 8).map_err(|_| bad())?),
            None if option == "ro" => read_only = true,
            None if matches!(option, "rw" | "nosuid" | "nodev" | "noexec" | "rprivate") => {}
            _ => return Err(bad()),
        }
    }
    Ok(MountConfig { kind: MountKind::Tmpfs { size, mode }, target: target(path, to)?, read_only })
}
