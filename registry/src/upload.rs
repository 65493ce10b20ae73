//! Blobs and manifests on their way to a registry (OCI distribution, "Push").

use bytes::Bytes;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, LOCATION};
use hyper::{HeaderMap, Method, Response, StatusCode};

use crate::Error;
use crate::http::{self, Body, encode, full, join};
use crate::session::{Call, Session, header};

/// Where a blob is to be sent.
#[derive(Debug)]
pub struct Upload(String);

/// What came of asking for a blob to be taken over from another repository.
#[derive(Debug)]
pub enum Mounted {
    /// It is there now.
    Done,
    /// It is to be sent.
    Send(Upload),
}

impl Session {
    /// Whether the repository has a blob.
    pub async fn has_blob(&self, digest: &str) -> Result<bool, Error> {
        let path = format!("/blobs/{digest}");
        match self.ask(&Call::new(Method::HEAD, &path)).await {
            Ok(_) => Ok(true),
            Err(e) if e.is_absent() => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Begins to send a blob; from another repository of the registry, it may be taken over instead.
    pub async fn begin_upload(&self, mount: Option<(&str, &str)>) -> Result<Mounted, Error> {
        let path = match mount {
            Some((digest, from)) => format!("/blobs/uploads/?mount={}&from={}", encode(digest), encode(from)),
            None => "/blobs/uploads/".to_owned(),
        };
        let mut call = Call::new(Method::POST, &path);
        call.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        call.also = mount.map(|(_, from)| from);
        let response = self.ask(&call).await?;
        if response.status() == StatusCode::CREATED {
            return Ok(Mounted::Done);
        }
        let base = format!("{}/v2/{}{path}", self.endpoint().base, self.repository().path);
        Ok(Mounted::Send(Upload(location(&base, &response)?)))
    }

    /// Sends all of a blob in one piece, and has the registry verify its digest.
    pub async fn upload(
        &self,
        upload: Upload,
        digest: &str,
        size: u64,
        body: &(dyn Fn() -> Body + Sync),
    ) -> Result<(), Error> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(size));
        let patch = Call { method: Method::PATCH, path: "", headers, body, also: None };
        let response = self.ask_at(self.endpoint(), &upload.0, &patch).await?;
        let next = location(&upload.0, &response)?;
        let separator = if next.contains('?') { '&' } else { '?' };
        let url = format!("{next}{separator}digest={}", encode(digest));
        let mut put = Call::new(Method::PUT, "");
        put.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        self.ask_at(self.endpoint(), &url, &put).await.map(drop)
    }

    /// Gives a manifest a tag, or puts it there under its digest.
    pub async fn put_manifest(
        &self,
        reference: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<String, Error> {
        let path = format!("/manifests/{reference}");
        let body = Bytes::copy_from_slice(bytes);
        let make = move || full(body.clone());
        let mut call = Call { body: &make, ..Call::new(Method::PUT, &path) };
        let kind = HeaderValue::from_str(media_type)
            .map_err(|_| Error::Invalid(format!("media type {media_type:?} cannot be sent")))?;
        call.headers.insert(CONTENT_TYPE, kind);
        let response = self.ask(&call).await?;
        Ok(header(&response, "docker-content-digest").unwrap_or_else(|| crate::digest_of(bytes)))
    }
}

fn location<B>(base: &str, response: &Response<B>) -> Result<String, Error> {
    let told = header(response, LOCATION.as_str());
    told.and_then(|l| join(base, &l)).ok_or_else(|| {
        Error::Invalid(format!("the registry does not say where to upload to ({})", http::bare(base)))
    })
}
