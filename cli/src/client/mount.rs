//! `--mount type=bind,source=/a,target=/b,readonly`, of containers and of services.

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

/// Reads it as the API's mount.
pub fn mount(text: &str) -> Result<Value> {
    let mut mount = json!({ "Type": "volume" });
    for field in fields(text)? {
        let (name, value) = field.split_once('=').unwrap_or((&field, ""));
        let name = name.to_lowercase();
        let bare = !field.contains('=');
        let switch = || match value {
            _ if bare => Ok(true),
            "1" | "t" | "T" | "true" | "True" | "TRUE" => Ok(true),
            "0" | "f" | "F" | "false" | "False" | "FALSE" => Ok(false),
            _ => bail!("invalid value for {name}: {value}"),
        };
        if bare && !BARE.contains(&name.as_str()) {
            bail!("invalid field '{field}' must be a key=value pair");
        }
        match name.as_str() {
            "type" => mount["Type"] = value.to_lowercase().into(),
            "source" | "src" => mount["Source"] = source(value)?.into(),
            "target" | "dst" | "destination" => mount["Target"] = value.into(),
            "readonly" | "ro" => mount["ReadOnly"] = switch()?.into(),
            "consistency" => mount["Consistency"] = value.to_lowercase().into(),
            "bind-propagation" => mount["BindOptions"]["Propagation"] = value.to_lowercase().into(),
            "bind-nonrecursive" => mount["BindOptions"]["NonRecursive"] = switch()?.into(),
            "bind-recursive" => match value {
                "enabled" => {}
                "disabled" => mount["BindOptions"]["NonRecursive"] = true.into(),
                "writable" => mount["BindOptions"]["ReadOnlyNonRecursive"] = true.into(),
                "readonly" => mount["BindOptions"]["ReadOnlyForceRecursive"] = true.into(),
                _ => bail!(
                    "invalid value for {name}: {value} (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")"
                ),
            },
            "bind-create-src" => mount["BindOptions"]["CreateMountpoint"] = switch()?.into(),
            "volume-subpath" => mount["VolumeOptions"]["Subpath"] = value.into(),
            "volume-nocopy" => mount["VolumeOptions"]["NoCopy"] = switch()?.into(),
            "volume-driver" => mount["VolumeOptions"]["DriverConfig"]["Name"] = value.into(),
            "volume-label" => {
                let (k, v) = value.split_once('=').unwrap_or((value, ""));
                mount["VolumeOptions"]["Labels"][k] = v.into();
            }
            "volume-opt" => {
                let (k, v) = value.split_once('=').unwrap_or((value, ""));
                mount["VolumeOptions"]["DriverConfig"]["Options"][k] = v.into();
            }
            "image-subpath" => mount["ImageOptions"]["Subpath"] = value.into(),
            "tmpfs-size" => {
                let size = skep_engine::parse_size(value);
                let size = size.with_context(|| format!("invalid value for {name}: {value}"))?;
                mount["TmpfsOptions"]["SizeBytes"] = size.into();
            }
            "tmpfs-mode" => {
                let mode = u32::from_str_radix(value, 8);
                mount["TmpfsOptions"]["Mode"] =
                    mode.ok().with_context(|| format!("invalid value for {name}: {value}"))?.into();
            }
            _ => bail!("unexpected key '{name}' in '{field}'"),
        }
    }
    let kind = mount["Type"].as_str().unwrap_or_default().to_owned();
    if kind.is_empty() {
        bail!("type is required");
    }
    if mount["Target"].as_str().unwrap_or_default().is_empty() {
        bail!("target is required");
    }
    for (options, of) in [
        ("BindOptions", "bind"),
        ("VolumeOptions", "volume"),
        ("ImageOptions", "image"),
        ("TmpfsOptions", "tmpfs"),
    ] {
        if !mount[options].is_null() && kind != of {
            bail!("cannot mix '{of}-*' options with mount type '{kind}'");
        }
    }
    for (option, words) in [
        ("ReadOnlyNonRecursive", "bind-recursive=writable"),
        ("ReadOnlyForceRecursive", "bind-recursive=readonly"),
    ] {
        if mount["BindOptions"][option] == true && mount["ReadOnly"] != true {
            bail!("option '{words}' requires 'readonly' to be specified in conjunction");
        }
    }
    if mount["BindOptions"]["ReadOnlyForceRecursive"] == true
        && mount["BindOptions"]["Propagation"] != "rprivate"
    {
        bail!(
            "option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be specified in conjunction"
        );
    }
    for options in ["BindOptions", "VolumeOptions", "ImageOptions", "TmpfsOptions"] {
        if mount[options].is_null()
            && let Some(map) = mount.as_object_mut()
        {
            map.remove(options);
        }
    }
    Ok(mount)
}

