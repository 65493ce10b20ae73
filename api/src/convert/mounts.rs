//! Reads the ways a request can ask for a mount: `Binds`, `Mounts`, `Tmpfs`. Messages are Docker's.

use std::path::{Component, Path, PathBuf};

use serde_json::{Value, json};
use skep_engine::{
    BindOptions, ImageOptions, MountConfig, MountKind, Propagation, TmpfsOptions, VolumeOptions, parse_size,
};

use crate::error::{ApiError, ApiResult};
use crate::fields::Fields;

fn invalid(kind: &str, why: impl std::fmt::Display) -> ApiError {
    ApiError::bad_request(format!("invalid mount config for type \"{kind}\": {why}"))
}

/// A place in the container.
fn target(target: &str) -> Result<PathBuf, String> {
    let path = Path::new(target);
    if target.is_empty() {
        return Err("field Target must not be empty".into());
    }
    if !path.is_absolute() {
        return Err(format!("invalid mount path: '{target}' mount path must be absolute"));
    }
    let clean: PathBuf = path.components().filter(|c| *c != Component::CurDir).collect();
    if clean.parent().is_none() {
        return Err("invalid specification: destination can't be '/'".into());
    }
    Ok(clean)
}

/// `source:target[:mode]`, or a bare target, which asks for an anonymous volume.
pub fn read_bind(bind: &str, driver: &str) -> ApiResult<MountConfig> {
    let bad_spec = || ApiError::bad_request(format!("invalid volume specification: '{bind}'"));
    let bad_mode = |mode: &str| ApiError::bad_request(format!("invalid mode: {mode}"));
    let parts: Vec<&str> = bind.split(':').collect();
    let (source, to, mode) = match parts[..] {
        [to] if !to.is_empty() => ("", to, ""),
        // A place and a mode make no volume.
        [source, to] if !source.is_empty() && !is_mode(to) => (source, to, ""),
        [source, to, mode] if !source.is_empty() => (source, to, mode),
        _ => return Err(bad_spec()),
    };
    let kind = if source.starts_with('/') { "bind" } else { "volume" };
    let told = |why: String| {
        ApiError::bad_request(format!("{}: {}", bad_spec().message, invalid(kind, why).message))
    };
    let (mut read_only, mut no_copy, mut propagation) = (false, false, None);
    for word in mode.split(',').filter(|w| !w.is_empty()) {
        match word {
            "ro" => read_only = true,
            "nocopy" => no_copy = true,
            // No labels are kept, and files are consistent anyhow.
            "rw" | "z" | "Z" | "consistent" | "cached" | "delegated" => {}
            other => propagation = Some(Propagation::parse(other).ok_or_else(|| bad_mode(mode))?),
        }
    }
    let target = target(to).map_err(&told)?;
    if source.starts_with('/') {
        if no_copy {
            return Err(bad_mode(mode));
        }
        let options = BindOptions {
            propagation: propagation.unwrap_or_default(),
            create: true,
            ..BindOptions::default()
        };
        let kind = MountKind::Bind { source: source.into(), options };
        return Ok(MountConfig { kind, target, read_only, mode: mode.into() });
    }
    if propagation.is_some() {
        return Err(bad_mode(mode));
    }
    let options = VolumeOptions {
        driver: driver.to_owned(),
        no_copy,
        anonymous: source.is_empty(),
        ..VolumeOptions::default()
    };
    let kind = MountKind::Volume { name: source.into(), options };
    let mode = if mode.is_empty() { "z" } else { mode };
    Ok(MountConfig { kind, target, read_only, mode: mode.into() })
}

fn is_mode(text: &str) -> bool {
    let known = ["ro", "rw", "nocopy", "z", "Z", "consistent", "cached", "delegated"];
    text.split(',').all(|w| known.contains(&w) || Propagation::parse(w).is_some())
}

