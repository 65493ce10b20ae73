//! Secrets and configs in Docker's JSON, and as files of a service's containers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use skep_proto::v1::{Annotations, Content, Dependency, DependencyKind, DependencySpec, FileReference};

use crate::convert::{created, file_mode, updated, version};
use crate::error::{ApiError, ApiResult};
use crate::fields::Fields;
use crate::filters::Filters;

/// The names that `ls --filter` knows.
pub const FILTERS: &[&str] = &["id", "label", "name", "names"];

/// Docker's word.
pub fn word(kind: DependencyKind) -> &'static str {
    match kind {
        DependencyKind::Secret => "secret",
        DependencyKind::Config => "config",
    }
}

/// Its name.
pub fn name(d: &Dependency) -> &str {
    d.spec.as_ref().and_then(|s| s.annotations.as_ref()).map_or("", |a| &a.name)
}

/// Whether a listing's filters let it through.
pub fn matches(filters: &Filters, d: &Dependency) -> bool {
    let labels = d.spec.as_ref().and_then(|s| s.annotations.as_ref()).map(|a| &a.labels);
    filters.any("id", |v| d.id.starts_with(v))
        && filters.any("name", |v| name(d).starts_with(v))
        && filters.any("names", |v| name(d) == v)
        && filters.labels("label", |k| labels.and_then(|l| l.get(k)).map(String::as_str))
}

/// Reads a `SecretSpec` or `ConfigSpec`. Errors do not quote what it holds.
pub fn read_spec(mut f: Fields) -> ApiResult<DependencySpec> {
    let annotations = Annotations { name: f.string("Name")?, labels: f.string_map("Labels")? };
    let data = f.opt_string("Data")?;
    let content = data.map(|d| STANDARD.decode(d)).transpose().map_err(|_| {
        ApiError::bad_request(format!("{} must be standard base64, with its padding", f.path("Data")))
    })?;
    let mut driver = f.object("Templating")?;
    let templating = driver.string("Name")?;
    driver.refuse_rest(&[("Options", "template drivers have none")])?;
    f.refuse_rest(&[(
        "Driver",
        "secrets are kept by the swarm's managers themselves; leave the driver out",
    )])?;
    Ok(DependencySpec {
        annotations: Some(annotations),
        content: content.map(|data| Content { data }),
        templating,
    })
}

/// A secret or config as `inspect` and `ls` show it.
pub fn dependency(d: &Dependency) -> Value {
    let spec = d.spec.clone().unwrap_or_default();
    let annotations = spec.annotations.unwrap_or_default();
    let mut shown = json!({ "Name": annotations.name, "Labels": annotations.labels });
    if let Some(content) = spec.content {
        shown["Data"] = STANDARD.encode(content.data).into();
    }
    if !spec.templating.is_empty() {
        shown["Templating"] = json!({ "Name": spec.templating });
    }
    json!({
        "ID": d.id,
        "Version": version(d.meta.as_ref()),
        "CreatedAt": created(d.meta.as_ref()),
        "UpdatedAt": updated(d.meta.as_ref()),
        "Spec": shown,
    })
}

/// Reads a `SecretReference` or `ConfigReference`.
pub fn read_file(kind: DependencyKind, mut f: Fields) -> ApiResult<FileReference> {
    let (id, name) = keys(kind);
    if f.take("Runtime").is_some() {
        return Err(ApiError::bad_request(format!(
            "{} is not supported by this version of Skep: a config is a file of the container; give it a File",
            f.path("Runtime")
        )));
    }
    let mut file = f.object("File")?;
    let mut number = |key: &str| {
        let path = file.path(key);
        match file.string(key)?.as_str() {
            "" => Ok(0),
            text => text.parse::<u32>().map_err(|_| {
                ApiError::bad_request(format!("{path} = {text:?} must be a number: names are not looked up"))
            }),
        }
    };
    let (uid, gid) = (number("UID")?, number("GID")?);
    let given = file.u64("Mode")?;
    let mode = u32::try_from(given).ok().and_then(file_mode::unix).ok_or_else(|| {
        ApiError::bad_request(format!("{} = {given} is not a file's permissions", file.path("Mode")))
    })?;
    let target = file.string("Name")?;
    file.refuse_rest(&[])?;
    let reference =
        FileReference { kind: kind.into(), id: f.string(id)?, name: f.string(name)?, target, uid, gid, mode };
    f.refuse_rest(&[])?;
    Ok(reference)
}

/// The references of one kind.
pub fn files(kind: DependencyKind, all: &[FileReference]) -> Value {
    let (id, name) = keys(kind);
    let shown = all.iter().filter(|f| f.kind() == kind).map(|f| {
        let file = json!({
            "Name": f.target,
            "UID": f.uid.to_string(),
            "GID": f.gid.to_string(),
            "Mode": file_mode::go(f.mode),
        });
        let mut map = Map::new();
        map.insert("File".into(), file);
        map.insert(id.into(), json!(f.id));
        map.insert(name.into(), json!(f.name));
        Value::from(map)
    });
    shown.collect()
}

fn keys(kind: DependencyKind) -> (&'static str, &'static str) {
    match kind {
        DependencyKind::Secret => ("SecretID", "SecretName"),
        DependencyKind::Config => ("ConfigID", "ConfigName"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(value: Value) -> Fields {
        Fields::of(value, "").expect("an object")
    }

    #[test]
    fn a_spec_is_read_and_what_it_holds_is_not_quoted() {
        let spec =
            read_spec(fields(json!({"Name": "a", "Labels": {"k": "v"}, "Data": "aGk=", "Driver": null,
            "Templating": {"Name": "golang"}})))
            .expect("valid");
        assert_eq!(spec.content.map(|c| c.data).as_deref(), Some(b"hi".as_slice()));
        assert_eq!(spec.templating, "golang");
        let e = read_spec(fields(json!({"Name": "a", "Data": "hunter2!"}))).expect_err("no base64");
        assert!(!e.message.contains("hunter2") && e.message.contains("base64"), "{}", e.message);
        let e = read_spec(fields(json!({"Name": "a", "Driver": {"Name": "vault"}}))).expect_err("driver");
        assert!(e.message.starts_with("Driver is not supported"), "{}", e.message);
    }

    #[test]
    fn references_read_back_as_they_are_written() {
        let secret = json!({"File": {"Name": "x", "UID": "33", "GID": "0", "Mode": 0o440}, "SecretID": "i", "SecretName": "n"});
        let read = read_file(DependencyKind::Secret, fields(secret.clone())).expect("valid");
        assert_eq!(files(DependencyKind::Secret, &[read]), json!([secret]));
        for (bad, says) in [
            (json!({"Runtime": {}, "ConfigID": "i"}), "Runtime"),
            (json!({"File": {"UID": "www-data"}}), "File.UID = \"www-data\""),
            (json!({"File": {"Mode": 0o4755}}), "File.Mode"),
        ] {
            let e = read_file(DependencyKind::Config, fields(bad)).expect_err(says);
            assert!(e.message.contains(says), "{}", e.message);
        }
    }
}
