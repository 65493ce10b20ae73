//! Statements about an image (provenance, a bill of materials) that its registry has in the index beside its manifest
//! (BuildKit's `docs/attestations/attestation-storage.md`). A pull brings none of them; the index is kept, and says
//! whether there are any.

use skep_registry::{Descriptor, Document, Fetched, digest_of};

use super::Images;
use crate::error::Error;

const TYPE: &str = "vnd.docker.reference.type";
const DIGEST: &str = "vnd.docker.reference.digest";
const ATTESTATION: &str = "attestation-manifest";

impl Images {
    /// Digests of the manifests of statements about an image, by the index it was pulled by. Reads small files.
    pub fn attestations(&self, reference_or_id: &str) -> Result<Vec<String>, Error> {
        let share = self.share(&self.resolve(reference_or_id)?.id)?;
        let Some((manifest, indexes)) = share.makeup().documents.split_last() else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        let about = digest_of(manifest);
        for index in indexes {
            let read = Fetched::read(index.clone(), "", digest_of(index));
            if let Document::Index { manifests } = read.map_err(|e| Error::Transfer(e.to_string()))?.document
            {
                found.extend(manifests.into_iter().filter(|d| is_about(d, &about)).map(|d| d.digest));
            }
        }
        Ok(found)
    }
}

fn is_about(d: &Descriptor, manifest: &str) -> bool {
    let note = |key: &str| d.annotations.as_ref().and_then(|a| a.get(key)).map(String::as_str);
    note(TYPE) == Some(ATTESTATION) && note(DIGEST) == Some(manifest)
}
