//! Blobs: read whole or in part, and deleted.

use hyper::header::{self, HeaderMap};
use hyper::{Method, Response, StatusCode};
use skep_registry::is_digest;

use super::range::Wanted;
use super::{Answer, App, Asked, Body, empty, full, is_known, set, text, verified};
use crate::error::Refusal;
use crate::route::Route;

/// Refuses what is no digest this registry knows.
pub(super) fn checked(digest: &str) -> Result<(), Refusal> {
    if is_digest(digest) {
        return Ok(());
    }
    Err(Refusal::digest_invalid(format!(
        "invalid digest {digest:?}: want sha256: and 64 lower-case hex characters; other algorithms are not known"
    )))
}

impl App {
    pub(super) async fn get_blob(&self, asked: Asked) -> Answer {
        let Route::Blob { name, digest } = asked.route else { return Err(Refusal::upload_unknown()) };
        checked(&digest)?;
        let is_head = asked.method == Method::HEAD;
        if let Some(mirror) = &self.mirror {
            let daemon = self.daemon.as_ref();
            return mirror.blob(&self.store, daemon, &name, &digest, is_head, &asked.headers).await;
        }
        let look = || {
            let (name, digest) = (name.clone(), digest.clone());
            self.store.run(move |store| {
                // Who is told that it is there need not send it: it must stay for a while.
                if is_head && store.blob_size(&name, &digest)?.is_none() {
                    return Ok::<_, Refusal>(None);
                }
                Ok(store.open_blob(&name, &digest)?)
            })
        };
        let mut found = look().await?;
        if found.is_none() && is_head && self.taken_over(&name, &digest, &asked.headers).await? {
            found = look().await?;
        }
        let found = found.ok_or_else(|| Refusal::blob_unknown(&digest))?;
        answer(&digest, found.1, is_head, &asked.headers, |first, count| {
            verified::part(&self.store, &digest, found, first, count)
        })
    }

    pub(super) async fn delete_blob(&self, asked: Asked) -> Answer {
        let Route::Blob { name, digest } = asked.route else { return Err(Refusal::upload_unknown()) };
        checked(&digest)?;
        let (at, wanted) = (name.clone(), digest.clone());
        if !self.store.run(move |store| store.delete_blob(&at, &wanted)).await? {
            return Err(Refusal::blob_unknown(&digest));
        }
        tracing::info!(repository = name, digest, "blob deleted");
        Ok(empty(StatusCode::ACCEPTED))
    }
}

/// The answer with a blob of this size, or with what of it is asked for.
pub(crate) fn answer(
    digest: &str,
    size: u64,
    is_head: bool,
    headers: &HeaderMap,
    make: impl FnOnce(u64, u64) -> Result<Body, Refusal>,
) -> Answer {
    let tag = format!("\"{digest}\"");
    let mut response = if is_known(headers, digest) {
        empty(StatusCode::NOT_MODIFIED)
    } else {
        let if_range = text(headers, header::IF_RANGE.as_str());
        let range =
            text(headers, header::RANGE.as_str()).filter(|_| !is_head && if_range.is_none_or(|t| t == tag));
        let (status, first, count) = match Wanted::read(range, size) {
            Wanted::Beyond => {
                return Err(Refusal::new(
                    StatusCode::RANGE_NOT_SATISFIABLE,
                    "RANGE_INVALID",
                    format!("the blob has {size} bytes"),
                )
                .header("content-range", format!("bytes */{size}")));
            }
            Wanted::All => (StatusCode::OK, 0, size),
            Wanted::Part(first, last) => (StatusCode::PARTIAL_CONTENT, first, last - first + 1),
        };
        let content = if is_head || count == 0 { full("") } else { make(first, count)? };
        let mut response = Response::new(content);
        *response.status_mut() = status;
        set(&mut response, "content-length", &count.to_string());
        set(&mut response, "content-type", "application/octet-stream");
        if status == StatusCode::PARTIAL_CONTENT {
            let range = format!("bytes {first}-{}/{size}", first + count - 1);
            set(&mut response, "content-range", &range);
        }
        response
    };
    set(&mut response, "accept-ranges", "bytes");
    set(&mut response, "docker-content-digest", digest);
    set(&mut response, "etag", &tag);
    set(&mut response, "cache-control", "max-age=31536000");
    Ok(response)
}
