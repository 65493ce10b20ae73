//! One repository of one registry, seen by one user: requests with their authentication.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, HeaderValue, LINK};
use hyper::{HeaderMap, Method, Response, StatusCode};
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::Error;
use crate::auth::{authorize, challenges, refusal};
use crate::credentials::Credentials;
use crate::endpoints::{Endpoint, Registries};
use crate::http::{self, Body, full};
use crate::manifest::{ACCEPTED, Fetched, digest_of, is_digest};

/// Longest manifest taken, as Docker's limit.
const LONGEST_MANIFEST: usize = 4 << 20;
/// Longest list of tags taken in one page.
const LONGEST_TAGS: usize = 16 << 20;

/// A repository: its registry (`docker.io`, `host:port`) and its path there (`library/busybox`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository {
    /// Registry.
    pub registry: String,
    /// Path.
    pub path: String,
}

/// What a session is for; a token is asked for no more than that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading.
    Pull,
    /// Writing too.
    Push,
}

/// Cheap handle.
#[derive(Clone, Debug)]
pub struct Session(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registries: Registries,
    repository: Repository,
    credentials: Credentials,
    access: Access,
    endpoints: Vec<Endpoint>,
    /// The endpoint that answered last; those before it did not.
    chosen: AtomicUsize,
    /// `Authorization` by scope and endpoint.
    authorizations: Mutex<HashMap<(String, String), HeaderValue>>,
}

/// A request below a repository.
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    /// Whole URL, or what follows `/v2/NAME`.
    pub(crate) path: &'a str,
    pub(crate) headers: HeaderMap,
    pub(crate) body: &'a (dyn Fn() -> Body + Sync),
    /// A second repository that must be readable, for a blob mounted from it.
    pub(crate) also: Option<&'a str>,
}

impl<'a> Call<'a> {
    pub(crate) fn new(method: Method, path: &'a str) -> Self {
        Self { method, path, headers: HeaderMap::new(), body: &|| full(""), also: None }
    }
}

impl Registries {
    /// Opens a repository; nothing is asked yet.
    pub async fn open(&self, repository: Repository, credentials: Credentials, access: Access) -> Session {
        let mut endpoints = self.endpoints(&repository.registry).await;
        // A mirror is read from; what is pushed goes to the registry itself.
        if access == Access::Push {
            endpoints.retain(|e| !e.mirror);
        }
        self.session(repository, credentials, access, endpoints)
    }

    /// Opens a repository for reading at this address (`http://host:port`) and no other, whatever its registry is
    /// called; with TLS, certificates are verified.
    pub fn open_at(&self, base: &str, repository: Repository, credentials: Credentials) -> Session {
        let base = base.trim_end_matches('/').to_owned();
        let endpoints = vec![Endpoint { base, lax: false, mirror: false }];
        self.session(repository, credentials, Access::Pull, endpoints)
    }

    fn session(
        &self,
        repository: Repository,
        credentials: Credentials,
        access: Access,
        endpoints: Vec<Endpoint>,
    ) -> Session {
        Session(Arc::new(Inner {
            registries: self.clone(),
            repository,
            credentials,
            access,
            endpoints,
            chosen: AtomicUsize::new(0),
            authorizations: Mutex::default(),
        }))
    }
}

impl Session {
    /// The repository.
    pub fn repository(&self) -> &Repository {
        &self.0.repository
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        self.endpoint_at(self.0.chosen.load(Ordering::Relaxed))
    }

    pub(crate) fn endpoint_at(&self, index: usize) -> &Endpoint {
        &self.0.endpoints[index.min(self.0.endpoints.len() - 1)]
    }

    /// Leaves a mirror that does not send what it was asked for, or not all of it, for the endpoint after it; false = it is
    /// none, and what comes from the registry itself is not to be had elsewhere.
    pub(crate) fn leave(&self, index: usize, why: &Error) -> bool {
        let endpoint = self.endpoint_at(index);
        let leaves = endpoint.mirror && index + 1 < self.0.endpoints.len();
        if leaves {
            self.0.chosen.fetch_max(index + 1, Ordering::Relaxed);
            tracing::warn!(mirror = endpoint.base, error = %why, "the mirror is left for the next endpoint");
        }
        leaves
    }