/// One of `Mounts`.
pub fn read_mount(mut f: Fields) -> ApiResult<MountConfig> {
    let kind = f.string("Type")?;
    let kind = if kind.is_empty() { "volume".to_owned() } else { kind };
    let source = f.string("Source")?;
    let to = f.string("Target")?;
    let read_only = f.bool("ReadOnly")?;
    let consistency = ["default", "consistent", "cached", "delegated"].map(|c| json!(c));
    f.only("Consistency", &consistency, "files are consistent anyhow; leave it out")?;
    let (bind, volume, tmpfs) =
        (f.opt_object("BindOptions")?, f.opt_object("VolumeOptions")?, f.opt_object("TmpfsOptions")?);
    let image = f.opt_object("ImageOptions")?;
    let extra = |name: &str, given: bool| match given {
        true => Err(invalid(&kind, format!("field {name} must not be specified"))),
        false => Ok(()),
    };
    let target = target(&to).map_err(|why| invalid(&kind, why))?;
    if kind != "image" {
        extra("ImageOptions", image.is_some())?;
    }
    let mut mode = "";
    let what = match kind.as_str() {
        "bind" => {
            extra("VolumeOptions", volume.is_some())?;
            extra("TmpfsOptions", tmpfs.is_some())?;
            if source.is_empty() {
                return Err(invalid(&kind, "field Source must not be empty"));
            }
            if !source.starts_with('/') {
                let why = format!("invalid mount path: '{source}' mount path must be absolute");
                return Err(invalid(&kind, why));
            }
            let options = bind.map(|b| read_bind_options(b, read_only)).transpose()?.unwrap_or_default();
            MountKind::Bind { source: source.into(), options }
        }
        "volume" => {
            extra("BindOptions", bind.is_some())?;
            extra("TmpfsOptions", tmpfs.is_some())?;
            if source.is_empty() && read_only {
                return Err(invalid(&kind, "must not set ReadOnly mode when using anonymous volumes"));
            }
            mode = "z";
            let mut options = volume.map(read_volume_options).transpose()?.unwrap_or_default();
            if source.is_empty() && options.subpath.is_some() {
                return Err(invalid(&kind, "must not set Subpath when using anonymous volumes"));
            }
            options.anonymous = source.is_empty();
            MountKind::Volume { name: source, options }
        }
        "image" => {
            extra("BindOptions", bind.is_some())?;
            extra("VolumeOptions", volume.is_some())?;
            extra("TmpfsOptions", tmpfs.is_some())?;
            if source.is_empty() {
                return Err(invalid(&kind, "field Source must not be empty"));
            }
            let subpath = image.map(|mut i| {
                let subpath = subpath(&kind, i.opt_string("Subpath")?)?;
                i.refuse_rest(&[]).map(|()| subpath)
            });
            let options = ImageOptions { subpath: subpath.transpose()?.flatten(), ..ImageOptions::default() };
            f.refuse_rest(&[])?;
            let kind = MountKind::Image { name: source, options };
            return Ok(MountConfig { kind, target, read_only: true, mode: String::new() });
        }
        "tmpfs" => {
            extra("BindOptions", bind.is_some())?;
            extra("VolumeOptions", volume.is_some())?;
            extra("Source", !source.is_empty())?;
            let mut tmpfs = tmpfs.map_or_else(|| Fields::of(Value::Null, f.path("TmpfsOptions")), Ok)?;
            let size = tmpfs.opt_u64("SizeBytes")?.filter(|n| *n != 0);
            let mode = tmpfs.opt_u64("Mode")?.filter(|n| *n != 0).map(|n| n as u32 & 0o7777);
            let mut options = TmpfsOptions::default();
            if let Some(Value::Array(words)) = tmpfs.take("Options") {
                for word in &words {
                    let pair: Vec<&str> =
                        word.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                    let bad = || invalid("tmpfs", format!("invalid option: {word}"));
                    let (name, value) = match pair[..] {
                        [name] => (name, None),
                        [name, value] => (name, Some(value)),
                        _ => return Err(bad()),
                    };
                    tmpfs_option(&mut options, name, value).ok_or_else(bad)?;
                }
            }
            tmpfs.refuse_rest(&[])?;
            MountKind::Tmpfs { size, mode, options }
        }
        "cluster" => {
            return Err(invalid(&kind, "there are no cluster volumes (CSI): use a volume, bind or tmpfs"));
        }
        other => {
            return Err(invalid(other, "mount type unknown: use bind, volume, image or tmpfs"));
        }
    };
    f.refuse_rest(&[])?;
    Ok(MountConfig { kind: what, target, read_only, mode: mode.into() })
}

