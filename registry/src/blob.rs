//! A blob on its way here. A connection that is cut, an answer that is too short and a registry in trouble
//! are met by asking for the rest (RFC 9110, Range).

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderValue, RANGE};
use hyper::{Method, StatusCode};

use crate::Error;
use crate::http::{root_cause, transport};
use crate::session::{Call, Session, header};

/// Longest wait for the next bytes.
const PATIENCE: Duration = Duration::from_secs(60);
/// Failures in a row, without `PROGRESS` bytes between them, after which it is given up unless the options say otherwise.
const ATTEMPTS: u32 = 5;
const PROGRESS: u64 = 64 << 10;
/// First pause; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(500);
/// After so many, all are as long.
const LONGEST: u32 = 6;

/// A blob being read. It is not verified here: whoever takes the bytes hashes them.
#[derive(Debug)]
pub struct Download {
    session: Session,
    digest: String,
    size: u64,
    at: u64,
    /// The endpoint that answered last, and the one that sent the first bytes.
    from: usize,
    began: Option<usize>,
    body: Option<Incoming>,
    /// What came after the place that was asked for, from a registry that knows no ranges.
    left_over: Option<Bytes>,
    failures: u32,
    failed_at: u64,
}

impl Session {
    /// Reads a blob of this many bytes; nothing is asked before the first chunk is.
    pub fn download(&self, digest: &str, size: u64) -> Download {
        Download {
            session: self.clone(),
            digest: digest.to_owned(),
            size,
            at: 0,
            from: 0,
            began: None,
            body: None,
            left_over: None,
            failures: 0,
            failed_at: 0,
        }
    }

