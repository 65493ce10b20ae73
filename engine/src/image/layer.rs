//! Layers and blobs on their way into the store: hashed in a second thread while they are written.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc;

use sha2::{Digest, Sha256};

use super::compression::decoder;
use super::extract::extract;
use super::tar::TarReader;
use crate::data_root::make_dir;
use crate::error::Error;

/// What an archive may ask of this host.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Bytes that one layer may unpack to.
    pub(crate) bytes: u64,
    /// Entries of one archive.
    pub(crate) entries: u64,
    /// Bytes unpacked before the ratio counts.
    pub(crate) free: u64,
    /// Bytes unpacked for each byte read, beyond `free`.
    pub(crate) ratio: u64,
    /// Bytes of a manifest or configuration.
    pub(crate) json: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 64 << 30, entries: 4_000_000, free: 2 << 30, ratio: 200, json: 8 << 20 }
    }
}

/// 32 random hex characters, for temporary names.
pub(crate) fn unused_name() -> String {
    hex::encode(rand::random::<[u8; 16]>())
}

/// `sha256:...` of bytes.
pub(super) fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Chain IDs, bottom first.
pub(super) fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut out: Vec<String> = Vec::with_capacity(diff_ids.len());
    for diff in diff_ids {
        out.push(match out.last() {
            None => diff.clone(),
            Some(below) => digest_of(format!("{below} {diff}").as_bytes()),
        });
    }
    out
}

/// Hashes in a thread of its own what is passed on to it.
pub(super) struct Hasher {
    chunks: mpsc::SyncSender<Vec<u8>>,
    thread: std::thread::JoinHandle<String>,
}

impl Hasher {
    pub(super) fn start() -> io::Result<Self> {
        let (chunks, inbox) = mpsc::sync_channel::<Vec<u8>>(16);
        let thread = std::thread::Builder::new().name("skep-hash".into()).spawn(move || {
            let mut hash = Sha256::new();
            for chunk in inbox {
                hash.update(&chunk);
            }
            format!("sha256:{}", hex::encode(hash.finalize()))
        })?;
        Ok(Self { chunks, thread })
    }

    pub(super) fn add(&self, bytes: &[u8]) -> io::Result<()> {
        self.chunks.send(bytes.to_vec()).map_err(|_| io::Error::other("the hashing thread has stopped"))
    }

    pub(super) fn finish(self) -> io::Result<String> {
        drop(self.chunks);
        self.thread.join().map_err(|_| io::Error::other("the hashing thread has stopped"))
    }
}

/// Passes on what it reads, to be hashed, and stops at what no honest layer is.
struct Watched<'a, R> {
    inner: R,
    hasher: Option<&'a Hasher>,
    produced: u64,
    allowed: u64,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.produced += n as u64;
        if self.produced > self.allowed {
            return Err(io::Error::other(format!(
                "it unpacks to more than {} bytes, far more than its compressed size accounts for",
                self.allowed
            )));
        }
        if let Some(h) = self.hasher {
            h.add(&buf[..n])?;
        }
        Ok(n)
    }
}

/// A blob copied to a temporary file.
#[derive(Clone, Debug)]
pub(super) struct Staged {
    pub(super) digest: String,
    pub(super) size: u64,
}

/// Copies `from` to `to` (or only hashes it), hashing in a second thread.
pub(super) fn stage(from: &mut impl Read, to: Option<&Path>) -> Result<Staged, Error> {
    let subject = to.map_or_else(|| "a blob".into(), Path::to_path_buf);
    let mut file = to.map(|p| File::create_new(p).map_err(Error::io("create", p))).transpose()?;
    let hasher = Hasher::start().map_err(Error::io("hash", &subject))?;
    let mut buffer = vec![0; 256 << 10];
    let mut size = 0;
    loop {
        let n = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(Error::Archive(format!("it cannot be read: {e}"))),
        };
        hasher.add(&buffer[..n]).map_err(Error::io("hash", &subject))?;
        if let Some(f) = &mut file {
            f.write_all(&buffer[..n]).map_err(Error::io("write", &subject))?;
        }
        size += n as u64;
    }
    let digest = hasher.finish().map_err(Error::io("hash", &subject))?;
    Ok(Staged { digest, size })
}

