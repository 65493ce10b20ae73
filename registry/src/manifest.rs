//! Manifests and indexes: Docker's schema 2 and OCI's, which say the same with other media types.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Error;

/// Media types by their short names.
pub mod media {
    /// Manifest, Docker's schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Index, Docker's.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Manifest, OCI's.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// Index, OCI's.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// Configuration, Docker's.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Configuration, OCI's.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// Layer in gzip, Docker's.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// Layer as it is, OCI's.
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// Layer in gzip, OCI's.
    pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// Layer in zstd, OCI's.
    pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
}

/// Types of manifests of one image.
pub const MANIFEST_TYPES: [&str; 2] = [media::DOCKER_MANIFEST, media::OCI_MANIFEST];
/// Types of indexes.
pub const INDEX_TYPES: [&str; 2] = [media::DOCKER_LIST, media::OCI_INDEX];
/// Value of `Accept`.
pub const ACCEPTED: &str = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json";

/// Most layers of an image, and manifests of an index.
const MOST: usize = 1000;

/// `sha256:...` of bytes.
pub fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// `sha256:` and 64 lower-case hex characters.
pub fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|h| h.len() == 64 && h.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
}

/// An operating system and an architecture, in Go's names.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(default)]
pub struct Platform {
    /// `amd64`.
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// Version of the system.
    #[serde(rename = "os.version", skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// Features of the system.
    #[serde(rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// `v7`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl Platform {
    /// Reads `os[/arch[/variant]]` or `arch`, with the names of other worlds made Go's.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let bad = || {
            Error::Invalid(format!(
                "{text:?} is an invalid component of a platform: want os/arch[/variant], such as linux/arm64"
            ))
        };
        let mut parts = text.split('/').map(|p| p.trim().to_ascii_lowercase());
        let first = parts.next().filter(|p| !p.is_empty()).ok_or_else(bad)?;
        let second = parts.next();
        let (os, arch) = match second {
            Some(arch) => (first, arch),
            None if ["linux", "windows", "darwin", "freebsd"].contains(&first.as_str()) => {
                (first, String::new())
            }
            None => ("linux".to_owned(), first),
        };
        let variant = parts.next().unwrap_or_default();
        let word = |p: &str| p.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
        if parts.next().is_some() || !word(&os) || !word(&arch) || !word(&variant) {
            return Err(bad());
        }
        let arch = if arch.is_empty() { Self::host().architecture } else { arch };
        Ok(Self { os, architecture: arch, variant, ..Self::default() }.normal())
    }

    /// This host's.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Self { os: "linux".into(), architecture: architecture.into(), ..Self::default() }
    }

    /// One name for what has several.
    fn normal(mut self) -> Self {
        let (arch, variant) = match (self.architecture.as_str(), self.variant.as_str()) {
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
            ("x86_64" | "x86-64", v) => ("amd64", v),
            ("aarch64" | "arm64", "8" | "v8" | "") => ("arm64", ""),
            ("i386" | "x86", _) => ("386", ""),
            ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
            ("armel", _) => ("arm", "v6"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "6") => ("arm", "v6"),
            (a, v) => (a, v),
        };
        (self.architecture, self.variant) = (arch.to_owned(), variant.to_owned());
        self
    }

    /// How well an offer serves this platform: 0 is best, none is not at all. An older variant of ARM serves a
    /// newer one.
    pub fn served_by(&self, offer: &Platform) -> Option<u32> {
        let (want, offer) = (self.clone().normal(), offer.clone().normal());
        if offer.os != want.os {
            return None;
        }
        let version = |p: &Platform| p.variant.trim_start_matches('v').parse::<u32>().unwrap_or(0);
        match (want.architecture.as_str(), offer.architecture.as_str()) {
            ("arm", "arm") => version(&want).checked_sub(version(&offer)),
            ("arm64", "arm") if want.variant.is_empty() => Some(100 - version(&offer).min(50)),
            ("amd64", "386") => Some(100),
            (a, b) if a == b && want.variant == offer.variant => Some(0),
            (a, b) if a == b && offer.variant.is_empty() => Some(1),
            _ => None,
        }
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

/// Content by digest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Descriptor {
    /// Media type.
    pub media_type: String,
    /// Bytes.
    pub size: u64,
    /// `sha256:...`.
    pub digest: String,
    /// Where else it may be had; not followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub urls: Option<Vec<String>>,
    /// Notes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// What it runs on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

/// A manifest or an index, told apart by what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest {
        /// Configuration.
        config: Box<Descriptor>,
        /// Layers, bottom first.
        layers: Vec<Descriptor>,
    },
    /// Images of several platforms.
    Index {
        /// Their manifests.
        manifests: Vec<Descriptor>,
    },
}

/// What a registry holds under a tag or digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Of the bytes.
    pub digest: String,
    /// Media type.
    pub media_type: String,
    /// As the registry sent them.
    pub bytes: Vec<u8>,
    /// What they say.
    pub document: Document,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    schema_version: u64,
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
}

