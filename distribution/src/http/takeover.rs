//! Blobs that this registry has not and this host's daemon has: they are taken over from there for whoever may push them
//! (OCI distribution, "Mounting a blob from another repository": automatic content discovery), and are not there for
//! anybody else.

use hyper::header::HeaderMap;

use super::{App, PUSH};
use crate::auth::Need;
use crate::error::{Error, Refusal};
use crate::manifest::{Manifest, PartKind};

impl App {
    /// Gives a repository a blob of the daemon, if it has it and the client may push there; whether it is there now.
    pub(super) async fn taken_over(
        &self,
        name: &str,
        digest: &str,
        headers: &HeaderMap,
    ) -> Result<bool, Refusal> {
        let Some(daemon) = self.daemon.clone().filter(|_| !self.read_only) else { return Ok(false) };
        let need = Need::Repository { name: name.to_owned(), actions: PUSH };
        if self.auth.check(headers, &need).await.is_err() {
            return Ok(false);
        }
        let (name, digest) = (name.to_owned(), digest.to_owned());
        // Held until it is done, also where its client has left.
        let turn = daemon.turn().await;
        let given = self.store.run(move |store| {
            let _turn = turn;
            Ok::<_, Error>(daemon.give(store, &name, &digest))
        });
        Ok(given.await?)
    }

    /// Gives a repository what a manifest that is pushed to it names, and only the daemon has.
    pub(super) async fn complete_from_daemon(&self, name: &str, manifest: &Manifest) -> Result<(), Refusal> {
        let Some(daemon) = self.daemon.clone() else { return Ok(()) };
        let blobs = manifest.parts.iter().filter(|p| p.kind == PartKind::Blob);
        let (name, blobs): (_, Vec<String>) = (name.to_owned(), blobs.map(|p| p.digest.clone()).collect());
        let at = name.clone();
        let missing = self.store.run(move |store| {
            let mut missing = Vec::new();
            for digest in blobs {
                if store.blob_size(&at, &digest)?.is_none() {
                    missing.push(digest);
                }
            }
            Ok::<_, Error>(missing)
        });
        let missing = missing.await?;
        if missing.is_empty() {
            return Ok(());
        }
        let turn = daemon.turn().await;
        let given = self.store.run(move |store| {
            let _turn = turn;
            for digest in missing {
                daemon.give(store, &name, &digest);
            }
            Ok::<_, Error>(())
        });
        Ok(given.await?)
    }
}
