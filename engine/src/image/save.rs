//! Writes images out as one docker-archive, as a stream.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;

use super::reference::Reference;
use super::store::Images;
use crate::error::Error;
use crate::outflow::{self, Outflow, SavedArchive};

impl Images {
    /// All the named images in one archive that `load` (and Docker's) reads. Blobs go out as they came in.
    pub async fn save(&self, references: &[String]) -> Result<SavedArchive, Error> {
        let mut wanted: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for asked in references {
            let image = self.resolve(asked)?;
            let tags = wanted.entry(image.id.clone()).or_default();
            if let Ok(r) = Reference::parse(asked) {
                let shown = r.or_latest().to_string();
                // A bare name means all its tags, as with Docker; an ID names none.
                if image.references.contains(&shown) {
                    tags.insert(shown);
                }
            }
        }
        if wanted.is_empty() {
            return Err(Error::Invalid("name at least one image to save".into()));
        }
        let images = self.clone();
        Ok(outflow::stream(move |out| images.write_archive(out, &wanted)))
    }

    fn write_archive(
        &self,
        out: &mut Outflow,
        wanted: &BTreeMap<String, BTreeSet<String>>,
    ) -> io::Result<()> {
        // Nothing that is being written may be removed meanwhile.
        let _changing = self.changing().blocking_lock();
        let mut archive = tar::Builder::new(out);
        let mut written = BTreeSet::new();
        let mut manifest = Vec::new();
        for (id, tags) in wanted {
            let Some(stored) = self.state().images.get(id).cloned() else {
                return Err(io::Error::other(format!("image {id} was removed while it was being saved")));
            };
            let name = |digest: &str| format!("blobs/sha256/{}", digest.trim_start_matches("sha256:"));
            for digest in stored.blobs.iter().chain([id]) {
                if written.insert(digest.clone()) {
                    let mut file = File::open(self.blob_path(digest))?;
                    let mut header = tar::Header::new_ustar();
                    header.set_size(file.metadata()?.len());
                    header.set_mode(0o644);
                    archive.append_data(&mut header, name(digest), &mut file)?;
                }
            }
            manifest.push(serde_json::json!({
                "Config": name(id),
                "RepoTags": tags,
                "Layers": stored.blobs.iter().map(|d| name(d)).collect::<Vec<_>>(),
            }));
            self.emit("save", id, id);
        }
        let json = serde_json::to_vec(&manifest)?;
        let mut header = tar::Header::new_ustar();
        header.set_size(json.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, "manifest.json", json.as_slice())?;
        archive.finish()
    }
}
