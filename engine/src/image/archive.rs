//! Reads a docker-archive or OCI-archive: first every member is set aside under a temporary directory,
//! then the manifest says what they are. Nothing is stored before all of it has been checked.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use skep_registry::Platform;

use super::compression::decoder;
use super::config::ConfigBlob;
use super::layer::{Limits, Staged, stage};
use super::reference::{Reference, is_digest};
use super::tar::{Kind, TarReader};
use crate::data_root::remove_tree;
use crate::error::Error;

/// A temporary directory that goes with its owner.
#[derive(Debug)]
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    pub(super) fn new(parent: &Path, what: &str) -> Result<Self, Error> {
        let path = parent.join(format!("{what}-{}", super::unused_name()));
        crate::data_root::make_dir(&path, 0o700)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = remove_tree(&self.0) {
            tracing::warn!(error = %e, "a temporary directory is left to be swept at the next start");
        }
    }
}

/// A member set aside. `path` is none when the store has the blob already.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) staged: Staged,
    pub(super) path: PathBuf,
    /// It is a directory with a recipe, and at no path.
    pub(super) recipe: bool,
}

/// One image of an archive, checked against what the archive holds.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) config: ConfigBlob,
    pub(super) config_bytes: Vec<u8>,
    pub(super) layers: Vec<Member>,
    pub(super) references: Vec<Reference>,
}

impl Found {
    fn platform(&self) -> Platform {
        let c = &self.config;
        let host = Platform::host();
        Platform {
            os: if c.os.is_empty() { host.os } else { c.os.clone() },
            architecture: if c.architecture.is_empty() { host.architecture } else { c.architecture.clone() },
            variant: c.variant.clone(),
            ..Platform::default()
        }
    }
}

struct Members {
    files: HashMap<String, Member>,
    links: HashMap<String, String>,
    json: u64,
}

/// Reads the whole archive: all its images, or, with `platform`, those for that. `have` gives the path of a blob that
/// is in the store already.
pub(super) fn read(
    input: impl Read + Send,
    scratch: &Path,
    limits: &Limits,
    platform: Option<&Platform>,
    have: impl Fn(&str) -> Option<PathBuf>,
) -> Result<Vec<Found>, Error> {
    let (_, reader) = decoder(input).map_err(|e| Error::Archive(format!("it cannot be read: {e}")))?;
    let members = set_aside(reader, scratch, limits, have)?;
    if members.files.contains_key("manifest.json") {
        return members.docker(platform);
    }
    if members.files.contains_key("index.json") {
        return members.oci(platform);
    }
    Err(Error::Archive(
        "it holds neither manifest.json nor index.json, so it is no image; a root file system is brought in with `import`".into(),
    ))
}

fn set_aside(
    reader: impl Read,
    scratch: &Path,
    limits: &Limits,
    have: impl Fn(&str) -> Option<PathBuf>,
) -> Result<Members, Error> {
    let mut archive = TarReader::new(reader, true);
    let mut members = Members { files: HashMap::new(), links: HashMap::new(), json: limits.json };
    let (mut count, mut total) = (0u64, 0u64);
    while let Some(entry) = archive.next()? {
        let name = normal(&entry.name(), "")?;
        count += 1;
        total = total.saturating_add(entry.size);
        if count > limits.entries.min(100_000) || total > limits.bytes {
            return Err(Error::Archive(format!(
                "it is too big at entry {name:?}: an archive may hold 100000 files and {} bytes",
                limits.bytes
            )));
        }
        match entry.kind {
            Kind::Directory => {}
            Kind::File => {
                let known = name.strip_prefix("blobs/sha256/").and_then(|h| have(&format!("sha256:{h}")));
                let path = known.clone().unwrap_or_else(|| scratch.join(format!("m{count}")));
                let staged =
                    stage(&mut archive, known.is_none().then_some(path.as_path())).map_err(|e| match e {
                        Error::Archive(why) => Error::Archive(format!("entry {name:?}: {why}")),
                        e => e,
                    })?;
                if archive.left() > 0 {
                    return Err(archive.cut(archive.left()));
                }
                members.files.insert(name, Member { staged, path, recipe: false });
            }
            Kind::Symlink | Kind::HardLink => {
                let base = match entry.kind {
                    Kind::Symlink => name.rsplit_once('/').map_or("", |(dir, _)| dir).to_owned(),
                    _ => String::new(),
                };
                let target = normal(&String::from_utf8_lossy(&entry.link), &base)?;
                members.links.insert(name, target);
            }
            _ => {
                return Err(Error::Archive(format!(
                    "entry {name:?} is a device, which an image archive does not hold"
                )));
            }
        }
    }
    Ok(members)
}

