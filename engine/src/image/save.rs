//! Writes images out as one docker-archive, as a stream.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};
use std::pin::Pin;

use bytes::Bytes;
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::StreamReader;

use super::reference::Reference;
use super::store::Images;
use crate::error::Error;

/// What `save` gives: bytes, or the error that ends them.
pub type SavedArchive = Pin<Box<dyn AsyncRead + Send>>;

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
        let (send, receive) = mpsc::channel(8);
        tokio::task::spawn_blocking(move || {
            let mut out = Sender { send, buffer: Vec::new() };
            let ended = images.write_archive(&mut out, &wanted).and_then(|()| out.flush());
            if let Err(e) = ended {
                // Nobody listens when the reader has gone; that is how most of these end.
                let _ = out.send.blocking_send(Err(e));
            }
        });
        Ok(Box::pin(StreamReader::new(ReceiverStream::new(receive))))
    }

    fn write_archive(&self, out: &mut Sender, wanted: &BTreeMap<String, BTreeSet<String>>) -> io::Result<()> {
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
        }
        let json = serde_json::to_vec(&manifest)?;
        let mut header = tar::Header::new_ustar();
        header.set_size(json.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, "manifest.json", json.as_slice())?;
        archive.finish()
    }
}

const CHUNK: usize = 256 << 10;

struct Sender {
    send: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl Write for Sender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = Bytes::from(std::mem::take(&mut self.buffer));
        self.send.blocking_send(Ok(chunk)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
