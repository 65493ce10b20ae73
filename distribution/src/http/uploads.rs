//! Uploads (OCI distribution, "Pushing blobs"): in one piece or in many, gone on with after either side's crash.

use std::sync::Arc;

use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap};
use hyper::{Response, StatusCode};
use serde_json::json;
use skep_registry::is_digest;

use super::blobs::checked;
use super::body::{Took, add};
use super::{Answer, App, Asked, Body, empty, range, set, text};
use crate::auth::Need;
use crate::error::Refusal;
use crate::name::is_name;
use crate::route::{Route, parameter};
use crate::store::{Upload, Writing};

impl App {
    pub(super) async fn begin_upload(&self, asked: Asked) -> Answer {
        let Route::Uploads { name } = asked.route else { return Err(Refusal::upload_unknown()) };
        let query = |key: &str| parameter(asked.query.as_deref(), key);
        let from = query("from");
        // Without `from` it is asked for wherever it may be: that is of use only where there is such a place.
        if let Some(digest) = query("mount").filter(|_| from.is_some() || self.daemon.is_some()) {
            checked(&digest)?;
            let mounted = match &from {
                Some(from) => self.mounted(&name, from, &digest, &asked.headers).await?,
                None => false,
            };
            if mounted || self.taken_over(&name, &digest, &asked.headers).await? {
                return Ok(created(&name, &digest));
            }
        }
        let digest = query("digest");
        if let Some(digest) = &digest {
            checked(digest)?;
        }
        if let Some(algorithm) = query("digest-algorithm").filter(|a| a != "sha256") {
            return Err(Refusal::digest_invalid(format!("digest algorithm {algorithm:?} is not known")));
        }
        let repository = name.clone();
        let upload = self.store.run(move |store| store.begin_upload(&repository)).await?;
        let Some(digest) = digest else { return Ok(goes_on(&name, &upload.id, 0)) };
        // In one request: what does not come whole is of no use to anybody.
        let writing = upload.claim().await?.ok_or_else(Refusal::upload_unknown)?;
        self.complete(writing, asked.body, &name, &digest, true).await
    }

    /// Takes a blob over from another repository, if it is there and the client may read it. If not, it is to be sent.
    async fn mounted(
        &self,
        name: &str,
        from: &str,
        digest: &str,
        headers: &HeaderMap,
    ) -> Result<bool, Refusal> {
        if !is_name(from) {
            return Ok(false);
        }
        let need = Need::Repository { name: from.to_owned(), actions: &["pull"] };
        if self.auth.check(headers, &need).await.is_err() {
            return Ok(false);
        }
        let (name, from, digest) = (name.to_owned(), from.to_owned(), digest.to_owned());
        Ok(self.store.run(move |store| store.mount(&name, &from, &digest)).await?)
    }

    async fn upload(&self, name: &str, id: &str) -> Result<Arc<Upload>, Refusal> {
        let (name, id) = (name.to_owned(), id.to_owned());
        self.store.run(move |store| store.upload(&name, &id)).await?.ok_or_else(Refusal::upload_unknown)
    }

    pub(super) async fn upload_status(&self, asked: Asked) -> Answer {
        let Route::Upload { name, id } = asked.route else { return Err(Refusal::upload_unknown()) };
        let upload = self.upload(&name, &id).await?;
        let size = self.store.run(move |_| upload.size_on_disk()).await?;
        let size = size.ok_or_else(Refusal::upload_unknown)?;
        let mut response = goes_on(&name, &id, size);
        *response.status_mut() = StatusCode::NO_CONTENT;
        Ok(response)
    }

    pub(super) async fn add_to_upload(&self, asked: Asked) -> Answer {
        let Route::Upload { name, id } = &asked.route else { return Err(Refusal::upload_unknown()) };
        let upload = self.upload(name, id).await?;
        let writing = upload.claim().await?.ok_or_else(Refusal::upload_unknown)?;
        follows(&writing, name, &asked.headers)?;
        let (writing, took) = add(writing, asked.body).await?;
        match took {
            Took::All => Ok(goes_on(name, id, writing.size())),
            other => Err(self.broken(writing, other, false).await),
        }
    }