/// A member's name in one form; one that leaves the archive is refused.
fn normal(name: &str, base: &str) -> Result<String, Error> {
    let refused = || Error::Archive(format!("entry {name:?} is refused: its path leaves the archive"));
    if name.starts_with('/') {
        return Err(refused());
    }
    let mut parts: Vec<&str> = base.split('/').filter(|p| !p.is_empty()).collect();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop().ok_or_else(refused)?;
            }
            p => parts.push(p),
        }
    }
    Ok(parts.join("/"))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    platform: Option<Platform>,
}

/// An index or a manifest: told by which field it has.
#[derive(Deserialize)]
struct OciDocument {
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
}

impl Members {
    fn get(&self, name: &str) -> Result<&Member, Error> {
        let mut at = normal(name, "")?;
        for _ in 0..8 {
            match self.links.get(&at) {
                Some(next) => at = next.clone(),
                None => break,
            }
        }
        let member = self.files.get(&at).ok_or_else(|| {
            Error::Archive(format!(
                "it is incomplete: the manifest names {name:?}, which the archive does not hold"
            ))
        })?;
        match at.strip_prefix("blobs/sha256/") {
            Some(hex) if member.staged.digest != format!("sha256:{hex}") => Err(Error::Archive(format!(
                "{at:?} is damaged: its content has digest {}",
                member.staged.digest
            ))),
            _ => Ok(member),
        }
    }

    fn read_json(&self, name: &str) -> Result<Vec<u8>, Error> {
        let member = self.get(name)?;
        if member.staged.size > self.json {
            return Err(Error::Archive(format!(
                "{name:?} is {} bytes; the limit is {}",
                member.staged.size, self.json
            )));
        }
        std::fs::read(&member.path).map_err(Error::io("read", &member.path))
    }

    fn parse<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T, Error> {
        let bytes = self.read_json(name)?;
        serde_json::from_slice(&bytes).map_err(|e| Error::Archive(format!("{name:?} is not valid: {e}")))
    }

