//! One image of an OCI image layout, as it is sent to the daemon: its own blobs, under an index that names it alone.
//! <https://github.com/opencontainers/image-spec/blob/main/image-layout.md>

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::context::{slashes, written};

/// Begins the path of one.
pub(super) const SCHEME: &str = "oci-layout://";
/// Longest document that is read, in bytes.
const LONGEST: u64 = 4 << 20;
/// Blobs of one image.
const MOST: usize = 10_000;

/// Name of an image within its layout.
const TAG: &str = "org.opencontainers.image.ref.name";
/// Name of an image as containerd and Docker have it.
const NAME: &str = "io.containerd.image.name";

/// An image of a layout.
pub(super) struct Layout {
    root: PathBuf,
    index: Value,
    /// Paths of its blobs below the root.
    blobs: BTreeSet<String>,
}

impl Layout {
    /// Finds what `PATH[:TAG|@DIGEST]` means. Without either it is the image `latest`, or the only one.
    pub(super) fn find(text: &str) -> Result<Self> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        let root = Path::new(path).to_owned();
        let version = document(&root.join("oci-layout"))
            .with_context(|| format!("{path:?} is not an OCI image layout"))?;
        if version["imageLayoutVersion"] != "1.0.0" {
            bail!(
                "{path:?} is a layout of version {}, and only 1.0.0 is known",
                version["imageLayoutVersion"]
            );
        }
        let chosen = match digest {
            Some(digest) => json!({ "digest": digest }),
            None => {
                let index = document(&root.join("index.json"))?;
                let all = index["manifests"].as_array().cloned().unwrap_or_default();
                choose(&all, tag).with_context(|| format!("reference {text:?} could not be resolved"))?
            }
        };
        let mut blobs = BTreeSet::new();
        let mut todo = vec![(blob(&chosen)?, true)];
        while let Some((path, is_document)) = todo.pop() {
            let file = root.join(&path);
            if blobs.contains(&path) {
                continue;
            }
            if !file.is_file() {
                // What is left out may be of another platform; the daemon says what it misses.
                if blobs.is_empty() {
                    bail!("{} is not there", file.display());
                }
                continue;
            }
            blobs.insert(path);
            if blobs.len() > MOST {
                bail!("the image has more than {MOST} blobs");
            }
            if !is_document {
                continue;
            }
            let found = document(&file)?;
            for manifest in found["manifests"].as_array().into_iter().flatten() {
                todo.push((blob(manifest)?, true));
            }
            for leaf in found["layers"].as_array().into_iter().flatten().chain(found.get("config")) {
                todo.push((blob(leaf)?, false));
            }
        }
        Ok(Self { root, index: json!({ "schemaVersion": 2, "manifests": [chosen] }), blobs })
    }

    /// Writes it below a directory of an archive.
    pub(super) fn pack(&self, at: &Path, out: &mut tar::Builder<impl Write>) -> Result<()> {
        let named = |name: &str| slashes(&at.join(name));
        written(out, &named("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        written(out, &named("index.json"), &serde_json::to_vec(&self.index)?)?;
        for path in &self.blobs {
            let source = self.root.join(path);
            let mut file = File::open(&source).with_context(|| format!("read {}", source.display()))?;
            out.append_file(at.join(path), &mut file)
                .with_context(|| format!("read {}", source.display()))?;
        }
        Ok(())
    }
}

/// The image of an index that a tag means.
fn choose(all: &[Value], tag: Option<&str>) -> Result<Value> {
    let wanted = tag.unwrap_or("latest");
    let is = |d: &&Value| {
        let notes = &d["annotations"];
        let name = notes[NAME].as_str().and_then(|n| n.rsplit_once(':'));
        notes[TAG] == wanted || notes[TAG].is_null() && name.is_some_and(|(_, tag)| tag == wanted)
    };
    match (all.iter().find(is), all, tag) {
        (Some(found), ..) => Ok(found.clone()),
        (None, [only], None) => Ok(only.clone()),
        (None, ..) => {
            let names: Vec<&str> = all.iter().filter_map(|d| d["annotations"][TAG].as_str()).collect();
            bail!(
                "its index.json has no image {wanted:?}: it has {} image(s), called [{}]",
                all.len(),
                names.join(", ")
            )
        }
    }
}

/// Path of what a descriptor is of.
fn blob(descriptor: &Value) -> Result<String> {
    let digest = descriptor["digest"].as_str().unwrap_or_default();
    let hex = digest.strip_prefix("sha256:").unwrap_or_default();
    if hex.len() != 64 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        bail!("invalid digest {digest:?}: want sha256: and 64 hexadecimal digits");
    }
    Ok(format!("blobs/sha256/{hex}"))
}

/// A JSON document of a layout.
fn document(path: &Path) -> Result<Value> {
    let file = File::open(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => anyhow::anyhow!("{} is not there", path.display()),
        _ => anyhow::Error::new(e).context(format!("read {}", path.display())),
    })?;
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes).with_context(|| format!("read {}", path.display()))?;
    if bytes.len() as u64 > LONGEST {
        bail!("{} is longer than {LONGEST} bytes", path.display());
    }
    serde_json::from_slice(&bytes).with_context(|| format!("{} is not JSON", path.display()))
}
