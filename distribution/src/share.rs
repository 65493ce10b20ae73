//! Blobs that lie twice on this host, here and in a daemon's content, made one file.

use serde::Serialize;

use crate::daemon::{DaemonBlobs, is_no_link};
use crate::error::Error;
use crate::store::{Store, remove};

/// Blobs that are one file with the daemon's from now on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Shared {
    /// Their digests.
    pub blobs: Vec<String>,
    /// Bytes that this saves.
    pub bytes: u64,
}

/// Takes the daemon's file for each blob of which it has another one that is right; those in `gone`, which would have been
/// removed before, stay out of it.
pub(crate) fn share(
    store: &Store,
    daemon: &DaemonBlobs,
    dry_run: bool,
    gone: &[String],
) -> Result<Shared, Error> {
    let mut shared = Shared::default();
    for hex in store.all_blobs()? {
        let digest = format!("sha256:{hex}");
        let path = store.blob_path(&digest);
        if dry_run && gone.contains(&digest) {
            continue;
        }
        let made = store.temporary();
        match daemon.twin(store, &digest, &made) {
            Ok(false) => continue,
            Ok(true) => {}
            Err(e) if is_no_link(&e) => {
                tracing::warn!(error = %e, "what lies in both stores stays there twice: files of the daemon's content cannot be linked to from the registry's directory");
                return Ok(shared);
            }
            Err(e) => {
                tracing::warn!(digest, error = %e, "a blob lies in both stores, and is left there twice");
                continue;
            }
        }
        let freed = match dry_run {
            true => remove(&made).map(|()| std::fs::metadata(&path).map_or(0, |m| m.len())),
            false => store.exchange(&made, &digest),
        };
        match freed {
            Ok(bytes) => {
                shared.bytes += bytes;
                shared.blobs.push(digest);
            }
            // What was collected before this is to be told all the same.
            Err(e) => {
                tracing::warn!(digest, error = %e, "a blob lies in both stores, and is left there twice");
                if let Err(e) = remove(&made) {
                    tracing::warn!(error = %e, "it is swept at the next start");
                }
            }
        }
    }
    Ok(shared)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::MetadataExt;
    use std::time::{Duration, SystemTime};

    use skep_registry::digest_of;

    use super::*;

    #[test]
    fn two_files_of_one_blob_become_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(&dir.path().join("registry")).expect("opens");
        let theirs = dir.path().join("daemon/blobs/sha256");
        fs::create_dir_all(&theirs).expect("makes");
        let daemon = DaemonBlobs::open(&dir.path().join("daemon"), &store).expect("opens");
        let hex = |text: &str| digest_of(text.as_bytes()).trim_start_matches("sha256:").to_owned();
        for text in ["both", "ours", "hurt"] {
            let file = store.temporary();
            fs::write(&file, text).expect("writes");
            store.take_in(&file, "a", &digest_of(text.as_bytes())).expect("takes it in");
        }
        for (text, content) in [("both", "both"), ("hurt", "hunt"), ("theirs", "theirs")] {
            let path = theirs.join(hex(text));
            fs::write(&path, content).expect("writes");
            let then = SystemTime::now() - Duration::from_secs(9000);
            File::open(&path).and_then(|f| f.set_modified(then)).expect("sets the time");
        }
        let both = digest_of(b"both");
        let used = Store::last_used(&store.blob_path(&both));
        for (dry_run, links) in [(true, 1), (false, 2)] {
            let found = share(&store, &daemon, dry_run, &[]).expect("shares");
            assert_eq!(found, Shared { blobs: vec![both.clone()], bytes: 4 }, "dry run: {dry_run}");
            assert_eq!(fs::metadata(store.blob_path(&both)).expect("is there").nlink(), links);
            assert_eq!(Store::last_used(&store.blob_path(&both)), used, "it counts as used when it was");
            assert_eq!(fs::read_dir(store.root().join("tmp")).expect("lists").count(), 0);
        }
        assert_eq!(share(&store, &daemon, false, &[]).expect("shares"), Shared::default());
        assert_eq!(fs::read(store.blob_path(&digest_of(b"hurt"))).expect("reads"), b"hurt");
    }
}
