//! A file by its URL, from a server that need be no registry.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::Stream;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::header::{AUTHORIZATION, HeaderValue, LAST_MODIFIED};
use hyper::{HeaderMap, Method};

use crate::Error;
use crate::endpoints::Registries;
use crate::http::{read, root_cause, transport};

/// Longest wait for the next bytes.
const PATIENCE: Duration = Duration::from_secs(60);
/// Most that is shown of an answer that is an error.
const SHOWN: usize = 4 << 10;

/// A file on its way here.
#[derive(Debug)]
pub struct Fetching {
    url: String,
    last_modified: Option<SystemTime>,
    body: Incoming,
}

impl Registries {
    /// Begins to fetch what an `http://` or `https://` URL names; redirects are followed, and to another server without
    /// `authorization` (RFC 9110, 11.6.2).
    ///
    /// # Errors
    /// The server is not reached, or answers with a status of 400 and above.
    pub async fn fetch(&self, url: &str, authorization: Option<&str>) -> Result<Fetching, Error> {
        if !["http://", "https://"].iter().any(|scheme| url.starts_with(scheme)) {
            return Err(Error::Invalid(format!(
                "unsupported protocol scheme in {url:?}: want http:// or https://"
            )));
        }
        let mut headers = HeaderMap::new();
        if let Some(value) = authorization {
            let value = HeaderValue::from_str(value);
            let mut value = value.map_err(|_| Error::Invalid(format!("no authorization for {url}")))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let response = self.http().follow(false, &Method::GET, url, &headers).await?;
        let status = response.status();
        if status.as_u16() < 400 {
            let told = response.headers().get(LAST_MODIFIED).and_then(|value| value.to_str().ok());
            let last_modified = told.and_then(|date| httpdate::parse_http_date(date).ok());
            return Ok(Fetching { url: url.to_owned(), last_modified, body: response.into_body() });
        }
        let said = read(&Method::GET, url, response, SHOWN).await.unwrap_or_default();
        Err(Error::Fetch {
            url: url.to_owned(),
            status,
            body: String::from_utf8_lossy(&said).trim().to_owned(),
        })
    }
}

impl Fetching {
    /// When the file was last changed, where the server says so in a way that can be understood (RFC 9110, 8.8.2 and 5.6.7).
    pub fn last_modified(&self) -> Option<SystemTime> {
        self.last_modified
    }

    /// Bytes in all, where the server says so.
    pub fn size(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    /// The bytes. A server that goes silent is an error, not the end.
    pub fn into_stream(self) -> impl Stream<Item = std::io::Result<Bytes>> + Send {
        futures::stream::try_unfold(self, |mut f| async move {
            loop {
                let failed = |reason: String| std::io::Error::other(transport(&Method::GET, &f.url, reason));
                let next = tokio::time::timeout(PATIENCE, f.body.frame()).await;
                match next {
                    Err(_) => return Err(failed("no more bytes came".into())),
                    Ok(None) => return Ok(None),
                    Ok(Some(Err(e))) => return Err(failed(root_cause(&e))),
                    Ok(Some(Ok(frame))) => {
                        if let Ok(bytes) = frame.into_data() {
                            return Ok(Some((bytes, f)));
                        }
                    }
                }
            }
        })
    }
}