fn read_bind_options(mut f: Fields, read_only: bool) -> ApiResult<BindOptions> {
    let word = f.string("Propagation")?;
    let propagation = match word.as_str() {
        "" => Propagation::default(),
        word => Propagation::parse(word)
            .ok_or_else(|| invalid("bind", format!("invalid propagation mode: {word}")))?,
    };
    let options = BindOptions {
        propagation,
        create: f.bool("CreateMountpoint")?,
        non_recursive: f.bool("NonRecursive")?,
        read_only_non_recursive: f.bool("ReadOnlyNonRecursive")?,
        ..BindOptions::default()
    };
    // Mounts below are made read-only anyhow, or the container does not start.
    let force = f.bool("ReadOnlyForceRecursive")?;
    f.refuse_rest(&[])?;
    if (force || options.read_only_non_recursive) && !read_only {
        let name = if force { "ReadOnlyForceRecursive" } else { "ReadOnlyNonRecursive" };
        return Err(invalid("bind", format!("mount is read-write, but {name} is set")));
    }
    if force && propagation != Propagation::Rprivate {
        return Err(invalid("bind", "ReadOnlyForceRecursive requires propagation mode rprivate"));
    }
    Ok(options)
}

/// A part of what is mounted.
fn subpath(kind: &str, text: Option<String>) -> ApiResult<Option<PathBuf>> {
    let Some(path) = text.filter(|t| !t.is_empty()).map(PathBuf::from) else { return Ok(None) };
    let inside = path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    match inside {
        true => Ok(Some(path)),
        false => Err(invalid(kind, "subpath must be a relative path within the volume")),
    }
}

fn read_volume_options(mut f: Fields) -> ApiResult<VolumeOptions> {
    let mut driver = f.object("DriverConfig")?;
    let subpath = subpath("volume", f.opt_string("Subpath")?)?;
    let options = VolumeOptions {
        driver: driver.string("Name")?,
        driver_options: driver.string_map("Options")?,
        labels: f.string_map("Labels")?,
        no_copy: f.bool("NoCopy")?,
        subpath,
        anonymous: false,
    };
    driver.refuse_rest(&[])?;
    f.refuse_rest(&[])?;
    Ok(options)
}

/// One of `Tmpfs`: target and mount options.
pub fn read_tmpfs(to: &str, text: &str) -> ApiResult<MountConfig> {
    let target = target(to).map_err(|why| invalid("tmpfs", why))?;
    let (mut size, mut mode, mut read_only) = (None, None, false);
    let mut options = TmpfsOptions { unlisted: true, ..TmpfsOptions::default() };
    for word in text.split(',').filter(|o| !o.is_empty()) {
        let bad = || ApiError::bad_request(format!("invalid tmpfs option [\"{word}\"]"));
        match word.split_once('=') {
            Some(("size", value)) => size = Some(parse_size(value).ok_or_else(bad)?),
            Some(("mode", value)) => mode = Some(u32::from_str_radix(value, 8).map_err(|_| bad())?),
            Some((name, value)) => tmpfs_option(&mut options, name, Some(value)).ok_or_else(bad)?,
            None if word == "ro" => read_only = true,
            None if word == "rw" => read_only = false,
            None => tmpfs_option(&mut options, word, None).ok_or_else(bad)?,
        }
    }
    let kind = MountKind::Tmpfs { size, mode, options };
    Ok(MountConfig { kind, target, read_only, mode: String::new() })
}

fn tmpfs_option(options: &mut TmpfsOptions, name: &str, value: Option<&str>) -> Option<()> {
    match (name, value) {
        ("exec", None) => options.exec = true,
        ("noexec", None) => options.exec = false,
        ("suid", None) => options.suid = true,
        ("nosuid", None) => options.suid = false,
        ("dev", None) => options.dev = true,
        ("nodev", None) => options.dev = false,
        // What happens anyhow.
        ("rprivate" | "private" | "async" | "relatime", None) => {}
        ("uid" | "gid", Some(n)) => {
            n.parse::<u32>().ok()?;
            options.more.insert(name.into(), n.into());
        }
        ("nr_inodes" | "nr_blocks" | "huge" | "mpol", Some(value)) => {
            options.more.insert(name.into(), value.into());
        }
        _ => return None,
    }
    Some(())
}

