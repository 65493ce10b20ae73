//! What an image says of itself: the OCI / Docker configuration blob, read leniently (null is absent).

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use skep_registry::Platform;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::inline_cache::InlineStep;
use crate::error::Error;

/// An image as `inspect` shows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// `sha256:` and the digest of the configuration blob.
    pub id: String,
    /// `name:tag` references, sorted.
    pub references: Vec<String>,
    /// `name@sha256:...` references, sorted.
    pub digests: Vec<String>,
    /// Nanoseconds since the Unix epoch; 0 = not said.
    pub created_at_ns: i64,
    /// When it last got a tag, likewise.
    #[serde(skip)]
    pub last_tagged_ns: i64,
    /// Bytes of all layers, unpacked.
    pub size: u64,
    /// How containers of it run.
    pub config: ImageConfig,
    /// Go's name of the architecture (`amd64`).
    pub architecture: String,
    /// Variant of the architecture.
    pub variant: String,
    /// `linux`.
    pub os: String,
    /// Author.
    pub author: String,
    /// Comment (of `import -m`, for one).
    pub comment: String,
    /// Diff IDs, bottom first.
    pub layers: Vec<String>,
    /// Chain IDs, bottom first, one per layer.
    pub chain_ids: Vec<String>,
    /// How it was built.
    pub history: Vec<History>,
}

impl Image {
    /// What it runs on; what it does not say is as this host has it.
    pub fn platform(&self) -> Platform {
        let host = Platform::host();
        let or = |said: &String, host: String| if said.is_empty() { host } else { said.clone() };
        Platform {
            os: or(&self.os, host.os),
            architecture: or(&self.architecture, host.architecture),
            variant: self.variant.clone(),
            ..Platform::default()
        }
    }
}

/// How containers of an image run. Absent and null are the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageConfig {
    /// `user[:group]`.
    #[serde(deserialize_with = "or_default")]
    pub user: String,
    /// `proto` ports: `80/tcp`.
    #[serde(deserialize_with = "keys", serialize_with = "as_keys")]
    pub exposed_ports: Vec<String>,
    /// `NAME=value`.
    #[serde(deserialize_with = "or_default")]
    pub env: Vec<String>,
    /// Entrypoint.
    #[serde(deserialize_with = "or_default")]
    pub entrypoint: Vec<String>,
    /// Arguments.
    #[serde(deserialize_with = "or_default")]
    pub cmd: Vec<String>,
    /// Paths that get a volume of their own.
    #[serde(deserialize_with = "keys", serialize_with = "as_keys")]
    pub volumes: Vec<String>,
    /// Working directory.
    #[serde(deserialize_with = "or_default")]
    pub working_dir: String,
    /// Labels.
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    /// Signal that asks it to stop.
    #[serde(deserialize_with = "or_default")]
    pub stop_signal: String,
    /// Shell of shell-form instructions.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub shell: Vec<String>,
    /// Instructions for images built from it.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    /// Health check, as it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<serde_json::Value>,
}

/// One step of an image's making.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// RFC 3339.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub created: String,
    /// Instruction.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    /// Author.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// Comment.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// The step made no layer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// The configuration blob.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ConfigBlob {
    #[serde(deserialize_with = "or_default")]
    pub(super) created: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) architecture: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub(super) variant: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) os: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub(super) author: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub(super) comment: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) config: ImageConfig,
    pub(super) rootfs: RootfsBlob,
    #[serde(deserialize_with = "or_default")]
    pub(super) history: Vec<History>,
    /// Written only: what another image says is no reason not to read it ([`inline_cache`](super::inline_cache)).
    #[serde(rename = "skep.buildcache.v1", skip_deserializing, skip_serializing_if = "Vec::is_empty")]
    pub(super) inline_cache: Vec<InlineStep>,
}

/// The layers in the configuration blob.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct RootfsBlob {
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) diff_ids: Vec<String>,
}

impl ConfigBlob {
    /// Reads and checks a blob.
    pub(super) fn parse(bytes: &[u8], name: &str) -> Result<Self, Error> {
        // Serde would take an array for a struct.
        if !bytes.trim_ascii_start().starts_with(b"{") {
            return Err(Error::Archive(format!("image configuration {name} is not a JSON object")));
        }
        let blob: Self = serde_json::from_slice(bytes)
            .map_err(|e| Error::Archive(format!("image configuration {name} is not valid: {e}")))?;
        if let Some(bad) = blob.rootfs.diff_ids.iter().find(|d| !super::reference::is_digest(d)) {
            return Err(Error::Archive(format!(
                "image configuration {name}: diff ID {bad:?} is not a sha256 digest"
            )));
        }
        if !blob.os.is_empty() && blob.os != "linux" {
            return Err(Error::Archive(format!("image {name} is for {}, this host runs linux", blob.os)));
        }
        Ok(blob)
    }

    /// Creation time, 0 when absent or unreadable.
    pub(super) fn created_at_ns(&self) -> i64 {
        time_ns(&self.created)
    }
}

impl History {
    /// Nanoseconds since the Unix epoch; 0 = not said.
    pub fn created_at_ns(&self) -> i64 {
        time_ns(&self.created)
    }
}

/// A time as images say it.
pub(crate) fn rfc3339(at: OffsetDateTime) -> Result<String, Error> {
    at.format(&Rfc3339)
        .map_err(|e| Error::Invalid(format!("the clock of this host cannot be written down: {e}")))
}

/// Whether it is a time as images say it.
pub(crate) fn is_rfc3339(text: &str) -> bool {
    OffsetDateTime::parse(text, &Rfc3339).is_ok()
}

fn time_ns(text: &str) -> i64 {
    OffsetDateTime::parse(text, &Rfc3339)
        .ok()
        .and_then(|t| i64::try_from(t.unix_timestamp_nanos()).ok())
        .unwrap_or(0)
}

fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

fn keys<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    let map = Option::<BTreeMap<String, serde::de::IgnoredAny>>::deserialize(d)?;
    Ok(map.unwrap_or_default().into_keys().collect())
}

fn as_keys<S: serde::Serializer>(list: &[String], s: S) -> Result<S::Ok, S::Error> {
    s.collect_map(list.iter().map(|k| (k, BTreeMap::<String, String>::new())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_null_as_absent_and_maps_as_lists() {
        let json = br#"{"created":"2024-01-02T03:04:05Z","architecture":"amd64","os":"linux","config":{"Env":null,
            "Cmd":["sh"],"Entrypoint":null,"ExposedPorts":{"80/tcp":{}},"Volumes":null,"Labels":null,"WorkingDir":""},
            "rootfs":{"type":"layers","diff_ids":null},"history":null}"#;
        let c = ConfigBlob::parse(json, "x").expect("parses");
        assert_eq!(c.config.exposed_ports, ["80/tcp"]);
        assert_eq!(c.config.cmd, ["sh"]);
        assert_eq!(c.created_at_ns(), 1_704_164_645_000_000_000);
        let round = serde_json::to_vec(&c).expect("encodes");
        assert_eq!(ConfigBlob::parse(&round, "x").expect("parses").config, c.config);
    }

    #[test]
    fn refuses_other_systems_and_bad_diff_ids() {
        for json in [
            r#"{"os":"windows"}"#,
            r#"{"rootfs":{"type":"layers","diff_ids":["sha256:../../etc"]}}"#,
            "[]",
            "",
            "{\"config\":{\"Cmd\":3}}",
        ] {
            assert!(ConfigBlob::parse(json.as_bytes(), "x").is_err(), "{json}");
        }
    }
}