/// For the parser of arguments: whether it is a mount at all.
pub fn checked(text: &str) -> Result<String, String> {
    mount(text).map(|_| text.to_owned()).map_err(|e| format!("{e:#}"))
}

/// Fields that may stand without a value.
const BARE: [&str; 5] = ["readonly", "ro", "volume-nocopy", "bind-nonrecursive", "bind-create-src"];

/// A path that begins with a dot is one of ours.
fn source(value: &str) -> Result<String> {
    if value != "." && !value.starts_with("./") && !value.starts_with("../") && value != ".." {
        return Ok(value.to_owned());
    }
    let path = std::path::absolute(value).with_context(|| format!("find {value}"))?;
    // As far as can be without looking at the disk, which may be another host's.
    let mut clean = std::path::PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => drop(clean.pop()),
            part => clean.push(part),
        }
    }
    Ok(clean.display().to_string())
}

/// Fields between commas; one that holds commas stands between double quotes (RFC 4180).
fn fields(text: &str) -> Result<Vec<String>> {
    let (mut fields, mut rest) = (Vec::new(), text);
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let (mut field, mut left) = (String::new(), quoted);
            loop {
                let Some((before, after)) = left.split_once('"') else {
                    bail!("parse error in {text:?}: extraneous or missing \" in quoted-field");
                };
                field.push_str(before);
                left = after;
                let Some(more) = left.strip_prefix('"') else { break };
                field.push('"');
                left = more;
            }
            fields.push(field);
            match left.strip_prefix(',') {
                Some(next) => rest = next,
                None if left.is_empty() => return Ok(fields),
                None => bail!("parse error in {text:?}: extraneous or missing \" in quoted-field"),
            }
        } else {
            let (field, next) = rest.split_once(',').map_or((rest, None), |(f, n)| (f, Some(n)));
            fields.push(field.trim().to_owned());
            match next {
                Some(next) => rest = next,
                None => return Ok(fields),
            }
        }
    }
}

/// The `-v` of a command as binds and anonymous volumes.
pub fn volumes(given: &[String]) -> Result<(Vec<String>, Map<String, Value>)> {
    let (mut binds, mut anonymous) = (Vec::new(), Map::new());
    for text in given {
        match text.split_once(':') {
            None => drop(anonymous.insert(text.clone(), json!({}))),
            Some((host, rest)) => binds.push(format!("{}:{rest}", source(host)?)),
        }
    }
    Ok((binds, anonymous))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_and_what_is_not_one_is_refused() {
        let read = mount("type=bind,source=/a,target=/b,readonly,bind-propagation=rslave").expect("a mount");
        assert_eq!(
            read,
            json!({"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": true,
                   "BindOptions": {"Propagation": "rslave"}})
        );
        assert_eq!(
            mount("type=tmpfs,dst=/t,tmpfs-size=1m").expect("a mount")["TmpfsOptions"]["SizeBytes"],
            1 << 20
        );
        let quoted =
            mount(r#"src=v,dst=/t,"volume-opt=o=addr=1.2.3.4,rw",volume-subpath=a"#).expect("a mount");
        assert_eq!(
            quoted["VolumeOptions"],
            json!({"DriverConfig": {"Options": {"o": "addr=1.2.3.4,rw"}}, "Subpath": "a"})
        );
        let given = ["/data", "name:/x:ro", "./a:/b"].map(str::to_owned);
        let (binds, anonymous) = volumes(&given).expect("volumes");
        assert!(anonymous.contains_key("/data") && binds[0] == "name:/x:ro", "{binds:?}");
        assert!(binds[1].starts_with('/') && binds[1].ends_with("/a:/b"), "{binds:?}");
        for bad in [
            "type=tmpfs,dst=/t,volume-nocopy",
            "type=bind,src=/a,dst=/b,bind-recursive=readonly",
            "",
            "type=bind",
            "target=/b,colour=red",
            "target=/b,readonly=maybe",
            "target",
        ] {
            assert!(mount(bad).is_err(), "{bad}");
        }
    }
}