    /// How many bytes a blob has, as the registry says; none if it has no such blob.
    pub async fn blob_size(&self, digest: &str) -> Result<Option<u64>, Error> {
        let path = format!("/blobs/{digest}");
        match self.ask(&Call::new(Method::HEAD, &path)).await {
            Ok(response) => {
                let told = header(&response, CONTENT_LENGTH.as_str()).and_then(|l| l.parse().ok());
                told.map(Some).ok_or_else(|| {
                    Error::Invalid(format!("the registry does not say how long blob {digest} is"))
                })
            }
            Err(e) if e.is_absent() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// A small blob, whole and verified.
    pub async fn blob(&self, digest: &str, size: u64) -> Result<Vec<u8>, Error> {
        let mut download = self.download(digest, size);
        let mut all = Vec::with_capacity(usize::try_from(size).unwrap_or(0).min(16 << 20));
        loop {
            while let Some(chunk) = download.chunk(|_| {}).await? {
                all.extend_from_slice(&chunk);
            }
            let got = crate::digest_of(&all);
            if got == digest {
                return Ok(all);
            }
            let wrong = Error::Digest { what: "image", wanted: digest.to_owned(), got };
            if !download.begin_elsewhere(&wrong) {
                return Err(wrong);
            }
            all.clear();
        }
    }
}

impl Download {
    /// The next bytes; none at the end. `retrying` is told of each pause. Whoever stops waiting loses none.
    pub async fn chunk(&mut self, mut retrying: impl FnMut(Duration)) -> Result<Option<Bytes>, Error> {
        loop {
            if self.at == self.size && self.body.is_none() {
                // An empty blob needs no request: there is one, and its digest is known.
                return Ok(None);
            }
            let e = match self.attempt().await {
                Ok(chunk) => return Ok(chunk),
                Err(e) => e,
            };
            (self.body, self.left_over) = (None, None);
            if self.at >= self.failed_at.saturating_add(PROGRESS) {
                self.failures = 0;
            }
            self.failed_at = self.at;
            self.failures += 1;
            if !e.is_passing() || self.failures >= self.session.attempts().unwrap_or(ATTEMPTS) {
                if !self.session.leave(self.from, &e) {
                    return Err(e);
                }
                (self.from, self.failures) = (self.from + 1, 0);
                continue;
            }
            let pause = PAUSE * 2u32.pow((self.failures - 1).min(LONGEST));
            tracing::debug!(digest = self.digest, at = self.at, error = %e, "asking for the rest of a blob");
            retrying(pause);
            tokio::time::sleep(pause).await;
        }
    }

    /// Bytes that have come.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// Begins again at the endpoint after the mirror that sent the first bytes, where what has come is not what the digest
    /// says; false = there is none, and the error stands.
    pub fn begin_elsewhere(&mut self, wrong: &Error) -> bool {
        let leaves = self.began.is_some_and(|began| self.session.leave(began, wrong));
        if leaves {
            *self = self.session.download(&self.digest, self.size);
        }
        leaves
    }

    /// Lets go of the connection; the next chunk asks for the rest.
    pub fn pause(&mut self) {
        (self.body, self.left_over) = (None, None);
    }

    fn url(&self) -> String {
        let repository = &self.session.repository().path;
        format!("{}/v2/{repository}/blobs/{}", self.session.endpoint_at(self.from).base, self.digest)
    }

    async fn attempt(&mut self) -> Result<Option<Bytes>, Error> {
        if self.body.is_none() {
            let (body, left_over) = self.request().await?;
            (self.body, self.left_over) = (Some(body), left_over);
        }
        if let Some(chunk) = self.left_over.take() {
            return self.took(chunk).map(Some);
        }
        let url = self.url();
        let Some(body) = &mut self.body else { return Ok(None) };
        loop {
            let next = tokio::time::timeout(PATIENCE, body.frame()).await;
            let frame = match next {
                Err(_) => return Err(transport(&Method::GET, &url, "no more bytes came".into())),
                Ok(Some(Err(e))) => return Err(transport(&Method::GET, &url, root_cause(&e))),
                Ok(Some(Ok(frame))) => frame,
                Ok(None) if self.at < self.size => {
                    return Err(transport(&Method::GET, &url, "unexpected EOF".into()));
                }
                Ok(None) => {
                    self.body = None;
                    return Ok(None);
                }
            };
            let Ok(chunk) = frame.into_data() else { continue };
            if chunk.is_empty() {
                continue;
            }
            return self.took(chunk).map(Some);
        }
    }

    fn took(&mut self, chunk: Bytes) -> Result<Bytes, Error> {
        if chunk.len() as u64 > self.size - self.at {
            return Err(Error::Invalid(format!(
                "blob {} is longer than the {} bytes its manifest says",
                self.digest, self.size
            )));
        }
        self.at += chunk.len() as u64;
        self.began.get_or_insert(self.from);
        Ok(chunk)
    }

    async fn request(&mut self) -> Result<(Incoming, Option<Bytes>), Error> {
        let path = format!("/blobs/{}", self.digest);
        let mut call = Call::new(Method::GET, &path);
        if self.at > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={}-", self.at))
        {
            call.headers.insert(RANGE, range);
        }
        let (from, response) = self.session.ask_any(&call).await?;
        self.from = from;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let told = header(&response, CONTENT_RANGE.as_str()).unwrap_or_default();
                let start = told.trim_start_matches("bytes ").split('-').next().and_then(|s| s.parse().ok());
                if start != Some(self.at) {
                    return Err(Error::Invalid(format!(
                        "the registry was asked for byte {} on of blob {} and sent {told:?}",
                        self.at, self.digest
                    )));
                }
                Ok((response.into_body(), None))
            }
            // It knows no ranges: what is here already is read once more and thrown away.
            _ => self.skip(response.into_body()).await,
        }
    }

    async fn skip(&self, mut body: Incoming) -> Result<(Incoming, Option<Bytes>), Error> {
        let mut left = self.at;
        while left > 0 {
            let frame = tokio::time::timeout(PATIENCE, body.frame()).await;
            let Ok(Some(Ok(frame))) = frame else {
                return Err(transport(&Method::GET, &self.url(), "unexpected EOF".into()));
            };
            let Ok(mut chunk) = frame.into_data() else { continue };
            if chunk.len() as u64 > left {
                return Ok((body, Some(chunk.split_off(usize::try_from(left).unwrap_or(0)))));
            }
            left -= chunk.len() as u64;
        }
        Ok((body, None))
    }
}
