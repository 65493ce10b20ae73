//! A mirror: what another registry has, fetched when somebody asks for it, verified, and kept.

mod fetch;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::header::HeaderMap;
use hyper::{Response, StatusCode, Uri};
use skep_registry::{Credentials, Fetched, Registries, Repository, Session};

use crate::daemon::DaemonBlobs;
use crate::error::{Error, Refusal};
use crate::http::{Body, blob_answer, blob_part};
use crate::manifest::Manifest;
use crate::route::Reference;
use crate::store::{Store, Stored};
use fetch::Fetch;

/// Repositories whose tokens are remembered.
const SESSIONS: usize = 1000;

/// Which registry is mirrored.
#[derive(Clone, Debug, Default)]
pub struct MirrorOptions {
    /// `https://host[:port]`, or `http://` for one without TLS.
    pub url: String,
    /// Who the mirror is there; what it may read, all its clients may.
    pub credentials: Credentials,
    /// Directories of registries' certificates, as the registry client's.
    pub certificates: Vec<PathBuf>,
}

/// The same, ready.
#[derive(Debug)]
pub(crate) struct Mirror {
    url: String,
    registry: String,
    credentials: Credentials,
    registries: Registries,
    sessions: Mutex<HashMap<String, Session>>,
    /// Blobs on their way, by repository and digest.
    fetching: Arc<Mutex<HashMap<(String, String), Arc<Fetch>>>>,
}

impl Mirror {
    pub(crate) fn new(options: &MirrorOptions) -> Result<Self, Error> {
        let bad = |why: &str| Error::Invalid(format!("invalid registry to mirror {:?}: {why}", options.url));
        let uri: Uri = options.url.parse().map_err(|_| bad("it is no URL"))?;
        let authority = uri.authority().filter(|_| matches!(uri.scheme_str(), Some("http" | "https")));
        let authority = authority.ok_or_else(|| bad("want http://HOST[:PORT] or https://HOST[:PORT]"))?;
        if !uri.path().trim_matches('/').is_empty() || uri.query().is_some() {
            return Err(bad("want no path and no query"));
        }
        if authority.as_str().contains('@') {
            return Err(bad("a user is named by --mirror-username"));
        }
        let client = skep_registry::Options {
            certificates: options.certificates.clone(),
            user_agent: concat!("skep-registry/", env!("CARGO_PKG_VERSION")).into(),
            ..skep_registry::Options::default()
        };
        Ok(Self {
            url: options.url.clone(),
            registry: authority.to_string(),
            credentials: options.credentials.clone(),
            registries: Registries::new(client),
            sessions: Mutex::default(),
            fetching: Arc::default(),
        })
    }

    fn session(&self, name: &str) -> Session {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = sessions.get(name) {
            return known.clone();
        }
        if sessions.len() >= SESSIONS {
            sessions.clear();
        }
        let repository = Repository { registry: self.registry.clone(), path: name.to_owned() };
        let session = self.registries.open_at(&self.url, repository, self.credentials.clone());
        sessions.insert(name.to_owned(), session.clone());
        session
    }

    /// A manifest, and whether it may be out of date: the registry that is mirrored does not answer.
    pub(crate) async fn manifest(
        &self,
        store: &Store,
        name: &str,
        reference: &Reference,
    ) -> Result<(Stored, bool), Refusal> {
        let (at, wanted) = (name.to_owned(), reference.clone());
        let here = match store.run(move |store| store.use_manifest(&at, &wanted)).await {
            Err(e @ Error::Damaged { .. }) => {
                tracing::warn!(repository = name, error = %e, "it is fetched again");
                None
            }
            here => here?,
        };
        let tag = match reference {
            Reference::Digest(_) => match here {
                Some(stored) => return Ok((stored, false)),
                None => None,
            },
            Reference::Tag(tag) => Some(tag.clone()),
            Reference::Odd(odd) => return Err(Refusal::manifest_unknown(name, odd)),
        };
        let session = self.session(name);
        if let (Some(tag), Some(stored)) = (&tag, &here) {
            match session.digest_of_tag(tag).await {
                Ok(Some(digest)) if digest == stored.digest => return Ok((stored.clone(), false)),
                Err(e) if e.is_passing() => return Ok((self.stale(name, tag, stored, &e), true)),
                // Another by now, or not told: the manifest itself says.
                _ => {}
            }
        }
        match session.manifest(reference.text()).await {
            Ok(fetched) => Ok((self.keep(store, name, tag, fetched).await?, false)),
            Err(e) if e.is_absent() => {
                if let Some(tag) = tag.filter(|_| here.is_some()) {
                    let at = name.to_owned();
                    store.run(move |store| store.delete_tag(&at, &tag)).await?;
                }
                Err(Refusal::manifest_unknown(name, reference.text()))
            }
            Err(e) => match (tag, here) {
                (Some(tag), Some(stored)) if e.is_passing() => {
                    Ok((self.stale(name, &tag, &stored, &e), true))
                }
                _ => Err(self.failed(&e)),
            },
        }
    }

