//! What a manifest that is pushed must say, and what it refers to.

use std::collections::BTreeMap;

use serde::Deserialize;
use skep_registry::{INDEX_TYPES, MANIFEST_TYPES, is_digest, media};

use crate::error::Refusal;

/// Longest manifest taken, as the specification's advice.
pub(crate) const LONGEST: usize = 4 << 20;
/// Most things that one manifest may name.
const MOST: usize = 10_000;

/// Something a manifest refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) digest: String,
    pub(crate) size: u64,
    pub(crate) kind: PartKind,
}

/// How a part must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PartKind {
    /// A blob of the repository.
    Blob,
    /// A blob that clients get elsewhere, by its URLs.
    Foreign,
    /// Another manifest of the repository.
    Manifest,
}

/// A manifest or an index, checked.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    pub(crate) media_type: String,
    pub(crate) parts: Vec<Part>,
    /// What it is about (`subject`).
    pub(crate) subject: Option<String>,
    /// Its own, else its configuration's media type.
    pub(crate) artifact_type: String,
    pub(crate) annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    schema_version: u64,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    subject: Option<Descriptor>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    urls: Option<Vec<String>>,
}

impl Manifest {
    /// Reads what came with this `Content-Type`.
    ///
    /// # Errors
    /// MANIFEST_INVALID, with what is wrong.
    pub(crate) fn read(bytes: &[u8], content_type: &str) -> Result<Self, Refusal> {
        let bad = |why: String| Refusal::manifest_invalid(format!("manifest invalid: {why}"));
        let told = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if told.starts_with("application/vnd.docker.distribution.manifest.v1") {
            return Err(bad("Docker's schema 1 is not taken: push with a newer client".into()));
        }
        // Serde would take an array for a struct.
        if !bytes.trim_ascii_start().starts_with(b"{") {
            return Err(bad("it is no JSON object".into()));
        }
        let raw: Raw = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
        if raw.schema_version != 2 {
            return Err(bad(format!("schemaVersion is {}, want 2", raw.schema_version)));
        }
        let known = |t: &str| MANIFEST_TYPES.contains(&t) || INDEX_TYPES.contains(&t);
        let said = raw.media_type.as_deref().filter(|t| !t.is_empty());
        let media_type = match said {
            Some(said) if known(&told) && told != said => {
                return Err(bad(format!("mediaType is {said:?} and Content-Type is {told:?}")));
            }
            Some(said) => said.to_owned(),
            None if known(&told) => told,
            None if !told.is_empty() && told != "application/json" && told != "application/octet-stream" => {
                return Err(bad(format!("media type {told:?} is not known")));
            }
            None if raw.manifests.is_some() => media::OCI_INDEX.to_owned(),
            None => media::OCI_MANIFEST.to_owned(),
        };
        if !known(&media_type) {
            return Err(bad(format!("media type {media_type:?} is not known")));
        }
        let is_index = INDEX_TYPES.contains(&media_type.as_str());
        let mut parts = Vec::new();
        let mut artifact_type = raw.artifact_type.unwrap_or_default();
        match (is_index, raw.config, raw.layers, raw.manifests) {
            (false, Some(config), layers, None) => {
                if artifact_type.is_empty() {
                    artifact_type = config.media_type.clone();
                }
                parts.push(part(config, PartKind::Blob));
                parts.extend(layers.unwrap_or_default().into_iter().map(|l| {
                    let foreign = l.urls.as_ref().is_some_and(|u| !u.is_empty())
                        && (l.media_type.contains(".foreign.") || l.media_type.contains("nondistributable"));
                    part(l, if foreign { PartKind::Foreign } else { PartKind::Blob })
                }));
            }
            (true, None, None, Some(manifests)) => {
                parts.extend(manifests.into_iter().map(|m| part(m, PartKind::Manifest)));
            }
            (false, None, ..) => return Err(bad("it has no config".into())),
            (true, _, _, None) => return Err(bad("it has no manifests".into())),
            _ => return Err(bad("it is a manifest and an index at once".into())),
        }
        if parts.len() > MOST {
            return Err(bad(format!("it names {} parts; the limit is {MOST}", parts.len())));
        }
        let subject = raw.subject.map(|s| s.digest);
        let odd = parts.iter().map(|p| &p.digest).chain(&subject).find(|d| !is_digest(d));
        if let Some(odd) = odd {
            return Err(bad(format!("digest {odd:?} is not one of sha256")));
        }
        Ok(Self {
            media_type,
            parts,
            subject,
            artifact_type,
            annotations: raw.annotations.unwrap_or_default(),
        })
    }
}

fn part(descriptor: Descriptor, kind: PartKind) -> Part {
    Part { digest: descriptor.digest, size: descriptor.size, kind }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_are_judged() {
        let d = format!("sha256:{}", "ab".repeat(32));
        let part = format!(r#"{{"mediaType":"x/y","digest":"{d}","size":3}}"#);
        let good = format!(r#"{{"schemaVersion":2,"config":{part},"layers":[{part}],"subject":{part}}}"#);
        let read = Manifest::read(good.as_bytes(), media::OCI_MANIFEST).expect("reads");
        assert_eq!((read.parts.len(), read.artifact_type.as_str()), (2, "x/y"));
        assert_eq!(read.subject.as_deref(), Some(d.as_str()));
        assert_eq!(read.media_type, media::OCI_MANIFEST);
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{part}]}}"#);
        assert_eq!(Manifest::read(index.as_bytes(), "").expect("reads").media_type, media::OCI_INDEX);
        let foreign = format!(
            r#"{{"schemaVersion":2,"config":{part},"layers":[{{"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip","digest":"{d}","size":1,"urls":["https://x"]}}]}}"#
        );
        let foreign = Manifest::read(foreign.as_bytes(), media::DOCKER_MANIFEST).expect("reads");
        assert_eq!(foreign.parts[1].kind, PartKind::Foreign);
        for (bad, kind) in [
            ("", ""),
            ("[2]", ""),
            ("{}", ""),
            (r#"{"schemaVersion":1}"#, ""),
            (r#"{"schemaVersion":2}"#, media::OCI_MANIFEST),
            (good.as_str(), media::OCI_INDEX),
            (index.as_str(), media::OCI_MANIFEST),
            (good.as_str(), "application/vnd.docker.distribution.manifest.v1+prettyjws"),
            (good.as_str(), "text/html"),
            (&good.replace(&d, "sha256:../../x"), media::OCI_MANIFEST),
            (&good.replace("\"size\":3", "\"size\":-3"), media::OCI_MANIFEST),
            (
                &good.replacen('{', "{\"mediaType\":\"application/vnd.oci.image.index.v1+json\",", 1),
                media::OCI_MANIFEST,
            ),
        ] {
            assert!(Manifest::read(bad.as_bytes(), kind).is_err(), "{kind} {bad}");
        }
    }
}