/// What unpacking a blob showed.
#[derive(Debug)]
pub(super) struct Unpacked {
    pub(super) diff_id: String,
    pub(super) size: u64,
}

/// Unpacks the blob into the new directory `to`. `blob_digest` spares hashing twice what is not compressed.
pub(super) fn unpack(blob: &Path, blob_digest: &str, to: &Path, limits: &Limits) -> Result<Unpacked, Error> {
    let file = File::open(blob).map_err(Error::io("open", blob))?;
    let compressed = file.metadata().map_err(Error::io("read the size of", blob))?.size();
    unpack_from(file, compressed, blob_digest, to, limits)
}

/// The same from a reader of a blob of `compressed` bytes.
pub(super) fn unpack_from(
    blob: impl Read + Send,
    compressed: u64,
    blob_digest: &str,
    to: &Path,
    limits: &Limits,
) -> Result<Unpacked, Error> {
    make_dir(to, 0o755)?;
    // Whatever the umask of whoever started the daemon.
    std::fs::set_permissions(to, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .map_err(Error::io("set the mode of", to))?;
    let (compression, reader) =
        decoder(blob).map_err(|e| Error::Archive(format!("a layer cannot be read: {e}")))?;
    let plain = compression == super::compression::Compression::Plain;
    let hasher = if plain { None } else { Some(Hasher::start().map_err(Error::io("hash", to))?) };
    let allowed =
        limits.free.max(compressed.saturating_mul(limits.ratio)).min(limits.bytes.saturating_mul(2));
    let watched = Watched { inner: reader, hasher: hasher.as_ref(), produced: 0, allowed };
    let mut archive = TarReader::new(watched, false);
    let size = extract(&mut archive, to, limits)?;
    // The diff ID covers whatever follows the end mark too.
    let mut rest = archive.into_inner();
    io::copy(&mut rest, &mut io::sink())
        .map_err(|e| Error::Archive(format!("a layer is damaged after its end mark: {e}")))?;
    let diff_id = match hasher {
        None => blob_digest.to_owned(),
        Some(h) => h.finish().map_err(Error::io("hash", to))?,
    };
    Ok(Unpacked { diff_id, size })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zeros(bytes: usize) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut h = tar::Header::new_gnu();
        h.set_size(bytes as u64);
        h.set_mode(0o644);
        tar.append_data(&mut h, "zeros", io::repeat(0).take(bytes as u64)).expect("writes");
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gz.write_all(&tar.into_inner().expect("writes")).expect("compresses");
        gz.finish().expect("compresses")
    }

    #[test]
    fn bombs_are_refused_and_chains_are_computed() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let blob = dir.path().join("blob");
        std::fs::write(&blob, zeros(4 << 20)).expect("writes");
        let small = |free, bytes| Limits { free, bytes, ratio: 20, ..Limits::default() };
        let attempt = |name: &str, limits: Limits| {
            unpack(&blob, "", &dir.path().join(name), &limits).map_err(|e| e.to_string())
        };
        let ratio = attempt("a", small(1 << 20, 1 << 30)).expect_err("a bomb");
        assert!(ratio.contains("far more than its compressed size"), "{ratio}");
        let size = attempt("b", small(1 << 30, 1 << 20)).expect_err("too big");
        assert!(size.contains("\"zeros\"") && size.contains("at most"), "{size}");
        assert_eq!(attempt("c", Limits::default()).expect("honest").size, 4 << 20);
        let ids = ["sha256:a".to_owned(), "sha256:b".to_owned()];
        assert_eq!(chain_ids(&ids), ["sha256:a".to_owned(), digest_of(b"sha256:a sha256:b")]);
    }
}