    fn stale(&self, name: &str, tag: &str, stored: &Stored, e: &skep_registry::Error) -> Stored {
        tracing::warn!(repository = name, tag, error = %e, "the registry that is mirrored does not answer: the tag may be out of date");
        stored.clone()
    }

    async fn keep(
        &self,
        store: &Store,
        name: &str,
        tag: Option<String>,
        fetched: Fetched,
    ) -> Result<Stored, Refusal> {
        let read = Manifest::read(&fetched.bytes, &fetched.media_type).map_err(|e| {
            Refusal::new(StatusCode::BAD_GATEWAY, "MANIFEST_INVALID", format!("{}: {}", self.url, e.message))
        })?;
        let stored =
            Stored { digest: fetched.digest, media_type: read.media_type.clone(), bytes: fetched.bytes };
        let (at, bytes) = (name.to_owned(), stored.bytes.clone());
        store.run(move |store| store.put_manifest(&at, tag.as_deref(), &read, &bytes, false)).await?;
        Ok(stored)
    }

    /// What went wrong there, for a client here.
    fn failed(&self, e: &skep_registry::Error) -> Refusal {
        tracing::warn!(registry = self.url, error = %e, "the registry that is mirrored did not give what was asked for");
        let words = format!("{}: {e}", self.url);
        if e.is_denied() {
            return Refusal::new(StatusCode::FORBIDDEN, "DENIED", words);
        }
        let code =
            if matches!(e, skep_registry::Error::Digest { .. }) { "DIGEST_INVALID" } else { "UNKNOWN" };
        Refusal::new(StatusCode::BAD_GATEWAY, code, words)
    }

    /// A blob: from here, or passed on while it comes. Its last byte is passed on once the digest is known to be right.
    pub(crate) async fn blob(
        &self,
        store: &Store,
        daemon: Option<&DaemonBlobs>,
        name: &str,
        digest: &str,
        is_head: bool,
        headers: &HeaderMap,
    ) -> Result<Response<Body>, Refusal> {
        let open = || {
            let (at, wanted) = (name.to_owned(), digest.to_owned());
            store.run(move |store| store.open_blob(&at, &wanted))
        };
        if let Some(here) = open().await? {
            return blob_answer(digest, here.1, is_head, headers, |first, n| {
                blob_part(store, digest, here, first, n)
            });
        }
        let session = self.session(name);
        let size = session.blob_size(digest).await.map_err(|e| self.failed(&e))?;
        let size = size.ok_or_else(|| Refusal::blob_unknown(digest))?;
        // Another repository may have brought it, or the daemon have it; that this one has it, we were just told.
        let (at, wanted, daemon) = (name.to_owned(), digest.to_owned(), daemon.cloned());
        let adopt = move |store: &Store| {
            Ok::<_, Error>(store.adopt(&at, &wanted)? || daemon.is_some_and(|d| d.give(store, &at, &wanted)))
        };
        if !is_head
            && store.run(adopt).await?
            && let Some(here) = open().await?
        {
            return blob_answer(digest, here.1, is_head, headers, |first, n| {
                blob_part(store, digest, here, first, n)
            });
        }
        if is_head || size == 0 {
            return blob_answer(digest, size, true, headers, |_, _| Err(Refusal::blob_unknown(digest)));
        }
        let fetch = {
            let key = (name.to_owned(), digest.to_owned());
            let mut fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
            match fetching.get(&key) {
                Some(known) => known.clone(),
                None => {
                    let fetch = Fetch::start(store, session.download(digest, size), name, digest, size, {
                        let (all, key) = (self.fetching.clone(), key.clone());
                        move || {
                            all.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
                        }
                    })?;
                    fetching.insert(key, fetch.clone());
                    fetch
                }
            }
        };
        blob_answer(digest, size, false, headers, |first, count| Ok(fetch.part(first, count)))
    }

    /// Tags there, or here if it does not answer.
    pub(crate) async fn tags(&self, store: &Store, name: &str) -> Result<Option<Vec<String>>, Refusal> {
        match self.session(name).tags().await {
            Ok(mut all) => {
                all.sort();
                Ok(Some(all))
            }
            Err(e) if e.is_absent() => Ok(None),
            Err(e) if e.is_passing() => {
                tracing::warn!(repository = name, error = %e, "the registry that is mirrored does not answer: its tags may be out of date");
                let name = name.to_owned();
                Ok(store.run(move |store| store.tags(&name)).await?)
            }
            Err(e) => Err(self.failed(&e)),
        }
    }
}
