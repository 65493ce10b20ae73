//! A file by its URL, from a server that need be no registry.

use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
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
    body: Incoming,
}

impl Registries {
    /// Begins to fetch what an `http://` or `https://` URL names; redirects are followed.
    ///
    /// # Errors
    /// The server is not reached, or answers with a status of 400 and above.
    pub async fn fetch(&self, url: &str) -> Result<Fetching, Error> {
        if !["http://", "https://"].iter().any(|scheme| url.starts_with(scheme)) {
            return Err(Error::Invalid(format!(
                "unsupported protocol scheme in {url:?}: want http:// or https://"
            )));
        }
        let response = self.http().follow(false, &Method::GET, url, &HeaderMap::new()).await?;
        let status = response.status();
        if status.as_u16() < 400 {
            return Ok(Fetching { url: url.to_owned(), body: response.into_body() });
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
