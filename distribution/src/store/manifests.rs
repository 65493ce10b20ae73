//! Manifests and tags of repositories, and what refers to what.

use std::fs;

use serde_json::json;
use skep_registry::{digest_of, is_digest};

use super::files::{self, mark, remove, sync_dir, text, touch};
use super::{Store, blobs};
use crate::error::{Error, Refusal};
use crate::manifest::{LONGEST, Manifest, Part, PartKind};
use crate::route::Reference;

/// A manifest as it lies there.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) digest: String,
    pub(crate) media_type: String,
    pub(crate) bytes: Vec<u8>,
}

impl Store {
    /// What a tag stands for.
    pub(crate) fn tagged(&self, name: &str, tag: &str) -> Result<Option<String>, Error> {
        Ok(text(&self.tag_path(name, tag))?.filter(|d| is_digest(d)))
    }

    /// A manifest by tag or digest.
    pub(crate) fn manifest(&self, name: &str, reference: &Reference) -> Result<Option<Stored>, Error> {
        let _using = self.using()?;
        self.find_manifest(name, reference)
    }

    /// The same for a client, who may build on it: it counts as used.
    pub(crate) fn use_manifest(&self, name: &str, reference: &Reference) -> Result<Option<Stored>, Error> {
        let _using = self.using()?;
        let found = self.find_manifest(name, reference)?;
        if let Some(stored) = &found {
            touch(&self.manifest_link(name, &stored.digest))?;
            touch(&self.blob_path(&stored.digest))?;
        }
        Ok(found)
    }

    fn find_manifest(&self, name: &str, reference: &Reference) -> Result<Option<Stored>, Error> {
        let digest = match reference {
            Reference::Digest(digest) if is_digest(digest) => digest.clone(),
            Reference::Tag(tag) => match self.tagged(name, tag)? {
                Some(digest) => digest,
                None => return Ok(None),
            },
            _ => return Ok(None),
        };
        self.read_manifest(name, &digest)
    }