/// A mount of a container's as `inspect` and `ps` list it; none for what they leave out.
pub fn shown(m: &MountConfig, mountpoint: impl Fn(&str) -> PathBuf) -> Option<Value> {
    let mut out = match &m.kind {
        MountKind::Bind { source, .. } => json!({ "Type": "bind", "Source": source }),
        MountKind::Volume { name, .. } => json!({
            "Type": "volume", "Name": name, "Source": mountpoint(name), "Driver": "local",
        }),
        MountKind::Image { name, .. } => json!({ "Type": "image", "Name": name, "Source": "" }),
        MountKind::Tmpfs { options, .. } if options.unlisted => return None,
        MountKind::Tmpfs { .. } => json!({ "Type": "tmpfs", "Source": "" }),
    };
    out["Destination"] = json!(m.target);
    out["Mode"] = json!(m.mode);
    out["RW"] = json!(!m.read_only);
    out["Propagation"] = match &m.kind {
        MountKind::Bind { options, .. } => json!(options.propagation.word()),
        _ => json!(""),
    };
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(value: Value) -> Result<MountConfig, String> {
        Fields::of(value, "Mounts[0]").and_then(read_mount).map_err(|e| e.message)
    }

    #[test]
    fn volumes_and_binds_are_told_apart_and_modes_are_read() {
        let bind = |text: &str| read_bind(text, "").map_err(|e| e.message);
        assert_eq!(bind("/a:/b:ro,rslave").map(|m| (m.read_only, m.mode)), Ok((true, "ro,rslave".into())));
        let MountKind::Volume { name, options } = bind("data:/b:nocopy").expect("a volume").kind else {
            panic!("a volume")
        };
        assert!(name == "data" && options.no_copy && !options.anonymous);
        assert_eq!(bind("data:/b").expect("a volume").mode, "z");
        assert_eq!(
            bind("/b/./c/").map(|m| (m.volume().map(str::len), m.target)),
            Ok((Some(0), "/b/c".into()))
        );
        for (text, words) in [
            ("/a:/b:foo", "invalid mode: foo"),
            ("a:/b:shared", "invalid mode: shared"),
            ("/a:/b:nocopy", "invalid mode: nocopy"),
            ("/a:ro", "invalid volume specification: '/a:ro'"),
            ("a:b:c:d", "invalid volume specification: 'a:b:c:d'"),
            ("", "invalid volume specification: ''"),
            (
                "/a:/",
                "invalid volume specification: '/a:/': invalid mount config for type \"bind\": invalid specification: destination can't be '/'",
            ),
            (
                "a:b",
                "invalid volume specification: 'a:b': invalid mount config for type \"volume\": invalid mount path: 'b' mount path must be absolute",
            ),
        ] {
            let e = bind(text).expect_err(text);
            assert!(e.contains(words), "{text}: {e}");
        }
    }

    #[test]
    fn mounts_are_read_and_contradictions_refused_in_dockers_words() {
        let options = json!({ "NoCopy": true, "Subpath": "a/b", "Labels": {"x": "y"},
            "DriverConfig": {"Name": "local", "Options": {"type": "tmpfs"}} });
        let read = mount(json!({"Source": "v", "Target": "/t", "VolumeOptions": options}));
        let MountKind::Volume { options, .. } = read.expect("a volume").kind else { panic!("a volume") };
        assert_eq!((options.subpath.as_deref(), options.labels.len()), (Some(Path::new("a/b")), 1));
        for (value, words) in [
            (json!({"Type": "bind", "Target": "/t"}), "field Source must not be empty"),
            (json!({"Type": "bind", "Source": "x", "Target": "/t"}), "'x' mount path must be absolute"),
            (json!({"Type": "bind", "Source": "/x"}), "field Target must not be empty"),
            (json!({"Type": "tmpfs", "Source": "x", "Target": "/t"}), "field Source must not be specified"),
            (json!({"Type": "volume", "Target": "/t", "ReadOnly": true}), "anonymous volumes"),
            (
                json!({"Type": "volume", "Source": "v", "Target": "/t", "VolumeOptions": {"Subpath": "../x"}}),
                "relative path within the volume",
            ),
            (
                json!({"Type": "bind", "Source": "/", "Target": "/t", "VolumeOptions": {"NoCopy": true}}),
                "VolumeOptions must not be",
            ),
            (json!({"Type": "npipe", "Target": "/t"}), "mount type unknown"),
            (json!({"Type": "cluster", "Target": "/t"}), "cluster volumes"),
            (json!({"Target": "/t", "Nope": 1}), "Mounts[0].Nope is not supported"),
        ] {
            let e = mount(value.clone()).expect_err("refused");
            assert!(e.contains(words), "{value}: {e}");
        }
    }

    #[test]
    fn tmpfs_options_are_those_of_tmpfs() {
        let m = read_tmpfs("/t", "size=1m,mode=700,exec,uid=7,ro").expect("valid");
        let MountKind::Tmpfs { size, mode, options } = &m.kind else { panic!("a tmpfs") };
        assert_eq!((*size, *mode, options.exec, options.suid), (Some(1 << 20), Some(0o700), true, false));
        assert!(m.read_only && options.more["uid"] == "7");
        for bad in ["colour=red", "size=big", "mode=9", "nonsense"] {
            assert!(read_tmpfs("/t", bad).is_err(), "{bad}");
        }
    }
}
