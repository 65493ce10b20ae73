//! `--mount type=bind,source=/a,target=/b,readonly`, of containers and of services.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// Reads it as the API's mount.
pub fn mount(text: &str) -> Result<Value> {
    let mut mount = json!({ "Type": "volume" });
    for field in text.split(',') {
        let (name, value) = field.split_once('=').unwrap_or((field, ""));
        let bare = !field.contains('=');
        let switch = || match value {
            _ if bare => Ok(true),
            "1" | "t" | "true" => Ok(true),
            "0" | "f" | "false" => Ok(false),
            _ => bail!("invalid value for {name}: {value}"),
        };
        if bare && !matches!(name, "readonly" | "ro" | "volume-nocopy" | "bind-nonrecursive") {
            bail!("invalid field '{field}' must be a key=value pair");
        }
        match name {
            "type" => mount["Type"] = value.to_lowercase().into(),
            "source" | "src" => mount["Source"] = value.into(),
            "target" | "dst" | "destination" => mount["Target"] = value.into(),
            "readonly" | "ro" => mount["ReadOnly"] = switch()?.into(),
            "consistency" => mount["Consistency"] = value.to_lowercase().into(),
            "bind-propagation" => mount["BindOptions"]["Propagation"] = value.to_lowercase().into(),
            "bind-nonrecursive" => mount["BindOptions"]["NonRecursive"] = switch()?.into(),
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
    if mount["Target"].as_str().unwrap_or_default().is_empty() {
        bail!("target is required");
    }
    Ok(mount)
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
        for bad in ["", "type=bind", "target=/b,colour=red", "target=/b,readonly=maybe", "target"] {
            assert!(mount(bad).is_err(), "{bad}");
        }
    }
}
