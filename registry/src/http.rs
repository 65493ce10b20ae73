//! Requests over HTTP/1.1 with kept connections, redirects followed as a client of registries must:
//! credentials go to the host they are meant for and to no other.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HOST, LOCATION, USER_AGENT};
use hyper::{HeaderMap, Method, Request, Response, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::Error;
use crate::connect::Connector;
use crate::endpoints::Options;

/// Body of a request.
pub type Body = BoxBody<Bytes, std::io::Error>;

/// Longest wait for the head of an answer; a registry that takes in a big blob needs its time.
const PATIENCE: Duration = Duration::from_secs(60);
const PATIENCE_WITH_BODY: Duration = Duration::from_secs(900);
const MOST_REDIRECTS: usize = 10;

/// A body at hand.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// Kept connections, apart by whether certificates are verified.
#[derive(Clone, Debug)]
pub(crate) struct Http {
    strict: Client<Connector, Body>,
    lax: Client<Connector, Body>,
    user_agent: String,
}

impl Http {
    pub(crate) fn new(options: &Options) -> Self {
        let certificates = Arc::new(options.certificates.clone());
        let client = |lax| {
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(Duration::from_secs(30))
                .build(Connector { lax, certificates: certificates.clone() })
        };
        let user_agent =
            if options.user_agent.is_empty() { "skep".into() } else { options.user_agent.clone() };
        Self { strict: client(false), lax: client(true), user_agent }
    }

    /// One request and its answer's head, whatever its status.
    pub(crate) async fn send(
        &self,
        lax: bool,
        method: &Method,
        url: &str,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Response<Incoming>, Error> {
        let failed = |reason: String| transport(method, url, reason);
        let mut request = Request::builder().method(method.clone()).uri(url);
        if let Some(all) = request.headers_mut() {
            all.extend(headers.clone());
            if let Ok(agent) = self.user_agent.parse() {
                all.insert(USER_AGENT, agent);
            }
        }
        let patience = if body.size_hint_is_empty() { PATIENCE } else { PATIENCE_WITH_BODY };
        let request = request.body(body).map_err(|e| failed(e.to_string()))?;
        let client = if lax { &self.lax } else { &self.strict };
        match tokio::time::timeout(patience, client.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(e)) => Err(failed(root_cause(&e))),
            Err(_) => Err(failed("net/http: timeout awaiting response headers".into())),
        }
    }

    /// The same without a body, and redirects followed.
    pub(crate) async fn follow(
        &self,
        lax: bool,
        method: &Method,
        url: &str,
        headers: &HeaderMap,
    ) -> Result<Response<Incoming>, Error> {
        let (mut at, mut headers) = (url.to_owned(), headers.clone());
        for _ in 0..MOST_REDIRECTS {
            let response = self.send(lax, method, &at, &headers, full("")).await?;
            if !response.status().is_redirection() || response.status().as_u16() == 304 {
                return Ok(response);
            }
            let next = response.headers().get(LOCATION).and_then(|l| l.to_str().ok());
            let next = next
                .and_then(|l| join(&at, l))
                .ok_or_else(|| transport(method, &at, "it redirects to nowhere".into()))?;
            if at.starts_with("https://") && !next.starts_with("https://") && !lax {
                return Err(transport(method, &at, format!("it redirects from TLS to {next}")));
            }
            if authority(&at) != authority(&next) {
                headers.remove(AUTHORIZATION);
                headers.remove(HOST);
            }
            at = next;
        }
        Err(transport(method, url, format!("stopped after {MOST_REDIRECTS} redirects")))
    }
}

trait Hint {
    fn size_hint_is_empty(&self) -> bool;
}

impl Hint for Body {
    fn size_hint_is_empty(&self) -> bool {
        hyper::body::Body::size_hint(self).exact() == Some(0)
    }
}

/// An error of the connection, with the method as Go writes it.
pub(crate) fn transport(method: &Method, url: &str, reason: String) -> Error {
    Error::Transport { method: named(method), url: bare(url), reason }
}

/// `GET` as `Get`.
pub(crate) fn named(method: &Method) -> String {
    let (first, rest) = method.as_str().split_at(1);
    format!("{first}{}", rest.to_ascii_lowercase())
}

/// Without the query: upload sessions and signed addresses hold secrets there.
pub(crate) fn bare(url: &str) -> String {
    url.split('?').next().unwrap_or(url).to_owned()
}

/// What lies at the bottom of an error's chain.
pub(crate) fn root_cause(e: &dyn std::error::Error) -> String {
    let mut at = e;
    while let Some(below) = at.source() {
        at = below;
    }
    at.to_string()
}

fn authority(url: &str) -> Option<String> {
    url.parse::<Uri>().ok()?.authority().map(|a| a.as_str().to_owned())
}

/// A `Location`, which may be relative, against the address it came from (RFC 3986, section 5).
pub(crate) fn join(base: &str, location: &str) -> Option<String> {
    if location.starts_with("http://") || location.starts_with("https://") {
        return Some(location.to_owned());
    }
    let base: Uri = base.parse().ok()?;
    let scheme = base.scheme_str()?;
    if let Some(rest) = location.strip_prefix("//") {
        return Some(format!("{scheme}://{rest}"));
    }
    let authority = base.authority()?;
    if location.starts_with('/') {
        return Some(format!("{scheme}://{authority}{location}"));
    }
    let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
    Some(format!("{scheme}://{authority}{folder}/{location}"))
}

/// A whole body of at most so many bytes.
pub(crate) async fn read(
    method: &Method,
    url: &str,
    response: Response<Incoming>,
    most: usize,
) -> Result<Bytes, Error> {
    let body = Limited::new(response.into_body(), most).collect();
    match tokio::time::timeout(PATIENCE, body).await {
        Ok(Ok(all)) => Ok(all.to_bytes()),
        Ok(Err(e)) if e.is::<http_body_util::LengthLimitError>() => {
            Err(Error::Invalid(format!("the answer to {} is longer than {most} bytes", bare(url))))
        }
        Ok(Err(e)) => Err(transport(method, url, root_cause(e.as_ref()))),
        Err(_) => Err(transport(method, url, "the answer did not come to its end".into())),
    }
}

/// Percent-encodes a query's value.
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
            out.push(b as char);
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_joined() {
        let at = "https://r.example:5000/v2/x/blobs/uploads/?a=b";
        for (location, whole) in [
            ("https://cdn.example/y?z", "https://cdn.example/y?z"),
            ("//cdn.example/y", "https://cdn.example/y"),
            ("/v2/y", "https://r.example:5000/v2/y"),
            ("y?s=1", "https://r.example:5000/v2/x/blobs/uploads/y?s=1"),
        ] {
            assert_eq!(join(at, location).as_deref(), Some(whole));
        }
        assert_eq!(join("nowhere", "y"), None);
        assert_eq!(encode("a b/c:d"), "a%20b%2Fc%3Ad");
        assert_eq!(bare("https://r.example/u?secret"), "https://r.example/u");
    }
}