    /// How often a blob is tried that gets nowhere, where that was said.
    pub(crate) fn attempts(&self) -> Option<u32> {
        Some(self.0.registries.options().attempts).filter(|n| *n > 0)
    }

    fn scope(&self, also: Option<&str>) -> String {
        let actions = if self.0.access == Access::Push { "pull,push" } else { "pull" };
        let mut scope = format!("repository:{}:{actions}", self.0.repository.path);
        if let Some(other) = also {
            scope.push_str(&format!(" repository:{other}:pull"));
        }
        scope
    }

    /// Asks the endpoint that answered last, then, where it does not answer, those after it.
    pub(crate) async fn ask(&self, call: &Call<'_>) -> Result<Response<Incoming>, Error> {
        self.ask_any(call).await.map(|(_, response)| response)
    }

    /// The same; also which endpoint answered.
    pub(crate) async fn ask_any(&self, call: &Call<'_>) -> Result<(usize, Response<Incoming>), Error> {
        let first = self.0.chosen.load(Ordering::Relaxed);
        let mut index = first;
        loop {
            let endpoint = &self.0.endpoints[index];
            let url = format!("{}/v2/{}{}", endpoint.base, self.0.repository.path, call.path);
            match self.ask_at(endpoint, &url, call).await {
                Ok(response) => {
                    self.0.chosen.fetch_max(index, Ordering::Relaxed);
                    return Ok((index, response));
                }
                Err(e) => {
                    let goes_on = endpoint.mirror || matches!(e, Error::Transport { .. });
                    if !goes_on || index + 1 >= self.0.endpoints.len() {
                        return Err(e);
                    }
                    tracing::debug!(endpoint = endpoint.base, error = %e, "asking the next endpoint");
                    index += 1;
                }
            }
        }
    }

    /// One request at a whole URL, which may be one that the registry named; a challenge is answered once, and
    /// credentials go to the endpoint only.
    pub(crate) async fn ask_at(
        &self,
        endpoint: &Endpoint,
        url: &str,
        call: &Call<'_>,
    ) -> Result<Response<Incoming>, Error> {
        let own = http::sent_on(endpoint.lax, &call.method, &endpoint.base, url)?;
        let scope = self.scope(call.also);
        let key = (endpoint.base.clone(), scope.clone());
        let http = self.0.registries.http();
        let mut known = self.0.authorizations.lock().await.get(&key).cloned();
        for attempt in 0..2 {
            let mut headers = call.headers.clone();
            if let Some(value) = known.as_ref().filter(|_| own) {
                headers.insert(AUTHORIZATION, value.clone());
            }
            let reads = call.method == Method::GET || call.method == Method::HEAD;
            let response = if reads {
                http.follow(endpoint.lax, &call.method, url, &headers).await?
            } else {
                http.send(endpoint.lax, &call.method, url, &headers, (call.body)()).await?
            };
            let asked = challenges(&response);
            let answered = own && attempt == 0 && !asked.is_empty();
            if response.status() != StatusCode::UNAUTHORIZED || !answered {
                let status = response.status();
                // A redirect of a write is the caller's to follow: it knows what to send again.
                if status.is_success() || status.is_redirection() {
                    return Ok(response);
                }
                return Err(refusal(&call.method, url, response).await);
            }
            let nobody = Credentials::default();
            let credentials = if endpoint.mirror { &nobody } else { &self.0.credentials };
            let fresh =
                authorize(http, endpoint.lax, &asked, credentials, &scope, (&call.method, url)).await?;
            if known.as_ref() == Some(&fresh) {
                return Err(refusal(&call.method, url, response).await);
            }
            self.0.authorizations.lock().await.insert(key.clone(), fresh.clone());
            known = Some(fresh);
        }
        Err(Error::Invalid(format!("{} asks for credentials again and again", http::bare(url))))
    }