impl Fetched {
    /// Reads and checks; `header` is what the answer's `Content-Type` said.
    pub fn read(bytes: Vec<u8>, header: &str, digest: String) -> Result<Self, Error> {
        let bad = |why: String| Error::Invalid(format!("manifest {digest} cannot be used: {why}"));
        let raw: Raw = serde_json::from_slice(&bytes).map_err(|e| bad(format!("it is not valid: {e}")))?;
        let header = header.split(';').next().unwrap_or_default().trim();
        if raw.schema_version == 1 || header.contains("vnd.docker.distribution.manifest.v1+") {
            return Err(bad(
                "it is of Docker's schema 1, which is no longer supported: have the image pushed anew".into(),
            ));
        }
        let document = match (raw.config, raw.manifests) {
            (Some(config), None) => {
                Document::Manifest { config: Box::new(config), layers: raw.layers.unwrap_or_default() }
            }
            (None, Some(manifests)) => Document::Index { manifests },
            (Some(_), Some(_)) => return Err(bad("it is a manifest and an index at once".into())),
            (None, None) => return Err(bad("it is neither a manifest nor an index".into())),
        };
        let named: Vec<&Descriptor> = match &document {
            Document::Manifest { config, layers } => [config.as_ref()].into_iter().chain(layers).collect(),
            Document::Index { manifests } => manifests.iter().collect(),
        };
        if named.len() > MOST {
            return Err(bad(format!("it names {} parts; the limit is {MOST}", named.len())));
        }
        if let Some(odd) = named.iter().find(|d| !is_digest(&d.digest)) {
            return Err(bad(format!("digest {:?} is not one of sha256", odd.digest)));
        }
        let known = |t: &&str| MANIFEST_TYPES.contains(t) || INDEX_TYPES.contains(t);
        let media_type =
            [raw.media_type.as_str(), header].into_iter().find(known).unwrap_or(match document {
                Document::Manifest { .. } => media::OCI_MANIFEST,
                Document::Index { .. } => media::OCI_INDEX,
            });
        Ok(Self { digest, media_type: media_type.to_owned(), bytes, document })
    }

    /// The manifest of an index that serves a platform best. Attestations and the like serve none.
    pub fn choose<'a>(manifests: &'a [Descriptor], wanted: &Platform) -> Result<&'a Descriptor, Error> {
        let fit = |d: &&Descriptor| {
            let image = d.media_type.is_empty() || !d.media_type.contains("+") || {
                MANIFEST_TYPES.contains(&d.media_type.as_str())
                    || INDEX_TYPES.contains(&d.media_type.as_str())
            };
            image.then_some(())?;
            d.platform.as_ref().map_or(Some(1000), |p| wanted.served_by(p))
        };
        manifests
            .iter()
            .filter_map(|d| fit(&d).map(|rank| (rank, d)))
            .min_by_key(|(rank, _)| *rank)
            .map(|(_, d)| d)
            .ok_or_else(|| {
                Error::Invalid(format!("no matching manifest for {wanted} in the manifest list entries"))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_read_and_served() {
        for (text, shown) in [
            ("linux/arm64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/x86_64", "linux/amd64"),
            ("arm", "linux/arm/v7"),
            ("linux/arm/v6", "linux/arm/v6"),
            ("windows/amd64", "windows/amd64"),
        ] {
            assert_eq!(Platform::parse(text).expect(text).to_string(), shown);
        }
        for bad in ["", "/", "a/b/c/d", "linux/a b"] {
            assert!(Platform::parse(bad).is_err(), "{bad:?}");
        }
        let offer = |text: &str| Descriptor {
            platform: Some(Platform::parse(text).expect(text)),
            digest: text.into(),
            ..Descriptor::default()
        };
        let all = ["linux/arm/v5", "linux/386", "linux/arm/v7", "windows/amd64", "linux/arm64"].map(offer);
        let chosen = |want: &str| {
            let want = Platform::parse(want).expect(want);
            Fetched::choose(&all, &want).map(|d| d.digest.clone()).map_err(|e| e.to_string())
        };
        assert_eq!(chosen("linux/arm64").as_deref(), Ok("linux/arm64"));
        assert_eq!(chosen("linux/amd64").as_deref(), Ok("linux/386"));
        assert_eq!(chosen("linux/arm/v6").as_deref(), Ok("linux/arm/v5"));
        assert_eq!(
            chosen("linux/s390x"),
            Err("no matching manifest for linux/s390x in the manifest list entries".into())
        );
    }

    #[test]
    fn documents_are_checked() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let read = |text: &str| Fetched::read(text.as_bytes().to_vec(), "", digest_of(text.as_bytes()));
        let manifest =
            format!(r#"{{"schemaVersion":2,"config":{{"digest":"{digest}","size":1}},"layers":null}}"#);
        assert_eq!(read(&manifest).expect("reads").media_type, media::OCI_MANIFEST);
        // The name of OCI's has the end of the name of Docker's first schema in it.
        for (header, good) in [
            (media::OCI_MANIFEST, true),
            ("application/vnd.docker.distribution.manifest.v1+prettyjws", false),
            ("application/vnd.docker.distribution.manifest.v1+json", false),
        ] {
            let fetched =
                Fetched::read(manifest.clone().into_bytes(), header, digest_of(manifest.as_bytes()));
            assert_eq!(fetched.is_ok(), good, "{header}");
        }
        let index = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{{"digest":"{digest}"}}]}}"#,
            media::DOCKER_LIST
        );
        assert_eq!(read(&index).expect("reads").media_type, media::DOCKER_LIST);
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"schemaVersion":1,"config":{}}"#,
            r#"{"schemaVersion":2,"config":{"digest":"sha256:../../x"}}"#,
            r#"{"schemaVersion":2,"config":{"digest":"md5:0"},"manifests":[]}"#,
            r#"{"schemaVersion":2,"config":{"size":-1}}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