    fn docker(&self, platform: Option<&Platform>) -> Result<Vec<Found>, Error> {
        let manifests: Vec<DockerManifest> = self.parse("manifest.json")?;
        if manifests.is_empty() {
            return Err(Error::Archive("its manifest.json names no image".into()));
        }
        let all: Vec<Found> = manifests
            .iter()
            .map(|m| {
                let tags = m.repo_tags.iter().flatten();
                let references =
                    tags.map(|t| Ok(Reference::parse(t)?.or_latest())).collect::<Result<_, Error>>()?;
                let layers =
                    m.layers.iter().flatten().map(|l| self.get(l).cloned()).collect::<Result<_, _>>()?;
                self.found(&m.config, layers, references)
            })
            .collect::<Result<_, _>>()?;
        let Some(wanted) = platform else { return Ok(all) };
        let (fitting, others): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|f| wanted.served_by(&f.platform()).is_some());
        if fitting.is_empty() {
            return Err(no_platform(wanted, others.iter().map(Found::platform)));
        }
        Ok(fitting)
    }

    fn found(&self, config: &str, layers: Vec<Member>, references: Vec<Reference>) -> Result<Found, Error> {
        let config_bytes = self.read_json(config)?;
        let blob = ConfigBlob::parse(&config_bytes, config)?;
        if blob.rootfs.diff_ids.len() != layers.len() {
            return Err(Error::Archive(format!(
                "image {config} lists {} layers in its configuration and {} in its manifest",
                blob.rootfs.diff_ids.len(),
                layers.len()
            )));
        }
        Ok(Found { config: blob, config_bytes, layers, references })
    }

    fn oci(&self, platform: Option<&Platform>) -> Result<Vec<Found>, Error> {
        let wanted = platform.cloned().unwrap_or_else(Platform::host);
        let index: OciDocument = self.parse("index.json")?;
        let all = index.manifests.unwrap_or_default();
        let fitting: Vec<&Descriptor> = all.iter().filter(|d| fits(d, &wanted)).collect();
        if fitting.is_empty() {
            return Err(no_platform(&wanted, all.into_iter().filter_map(|d| d.platform)));
        }
        let found: Vec<Found> =
            fitting.into_iter().map(|d| self.oci_image(d, &wanted, 0)).collect::<Result<_, _>>()?;
        // An index need not say what its images are for; they do.
        let is_other = |f: &&Found| wanted.served_by(&f.platform()).is_none();
        match (platform, found.iter().find(is_other)) {
            (Some(_), Some(other)) => Err(no_platform(&wanted, [other.platform()])),
            _ => Ok(found),
        }
    }

    /// A descriptor's blob, whose content was hashed when it was set aside.
    fn blob(&self, d: &Descriptor) -> Result<(String, Member), Error> {
        if !is_digest(&d.digest) {
            return Err(Error::Archive(format!("digest {:?} is not one of sha256", d.digest)));
        }
        let name = format!("blobs/sha256/{}", &d.digest[7..]);
        let member = self.get(&name)?.clone();
        Ok((name, member))
    }

    fn oci_image(&self, d: &Descriptor, wanted: &Platform, depth: u8) -> Result<Found, Error> {
        let (name, _) = self.blob(d)?;
        let document: OciDocument = self.parse(&name)?;
        if let Some(inner) = document.manifests {
            let Some(chosen) = inner.iter().find(|d| fits(d, wanted)) else {
                return Err(no_platform(wanted, inner.into_iter().filter_map(|d| d.platform)));
            };
            if depth > 3 {
                return Err(Error::Archive("its indexes are nested too deep".into()));
            }
            let mut found = self.oci_image(chosen, wanted, depth + 1)?;
            found.references.extend(reference(d));
            return Ok(found);
        }
        let config = document
            .config
            .ok_or_else(|| Error::Archive(format!("{name:?} is neither an index nor a manifest")))?;
        let mut layers = Vec::new();
        for l in document.layers.unwrap_or_default() {
            if !l.media_type.contains("tar") || l.media_type.contains("encrypted") {
                return Err(Error::Archive(format!(
                    "layer {} is of type {:?}, which is not a layer this engine unpacks",
                    l.digest, l.media_type
                )));
            }
            layers.push(self.blob(&l)?.1);
        }
        let (config_name, _) = self.blob(&config)?;
        self.found(&config_name, layers, reference(d).into_iter().collect())
    }
}

fn fits(d: &Descriptor, wanted: &Platform) -> bool {
    d.platform.as_ref().is_none_or(|p| wanted.served_by(p).is_some())
}

fn no_platform(wanted: &Platform, all: impl IntoIterator<Item = Platform>) -> Error {
    let names: Vec<String> = all.into_iter().map(|p| p.to_string()).collect();
    Error::Archive(format!("no image in it fits {wanted}; it has: {}", names.join(", ")))
}

/// The reference an index gives a manifest. A bare tag (`latest`) names nothing.
fn reference(d: &Descriptor) -> Option<Reference> {
    let notes = d.annotations.as_ref()?;
    let named = notes
        .get("io.containerd.image.name")
        .or_else(|| notes.get("org.opencontainers.image.ref.name").filter(|n| n.contains([':', '/'])))?;
    Reference::parse(named).ok().map(Reference::or_latest)
}