    /// The digest that a tag stands for, where the registry tells it without the manifest (which does not count
    /// against a limit of pulls).
    pub async fn digest_of_tag(&self, tag: &str) -> Result<Option<String>, Error> {
        let path = format!("/manifests/{tag}");
        let mut call = Call::new(Method::HEAD, &path);
        call.headers.insert(ACCEPT, HeaderValue::from_static(ACCEPTED));
        match self.ask(&call).await {
            Ok(response) => Ok(header(&response, "docker-content-digest").filter(|d| is_digest(d))),
            // The answer to a HEAD has no body that says what is wrong.
            Err(Error::Unexpected { .. } | Error::Refused { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// A manifest or an index by tag or digest, verified against the digest. A mirror's that is not what it should be is asked
    /// for elsewhere.
    pub async fn manifest(&self, reference: &str) -> Result<Fetched, Error> {
        let path = format!("/manifests/{reference}");
        let mut call = Call::new(Method::GET, &path);
        call.headers.insert(ACCEPT, HeaderValue::from_static(ACCEPTED));
        loop {
            let (index, response) = self.ask_any(&call).await?;
            match read_manifest(&call, reference, response).await {
                Err(e) if self.leave(index, &e) => {}
                outcome => return outcome,
            }
        }
    }

    /// Every tag of the repository.
    pub async fn tags(&self) -> Result<Vec<String>, Error> {
        #[derive(Deserialize)]
        struct Page {
            #[serde(default)]
            tags: Option<Vec<String>>,
        }
        let mut path = "/tags/list?n=1000".to_owned();
        let mut all = Vec::new();
        // Enough for a million tags; a registry that links pages in a ring ends here.
        for _ in 0..1000 {
            let call = Call::new(Method::GET, &path);
            let response = self.ask(&call).await?;
            let next = header(&response, LINK.as_str()).and_then(|l| next_page(&l, &self.0.repository.path));
            let body = http::read(&call.method, &path, response, LONGEST_TAGS).await?;
            let page: Page = serde_json::from_slice(&body)
                .map_err(|e| Error::Invalid(format!("the registry's list of tags is not valid: {e}")))?;
            all.extend(page.tags.unwrap_or_default());
            match next {
                Some(next) => path = next,
                None => break,
            }
        }
        Ok(all)
    }
}

async fn read_manifest(
    call: &Call<'_>,
    reference: &str,
    response: Response<Incoming>,
) -> Result<Fetched, Error> {
    let told = header(&response, "docker-content-digest");
    let media_type = header(&response, "content-type").unwrap_or_default();
    let bytes = http::read(&call.method, call.path, response, LONGEST_MANIFEST).await?;
    let digest = digest_of(&bytes);
    let wanted = if is_digest(reference) { Some(reference.to_owned()) } else { told };
    if let Some(wanted) = wanted.filter(|w| is_digest(w) && *w != digest) {
        return Err(Error::Digest { what: "manifest", wanted, got: digest });
    }
    Fetched::read(bytes.to_vec(), &media_type, digest)
}

/// What follows the repository in `<URL>; rel="next"`.
fn next_page(link: &str, repository: &str) -> Option<String> {
    let (url, rest) = link.strip_prefix('<')?.split_once('>')?;
    if !rest.contains("next") {
        return None;
    }
    let (_, path) = url.split_once(&format!("/v2/{repository}"))?;
    Some(path.to_owned())
}

/// A header's text.
pub(crate) fn header<B>(response: &Response<B>, name: &str) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_tags_are_linked() {
        let link = r#"</v2/a/b/tags/list?last=x&n=2>; rel="next""#;
        assert_eq!(next_page(link, "a/b").as_deref(), Some("/tags/list?last=x&n=2"));
        assert_eq!(
            next_page(r#"<https://r/v2/a/b/tags/list?n=2>; rel="next""#, "a/b").as_deref(),
            Some("/tags/list?n=2")
        );
        assert_eq!(next_page(r#"</v2/c/tags/list>; rel="next""#, "a/b"), None);
        assert_eq!(next_page("odd", "a/b"), None);
    }
}
