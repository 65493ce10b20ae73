//! Requests over HTTP/1.1 with kept connections, redirects followed as a client of registries must:
//! credentials go to the host they are meant for and to no other.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::header::{AUTHORIZATION, HOST, LOCATION, PROXY_AUTHORIZATION, USER_AGENT};
use hyper::{HeaderMap, Method, Request, Response, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::watch;

use crate::Error;
use crate::connect::Connector;
use crate::endpoints::Options;
use crate::proxy::Proxies;

/// Body of a request.
pub type Body = BoxBody<Bytes, std::io::Error>;

/// Longest wait for the head of an answer, and for a body that is sent to get on.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest wait for the answer once a body is sent: a registry that takes in a big blob needs its time.
const PATIENCE_AFTER_BODY: Duration = Duration::from_secs(900);
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
    proxies: Arc<Proxies>,
}

impl Http {
    pub(crate) fn new(options: &Options) -> Self {
        let certificates = Arc::new(options.certificates.clone());
        let proxies = Arc::new(options.proxies.or_environment());
        let client = |lax| {
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(Duration::from_secs(30))
                .build(Connector { lax, certificates: certificates.clone(), proxies: proxies.clone() })
        };
        let user_agent =
            if options.user_agent.is_empty() { "skep".into() } else { options.user_agent.clone() };
        Self { strict: client(false), lax: client(true), user_agent, proxies }
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
        let to_proxy = request.uri_ref().and_then(|uri| self.proxies.authorization(uri));
        if let Some(all) = request.headers_mut() {
            all.extend(headers.clone());
            all.extend(to_proxy.map(|value| (PROXY_AUTHORIZATION, value)));
            if let Ok(agent) = self.user_agent.parse() {
                all.insert(USER_AGENT, agent);
            }
        }
        let empty = hyper::body::Body::size_hint(&body).exact() == Some(0);
        let (progress, moved) = watch::channel(());
        let body = Watched { body, progress }.boxed();
        let request = request.body(body).map_err(|e| failed(e.to_string()))?;
        let client = if lax { &self.lax } else { &self.strict };
        tokio::select! {
            response = client.request(request) => response.map_err(|e| failed(root_cause(&e))),
            () = silence(moved, if empty { PATIENCE } else { PATIENCE_AFTER_BODY }) => {
                Err(failed("net/http: timeout awaiting response headers".into()))
            }
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
            if !sent_on(lax, method, &at, &next)? {
                headers.remove(AUTHORIZATION);
                headers.remove(HOST);
            }
            at = next;
        }
        Err(transport(method, url, format!("stopped after {MOST_REDIRECTS} redirects")))
    }
}

/// A body that tells how it gets on. (`map_frame` would forget its length.)
struct Watched {
    body: Body,
    progress: watch::Sender<()>,
}

impl hyper::body::Body for Watched {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if polled.is_ready() {
            self.progress.send_replace(());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Ends when a body that is being sent stands still, or so long after it was sent.
async fn silence(mut moved: watch::Receiver<()>, after: Duration) {
    while let Ok(still_sent) = tokio::time::timeout(PATIENCE, moved.changed()).await {
        if still_sent.is_err() {
            return tokio::time::sleep(after).await;
        }
    }
}

/// Whether the address that an answer sends its client on to is the same server's, so that credentials may go there.
///
/// # Errors
/// It leads away from TLS.
pub(crate) fn sent_on(lax: bool, method: &Method, from: &str, to: &str) -> Result<bool, Error> {
    if from.starts_with("https://") && !to.starts_with("https://") && !lax {
        return Err(transport(method, from, format!("it sends on from TLS to {}", bare(to))));
    }
    Ok(server(from).is_some_and(|own| server(to) == Some(own)))
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

/// Host and port.
fn server(url: &str) -> Option<(String, u16)> {
    let uri: Uri = url.parse().ok()?;
    let usual = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    Some((uri.host()?.to_ascii_lowercase(), uri.port_u16().unwrap_or(usual)))
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

    #[test]
    fn credentials_follow_only_to_the_same_server() {
        for (from, to, same) in [
            ("https://r.example/v2/", "https://R.example:443/up", Some(true)),
            ("https://r.example/v2/", "https://r.example:8443/up", Some(false)),
            ("https://r.example/v2/", "https://r.example.evil/up", Some(false)),
            ("https://r.example/v2/", "https://r.example@evil/up", Some(false)),
            ("http://r.example/v2/", "https://r.example/up", Some(false)),
            ("https://r.example/v2/", "http://r.example:443/up", None),
        ] {
            assert_eq!(sent_on(false, &Method::PATCH, from, to).ok(), same, "{from} -> {to}");
        }
    }
}
