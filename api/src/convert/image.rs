//! Images as `docker images` and `inspect` show them.

use serde_json::{Value, json};
use skep_engine::{Image, ImageConfig};

use super::container::{check_port_key, health_json, read_health};
use super::time;
use crate::error::{ApiError, ApiResult};
use crate::fields::Fields;

/// A row of the listing.
pub fn summary(i: &Image, containers: i64) -> Value {
    json!({
        "Id": i.id,
        "ParentId": "",
        "RepoTags": i.references,
        "RepoDigests": i.digests,
        "Created": i.created_at_ns / 1_000_000_000,
        "Size": i.size,
        "SharedSize": -1,
        "VirtualSize": i.size,
        "Labels": if i.config.labels.is_empty() { Value::Null } else { json!(i.config.labels) },
        "Containers": containers,
    })
}

/// The whole of it.
pub fn inspect(i: &Image) -> Value {
    let mut config = json!(i.config);
    // Empty lists are null in Docker's answers.
    for key in ["Cmd", "Entrypoint", "Labels", "Volumes", "OnBuild"] {
        if config.get(key).is_none_or(crate::fields::is_zero)
            && config[key].as_object().is_none_or(|o| o.is_empty())
        {
            config[key] = Value::Null;
        }
    }
    json!({
        "Id": i.id,
        "RepoTags": i.references,
        "RepoDigests": i.digests,
        "Parent": "",
        "Comment": i.comment,
        "Created": time::from_ns(i.created_at_ns),
        "DockerVersion": "",
        "Author": i.author,
        "Config": config,
        "Architecture": i.architecture,
        "Variant": i.variant,
        "Os": i.os,
        "Size": i.size,
        "VirtualSize": i.size,
        "GraphDriver": { "Data": null, "Name": "overlayfs" },
        "RootFS": { "Type": "layers", "Layers": i.layers },
        "Metadata": { "LastTagTime": time::from_ns(i.last_tagged_ns) },
    })
}

/// What of a container's configuration an image does not have.
const OF_CONTAINERS: &[&str] = &[
    "ArgsEscaped",
    "AttachStderr",
    "AttachStdin",
    "AttachStdout",
    "Domainname",
    "Hostname",
    "Image",
    "MacAddress",
    "NetworkDisabled",
    "OpenStdin",
    "StdinOnce",
    "StopTimeout",
    "Tty",
];

/// The configuration in the body of a commit; one that says nothing is none.
pub fn read_config(body: &[u8]) -> ApiResult<Option<ImageConfig>> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let value: Value = serde_json::from_slice(body)
        .map_err(|e| ApiError::bad_request(format!("invalid JSON in the request body: {e}")))?;
    // The keys of these say something, whatever their values.
    let has_keys = |name: &str| value[name].as_object().is_some_and(|m| !m.is_empty());
    let says_nothing = crate::fields::is_zero(&value) && !has_keys("ExposedPorts") && !has_keys("Volumes");
    let mut f = Fields::of(value, "")?;
    if says_nothing {
        return Ok(None);
    }
    let mut exposed_ports = Vec::new();
    for key in f.entries("ExposedPorts")?.keys() {
        let (port, protocol) = check_port_key("ExposedPorts", key)?;
        exposed_ports.push(format!("{port}/{protocol}"));
    }
    let config = ImageConfig {
        user: f.string("User")?,
        exposed_ports,
        env: f.strings("Env")?,
        entrypoint: f.strings("Entrypoint")?,
        cmd: f.strings("Cmd")?,
        volumes: f.entries("Volumes")?.into_keys().collect(),
        working_dir: f.string("WorkingDir")?,
        labels: f.string_map("Labels")?,
        stop_signal: f.string("StopSignal")?,
        shell: f.strings("Shell")?,
        on_build: f.strings("OnBuild")?,
        healthcheck: read_health(f.object("Healthcheck")?)?.map(|h| health_json(&h)),
    };
    f.drop_all(OF_CONTAINERS);
    f.refuse_rest(&[])?;
    Ok(Some(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_s_configuration_is_read_and_the_rest_refused() {
        for nothing in ["", "null", "{}", r#"{"Env":null,"Tty":false}"#] {
            assert_eq!(read_config(nothing.as_bytes()), Ok(None), "{nothing}");
        }
        let body =
            br#"{"Hostname":"h","Cmd":["a"],"ExposedPorts":{"80":{}},"Healthcheck":{"Test":["NONE"]}}"#;
        let config = read_config(body).expect("read").expect("some");
        assert_eq!((config.cmd, config.exposed_ports), (vec!["a".to_owned()], vec!["80/tcp".to_owned()]));
        assert_eq!(config.healthcheck, Some(json!({ "Test": ["NONE"] })));
        for bad in ["[]", "{", r#"{"Cmd":3}"#, r#"{"Nope":1}"#, r#"{"ExposedPorts":{"x":{}}}"#] {
            assert!(read_config(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
