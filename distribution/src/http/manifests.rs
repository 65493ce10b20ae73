//! Manifests, by tag or by digest.

use hyper::header::{CONTENT_TYPE, HeaderMap};
use hyper::{Method, Response, StatusCode};
use serde_json::json;
use skep_registry::digest_of;

use super::blobs::checked;
use super::{Answer, App, Asked, body, empty, full, is_known, set, text};
use crate::error::Refusal;
use crate::manifest::{self, Manifest};
use crate::route::{Reference, Route};
use crate::store::Stored;

impl App {
    pub(super) async fn get_manifest(&self, asked: Asked) -> Answer {
        let Route::Manifest { name, reference } = asked.route else { return Err(Refusal::upload_unknown()) };
        if let Reference::Digest(digest) = &reference {
            checked(digest)?;
        }
        let is_head = asked.method == Method::HEAD;
        if let Some(mirror) = &self.mirror {
            let (stored, stale) = mirror.manifest(&self.store, &name, &reference).await?;
            let mut response = answer(&stored, is_head, &asked.headers);
            if stale {
                set(&mut response, "warning", "110 - \"Response is Stale\"");
            }
            return Ok(response);
        }
        let (at, wanted) = (name.clone(), reference.clone());
        let found = self.store.run(move |store| store.use_manifest(&at, &wanted));
        let stored = found.await?.ok_or_else(|| Refusal::manifest_unknown(&name, reference.text()))?;
        Ok(answer(&stored, is_head, &asked.headers))
    }

    pub(super) async fn put_manifest(&self, asked: Asked) -> Answer {
        let Route::Manifest { name, reference } = asked.route else { return Err(Refusal::upload_unknown()) };
        let tag = match &reference {
            Reference::Tag(tag) => Some(tag.clone()),
            Reference::Digest(digest) => checked(digest).map(|()| None)?,
            Reference::Odd(odd) => {
                let words = "invalid tag: want at most 128 letters, digits, '_', '.' and '-', not beginning with '.' or '-'";
                let refusal = Refusal::new(StatusCode::BAD_REQUEST, "TAG_INVALID", words);
                return Err(refusal.detail(json!({ "tag": odd })));
            }
        };
        let bytes = body::whole(asked.body, manifest::LONGEST).await?;
        if let Reference::Digest(digest) = &reference {
            let got = digest_of(&bytes);
            if got != *digest {
                return Err(Refusal::digest_invalid("provided digest did not match uploaded content")
                    .detail(json!({ "digest": digest, "uploaded": got })));
            }
        }
        let kind = text(&asked.headers, CONTENT_TYPE.as_str()).unwrap_or_default();
        let read = Manifest::read(&bytes, kind)?;
        let subject = read.subject.clone();
        self.complete_from_daemon(&name, &read).await?;
        let (at, by) = (name.clone(), tag.clone());
        let digest =
            self.store.run(move |store| store.put_manifest(&at, by.as_deref(), &read, &bytes, true)).await?;
        tracing::info!(repository = name, tag, digest, "manifest pushed");
        let mut response = empty(StatusCode::CREATED);
        set(&mut response, "location", &format!("/v2/{name}/manifests/{digest}"));
        set(&mut response, "docker-content-digest", &digest);
        if let Some(subject) = subject {
            set(&mut response, "oci-subject", &subject);
        }
        Ok(response)
    }

    pub(super) async fn delete_manifest(&self, asked: Asked) -> Answer {
        let Route::Manifest { name, reference } = asked.route else { return Err(Refusal::upload_unknown()) };
        let (at, wanted) = (name.clone(), reference.clone());
        let gone = match &reference {
            Reference::Tag(_) => self.store.run(move |store| store.delete_tag(&at, wanted.text())).await?,
            Reference::Digest(digest) => {
                checked(digest)?;
                self.store.run(move |store| store.delete_manifest(&at, wanted.text())).await?
            }
            Reference::Odd(_) => false,
        };
        if !gone {
            return Err(Refusal::manifest_unknown(&name, reference.text()));
        }
        tracing::info!(repository = name, reference = reference.text(), "manifest deleted");
        Ok(empty(StatusCode::ACCEPTED))
    }
}

fn answer(stored: &Stored, is_head: bool, headers: &HeaderMap) -> Response<super::Body> {
    let mut response = if is_known(headers, &stored.digest) {
        empty(StatusCode::NOT_MODIFIED)
    } else {
        let mut response = Response::new(full(if is_head { Vec::new() } else { stored.bytes.clone() }));
        set(&mut response, "content-length", &stored.bytes.len().to_string());
        set(&mut response, "content-type", &stored.media_type);
        response
    };
    set(&mut response, "docker-content-digest", &stored.digest);
    set(&mut response, "etag", &format!("\"{}\"", stored.digest));
    response
}