    fn read_manifest(&self, name: &str, digest: &str) -> Result<Option<Stored>, Error> {
        let Some(media_type) = text(&self.manifest_link(name, digest))? else { return Ok(None) };
        let path = self.blob_path(digest);
        let bytes = match fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                tracing::error!(repository = name, digest, "a manifest's file is missing");
                return Ok(None);
            }
            read => read.map_err(Error::io("read", &path))?,
        };
        if digest_of(&bytes) != digest {
            return Err(Error::Damaged { path });
        }
        Ok(Some(Stored { digest: digest.to_owned(), media_type, bytes }))
    }

    /// Stores a manifest, gives it a tag where one is named. With `whole`, all that it names must be there.
    pub(crate) fn put_manifest(
        &self,
        name: &str,
        tag: Option<&str>,
        manifest: &Manifest,
        bytes: &[u8],
        whole: bool,
    ) -> Result<String, Refusal> {
        let digest = digest_of(bytes);
        let using = self.using()?;
        if whole && let Some((part, size)) = self.check_parts(name, manifest)? {
            drop(using);
            // The manifest lies, or the disk does.
            if !self.is_whole(&part.digest)? {
                return Err(missing(part));
            }
            return Err(Refusal::manifest_invalid(format!(
                "manifest invalid: it says that {} has {} bytes, and it has {size}",
                part.digest, part.size
            )));
        }
        let path = self.blob_path(&digest);
        // One that is damaged is mended by pushing it again.
        if !touch(&path)? || !fs::read(&path).is_ok_and(|there| there == bytes) {
            files::write(&path, bytes, &self.temporary())?;
        }
        if let Some(subject) = &manifest.subject {
            mark(&self.referrers_dir(name, subject).join(crate::name::hex_of(&digest)))?;
        }
        files::write(&self.manifest_link(name, &digest), manifest.media_type.as_bytes(), &self.temporary())?;
        if let Some(tag) = tag {
            files::write(&self.tag_path(name, tag), digest.as_bytes(), &self.temporary())?;
        }
        Ok(digest)
    }

    /// Refuses what names something that is not there; what is there in another size than it says, and that size.
    fn check_parts<'a>(
        &self,
        name: &str,
        manifest: &'a Manifest,
    ) -> Result<Option<(&'a Part, u64)>, Refusal> {
        for part in &manifest.parts {
            let size = match part.kind {
                PartKind::Foreign => continue,
                PartKind::Blob => self.use_blob(name, &part.digest)?,
                PartKind::Manifest => {
                    let path = self.blob_path(&part.digest);
                    let there = touch(&self.manifest_link(name, &part.digest))? && touch(&path)?;
                    if there { blobs::size(&path)? } else { None }
                }
            };
            match size {
                Some(size) if size == part.size => {}
                Some(size) => return Ok(Some((part, size))),
                None => return Err(missing(part)),
            }
        }
        Ok(None)
    }

    /// Takes a tag away; whether there was one.
    pub(crate) fn delete_tag(&self, name: &str, tag: &str) -> Result<bool, Error> {
        let _using = self.using()?;
        let path = self.tag_path(name, tag);
        if !path.exists() {
            return Ok(false);
        }
        remove(&path)?;
        path.parent().map_or(Ok(()), sync_dir)?;
        Ok(true)
    }

    /// Takes a manifest away with its tags; whether there was one.
    pub(crate) fn delete_manifest(&self, name: &str, digest: &str) -> Result<bool, Error> {
        // A tag that somebody gives to another manifest just now must not go with it.
        let _alone = self.collecting()?;
        let link = self.manifest_link(name, digest);
        if !link.exists() {
            return Ok(false);
        }
        self.untag(name, digest)?;
        self.forget_manifest(name, digest)?;
        Ok(true)
    }

    /// Removes all tags of a manifest.
    pub(crate) fn untag(&self, name: &str, digest: &str) -> Result<(), Error> {
        for tag in self.tags(name)?.unwrap_or_default() {
            if self.tagged(name, &tag)?.as_deref() == Some(digest) {
                remove(&self.tag_path(name, &tag))?;
            }
        }
        Ok(())
    }

    /// Removes a manifest's link and that by which its subject knows it, in that order: what is left by a crash is
    /// passed over.
    pub(crate) fn forget_manifest(&self, name: &str, digest: &str) -> Result<(), Error> {
        let read = self.read_manifest(name, digest);
        let link = self.manifest_link(name, digest);
        remove(&link)?;
        link.parent().map_or(Ok(()), sync_dir)?;
        if let Ok(Some(stored)) = read
            && let Ok(Manifest { subject: Some(subject), .. }) =
                Manifest::read(&stored.bytes, &stored.media_type)
        {
            let dir = self.referrers_dir(name, &subject);
            remove(&dir.join(crate::name::hex_of(digest)))?;
            // Of use only while something is in it.
            let _ = fs::remove_dir(&dir);
        }
        Ok(())
    }

    /// Hex digests of the manifests of a repository whose subject is this one, sorted; not all need be there.
    pub(crate) fn referrer_links(&self, name: &str, subject: &str) -> Result<Vec<String>, Error> {
        files::entries(&self.referrers_dir(name, subject))
    }

    /// Manifests of a repository whose subject is this one, from what follows a hex digest on, as many as one answer
    /// holds; and whether there are more.
    pub(crate) fn referrers(
        &self,
        name: &str,
        subject: &str,
        last: Option<&str>,
    ) -> Result<(Vec<(Stored, Manifest)>, bool), Error> {
        let _using = self.using()?;
        let (mut all, mut bytes) = (Vec::new(), 0);
        for hex in self.referrer_links(name, subject)? {
            if last.is_some_and(|last| hex.as_str() <= last) {
                continue;
            }
            if bytes >= LONGEST {
                return Ok((all, true));
            }
            let Some(stored) = self.read_manifest(name, &format!("sha256:{hex}"))? else { continue };
            if let Ok(read) = Manifest::read(&stored.bytes, &stored.media_type) {
                bytes += stored.bytes.len();
                all.push((stored, read));
            }
        }
        Ok((all, false))
    }
}

fn missing(part: &Part) -> Refusal {
    let what = if part.kind == PartKind::Manifest { "manifest" } else { "blob" };
    let words = format!("{what} unknown to registry: push it before what names it");
    Refusal::new(hyper::StatusCode::BAD_REQUEST, "MANIFEST_BLOB_UNKNOWN", words)
        .detail(json!({ "digest": part.digest }))
}