    pub(super) async fn finish_upload(&self, asked: Asked) -> Answer {
        let Route::Upload { name, id } = &asked.route else { return Err(Refusal::upload_unknown()) };
        let Some(digest) = parameter(asked.query.as_deref(), "digest") else {
            return Err(Refusal::digest_invalid("the upload's digest is missing: want ?digest=sha256:..."));
        };
        checked(&digest)?;
        let upload = self.upload(name, id).await?;
        let writing = upload.claim().await?.ok_or_else(Refusal::upload_unknown)?;
        follows(&writing, name, &asked.headers)?;
        self.complete(writing, asked.body, name, &digest, false).await
    }

    /// Takes the last piece and makes a blob of all. With `at_once`, an upload that breaks off is not kept.
    async fn complete(
        &self,
        writing: Writing,
        body: hyper::body::Incoming,
        name: &str,
        digest: &str,
        at_once: bool,
    ) -> Answer {
        let (writing, took) = add(writing, body).await?;
        if !matches!(took, Took::All) {
            return Err(self.broken(writing, took, at_once).await);
        }
        let size = writing.size();
        let wanted = digest.to_owned();
        match self.store.run(move |store| store.finish_upload(writing, &wanted)).await? {
            Ok(()) => {
                tracing::info!(repository = name, digest, size, "blob pushed");
                Ok(created(name, digest))
            }
            Err(got) => Err(Refusal::digest_invalid(
                "provided digest did not match uploaded content: the upload is over, begin anew",
            )
            .detail(json!({ "digest": digest, "uploaded": got, "size": size }))),
        }
    }

    /// An upload that did not come to its end is kept for the client to go on with, unless the disk does not take it.
    async fn broken(&self, writing: Writing, took: Took, at_once: bool) -> Refusal {
        let (id, size) = (writing.id().to_owned(), writing.size());
        let is_full = matches!(&took, Took::Failed(e) if e.is_full());
        if at_once || is_full {
            let dropped = self.store.run(move |store| store.drop_upload(writing)).await;
            if let Err(e) = dropped {
                tracing::error!(upload = id, error = %e, "a broken upload is left to be swept");
            }
        }
        match took {
            Took::Failed(e) => e.into(),
            Took::Cut(why) => {
                tracing::info!(upload = id, size, why, "an upload broke off");
                Refusal::upload_invalid(format!("the upload broke off after {size} bytes: {why}"))
            }
            Took::All => Refusal::upload_invalid("the upload did not come to its end"),
        }
    }

    pub(super) async fn drop_upload(&self, asked: Asked) -> Answer {
        let Route::Upload { name, id } = asked.route else { return Err(Refusal::upload_unknown()) };
        let upload = self.upload(&name, &id).await?;
        let writing = upload.claim().await?.ok_or_else(Refusal::upload_unknown)?;
        self.store.run(move |store| store.drop_upload(writing)).await?;
        Ok(empty(StatusCode::NO_CONTENT))
    }
}

/// Refuses a piece that says it belongs elsewhere than where the upload is.
fn follows(writing: &Writing, name: &str, headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(told) = text(headers, CONTENT_RANGE.as_str()) else { return Ok(()) };
    let at = writing.size();
    let Some((start, end)) = range::piece(told).filter(|(start, _)| *start == at) else {
        return Err(Refusal::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            "RANGE_INVALID",
            format!("invalid content range {told:?}: {at} bytes have come, the next piece begins there"),
        )
        .header("range", so_far(at))
        .header("location", location(name, writing.id())));
    };
    let length = text(headers, CONTENT_LENGTH.as_str()).and_then(|l| l.parse::<u64>().ok());
    if length.is_some_and(|l| l != (end - start).saturating_add(1)) {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "SIZE_INVALID",
            format!("Content-Range {told:?} and Content-Length do not say the same"),
        ));
    }
    Ok(())
}

fn location(name: &str, id: &str) -> String {
    format!("/v2/{name}/blobs/uploads/{id}")
}

/// What has come, as `Range` says it: an empty upload says `0-0`, as Docker's registry does.
fn so_far(size: u64) -> String {
    format!("0-{}", size.saturating_sub(1))
}

fn goes_on(name: &str, id: &str, size: u64) -> Response<Body> {
    let mut response = empty(StatusCode::ACCEPTED);
    set(&mut response, "location", &location(name, id));
    set(&mut response, "range", &so_far(size));
    set(&mut response, "docker-upload-uuid", id);
    response
}

fn created(name: &str, digest: &str) -> Response<Body> {
    debug_assert!(is_digest(digest));
    let mut response = empty(StatusCode::CREATED);
    set(&mut response, "location", &format!("/v2/{name}/blobs/{digest}"));
    set(&mut response, "docker-content-digest", digest);
    response
}
