//! `--device` and `--gpus` as the API's device mappings and requests.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// `Devices` and `DeviceRequests`.
pub fn asked(devices: &[String], gpus: &[String]) -> Result<(Vec<Value>, Vec<Value>)> {
    let mut requests = gpus.iter().map(|g| gpu(g)).collect::<Result<Vec<_>>>()?;
    let (named, mapped): (Vec<&String>, Vec<&String>) = devices.iter().partition(|d| is_cdi(d));
    if !named.is_empty() {
        requests.push(json!({ "Driver": "cdi", "DeviceIDs": named }));
    }
    Ok((mapped.into_iter().map(|d| mapping(d)).collect(), requests))
}

/// `vendor.com/class=name`, which no path is like.
fn is_cdi(text: &str) -> bool {
    let kind =
        text.split_once('=').and_then(|(kind, name)| kind.split_once('/').filter(|_| !name.is_empty()));
    kind.is_some_and(|(vendor, class)| {
        let word = |w: &str| {
            w.starts_with(|c: char| c.is_ascii_alphabetic())
                && w.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
        };
        word(vendor) && word(class)
    })
}

/// `PATH[:INNER][:RIGHTS]`.
fn mapping(text: &str) -> Value {
    let parts: Vec<_> = text.splitn(3, ':').collect();
    let (inner, rights) = match parts.as_slice() {
        [_, inner, rights] => (*inner, *rights),
        [path, rights] if rights.chars().all(|c| "rwm".contains(c)) => (*path, *rights),
        [_, inner] => (*inner, "rwm"),
        _ => (parts[0], "rwm"),
    };
    json!({ "PathOnHost": parts[0], "PathInContainer": inner, "CgroupPermissions": rights })
}

/// `all`, a number, or fields in a line of CSV: `count`, `device`, `driver`, `capabilities`, `options`.
fn gpu(text: &str) -> Result<Value> {
    let mut out = json!({ "Count": 0 });
    let fields = csv(text).with_context(|| format!("invalid argument {text:?} for \"--gpus\" flag"))?;
    let mut capabilities = json!(["gpu"]);
    let mut seen: Vec<String> = Vec::new();
    for field in &fields {
        let (key, value) = field.split_once('=').unwrap_or(("count", field));
        if seen.iter().any(|k| k == key) {
            bail!("gpu request key '{key}' can be specified only once");
        }
        seen.push(key.to_owned());
        let list = || value.split(',').map(str::to_owned).collect::<Vec<_>>();
        match key {
            "driver" => out["Driver"] = value.into(),
            "count" if value == "all" => out["Count"] = (-1).into(),
            "count" => {
                let count: i64 = value.parse().ok().with_context(|| {
                    format!("invalid count ({value}): value must be either \"all\" or an integer")
                })?;
                out["Count"] = count.into();
            }
            "device" => out["DeviceIDs"] = json!(list()),
            "capabilities" => {
                let mut set = list();
                set.push("gpu".into());
                capabilities = json!(set);
            }
            "options" => {
                let pairs = value.split(',').map(|o| o.split_once('=').unwrap_or((o, "")));
                out["Options"] =
                    pairs.map(|(k, v)| (k.to_owned(), v.into())).collect::<serde_json::Map<_, _>>().into();
            }
            _ => bail!("unexpected key '{key}' in '{field}'"),
        }
    }
    if !seen.iter().any(|k| k == "count" || k == "device") {
        out["Count"] = 1.into();
    }
    out["Capabilities"] = json!([capabilities]);
    Ok(out)
}

/// Fields of one line; a field in quotes may have commas.
pub fn csv(text: &str) -> Option<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => rest.split_at(rest.find(',').unwrap_or(rest.len())),
        };
        fields.push(field.to_owned());
        match after.strip_prefix(',') {
            Some(more) => rest = more,
            None => return after.is_empty().then_some(fields),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_read_as_dockers_client_reads_them() {
        for (text, wanted) in [
            ("all", json!({ "Count": -1, "Capabilities": [["gpu"]] })),
            ("2", json!({ "Count": 2, "Capabilities": [["gpu"]] })),
            (r#""device=0,1""#, json!({ "Count": 0, "DeviceIDs": ["0", "1"], "Capabilities": [["gpu"]] })),
            (
                r#"driver=nvidia,"capabilities=compute,utility""#,
                json!({ "Count": 1, "Driver": "nvidia", "Capabilities": [["compute", "utility", "gpu"]] }),
            ),
        ] {
            assert_eq!(gpu(text).expect(text), wanted, "{text}");
        }
        for bad in ["some", "count=1,count=2", "colour=red", "\"device=0"] {
            assert!(gpu(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn devices_of_cdi_are_told_from_paths() {
        let (mapped, requests) =
            asked(&["/dev/null:/dev/x:r".into(), "v.com/c=a".into(), "v.com/c=b".into()], &[]).expect("read");
        let path =
            json!({ "PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "r" });
        assert_eq!(mapped, [path]);
        assert_eq!(requests, [json!({ "Driver": "cdi", "DeviceIDs": ["v.com/c=a", "v.com/c=b"] })]);
    }
}
