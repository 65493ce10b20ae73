//! The connection to a daemon: plain HTTP over its socket, JSON in and out, streams and hijacks.
//!
//! Answers are kept as the JSON the daemon sent, so that `inspect` and `--format` show every field of
//! it, also ones this client has never heard of.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::context::Endpoint;
use super::credentials::Store;
use super::dry_run::{Change, Instead, Plan};
use super::tls;

/// Path all requests are made under.
const VERSION: &str = "/v1.50";

/// Body of a request.
pub type Body = BoxBody<Bytes, std::io::Error>;

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// An answer other than success, in the daemon's own words.
#[derive(Debug, thiserror::Error)]
#[error("Error response from daemon: {message}")]
pub struct Refused {
    /// HTTP status.
    pub status: StatusCode,
    /// The daemon's message.
    pub message: String,
}

/// A daemon's address.
#[derive(Clone)]
pub struct Api {
    host: String,
    config: Option<PathBuf>,
    tls: Option<TlsConnector>,
    instead: Option<Arc<dyn Instead>>,
}

impl Api {
    /// The daemon at an endpoint; `config` is the directory of `--config`.
    pub fn new(endpoint: Endpoint, config: Option<PathBuf>) -> Self {
        Self { host: endpoint.host, config, tls: endpoint.tls, instead: None }
    }

    /// The same daemon, whose swarm nothing is changed of: what would be is kept in the plan.
    pub fn planning(&self) -> (Self, Plan) {
        let plan = Plan::default();
        (self.instead(plan.clone()), plan)
    }

    /// The same daemon, in whose place another answers what would change something.
    pub fn instead(&self, other: impl Instead + 'static) -> Self {
        Self { instead: Some(Arc::new(other)), ..self.clone() }
    }

    /// The credentials that this user has kept.
    pub fn store(&self) -> Result<Store> {
        Store::open(self.config.as_deref())
    }

    /// Value of `X-Registry-Auth` for the registry of an image; empty if there are no credentials for it.
    pub fn credentials_for(&self, image: &str) -> Result<String> {
        let registry = registry_of(image);
        Ok(self.store()?.get_if_possible(registry).map(|c| c.to_header()).unwrap_or_default())
    }

    /// The address.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// A bare connection.
    pub async fn dial(&self) -> Result<impl AsyncRead + AsyncWrite + use<>> {
        self.connect().await
    }

    async fn connect(&self) -> Result<Box<dyn Socket>> {
        let unreachable =
            || format!("Cannot connect to the skep daemon at {}. Is `skep daemon` running?", self.host);
        if let Some(path) = self.host.strip_prefix("unix://") {
            return match tokio::net::UnixStream::connect(path).await {
                Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => bail!(
                    "permission denied while trying to connect to the skep daemon socket at {}: ask as root, or as a member of the socket's group",
                    self.host
                ),
                other => Ok(Box::new(other.with_context(unreachable)?)),
            };
        }
        if let Some(addr) = self.host.strip_prefix("tcp://") {
            let stream = tokio::net::TcpStream::connect(addr).await.with_context(unreachable)?;
            stream.set_nodelay(true)?;
            let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
            let name = addr.rsplit_once(':').map_or(addr, |(name, _)| name).trim_matches(['[', ']']);
            let name =
                ServerName::try_from(name.to_owned()).with_context(|| format!("host {:?}", self.host))?;
            let secure = tls.connect(name, stream).await;
            return Ok(Box::new(secure.with_context(|| format!("error during connect: {}", self.host))?));
        }
        if self.host.starts_with("ssh://") {
            return Ok(Box::new(super::ssh::connect(&self.host)?));
        }
        bail!("host {:?}: want unix:///path, tcp://address:port or ssh://[user@]host[:port]", self.host)
    }

    /// Sends a request; any status below 400 is an answer.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        query: &Query,
        body: Body,
        headers: &[(&str, &str)],
    ) -> Result<Response<Incoming>> {
        if let Some(instead) = &self.instead {
            instead.lets_through(&method, path)?;
        }
        let (mut sender, connection) = http1::handshake(TokioIo::new(self.connect().await?)).await?;
        // Ends with the connection; an error of it shows where the answer is read.
        tokio::spawn(async move { connection.with_upgrades().await });
        let mut request =
            Request::builder().method(method).uri(format!("{VERSION}{path}{query}")).header("Host", "skep");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let asked = sender.send_request(request.body(body)?).await;
        let response = match asked {
            // What ssh said is all there is to be told.
            Err(e) if self.host.starts_with("ssh://") => bail!("error during connect: {}", cause(&e)),
            Err(e) => match tls::refusal(&e) {
                Some(why) => bail!("error during connect: {}: {why}", self.host),
                None => return Err(e).context("ask the daemon"),
            },
            Ok(response) => response,
        };
        let status = response.status();
        if status.is_client_error() || status.is_server_error() {
            let bytes = response.into_body().collect().await?.to_bytes();
            let message = serde_json::from_slice::<Value>(&bytes)
                .ok()
                .and_then(|v| v["message"].as_str().map(str::to_owned));
            let message = message.unwrap_or_else(|| String::from_utf8_lossy(&bytes).into_owned());
            return Err(Refused { status, message }.into());
        }
        warn(response.headers());
        Ok(response)
    }

    /// Sends JSON or nothing, reads JSON or nothing.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        query: &Query,
        body: Option<&Value>,
    ) -> Result<Value> {
        let (body, headers): (_, &[_]) = match body {
            Some(value) => (full(serde_json::to_vec(value)?), &[("Content-Type", "application/json")]),
            None => (full(Vec::new()), &[]),
        };
        let response = self.send(method, path, query, body, headers).await?;
        let bytes = response.into_body().collect().await.context("read the daemon's answer")?.to_bytes();
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).context("the daemon's answer is not JSON")
    }

    /// GET.
    pub async fn get(&self, path: &str, query: &Query) -> Result<Value> {
        let answer = self.call(Method::GET, path, query, None).await;
        match &self.instead {
            Some(instead) => instead.answer(path, answer),
            None => answer,
        }
    }

    /// POST of JSON.
    pub async fn post(&self, path: &str, query: &Query, body: Option<&Value>) -> Result<Value> {
        if let Some(instead) = &self.instead {
            return instead.change(Change { method: "POST", path, query, body, auth: "" });
        }
        self.call(Method::POST, path, query, body).await
    }

    /// POST of JSON, with the credentials (`X-Registry-Auth`; may be empty) that the daemon may use for it.
    pub async fn post_as(&self, path: &str, query: &Query, body: &Value, auth: &str) -> Result<Value> {
        if let Some(instead) = &self.instead {
            return instead.change(Change { method: "POST", path, query, body: Some(body), auth });
        }
        let headers = [("Content-Type", "application/json"), ("X-Registry-Auth", auth)];
        let headers = if auth.is_empty() { &headers[..1] } else { &headers[..] };
        let body = full(serde_json::to_vec(body)?);
        let response = self.send(Method::POST, path, query, body, headers).await?;
        let bytes = response.into_body().collect().await.context("read the daemon's answer")?.to_bytes();
        serde_json::from_slice(&bytes).context("the daemon's answer is not JSON")
    }

    /// DELETE.
    pub async fn delete(&self, path: &str, query: &Query) -> Result<Value> {
        if let Some(instead) = &self.instead {
            return instead.change(Change { method: "DELETE", path, query, body: None, auth: "" });
        }
        self.call(Method::DELETE, path, query, None).await
    }
}

/// The innermost reason of an error.
fn cause(e: &dyn std::error::Error) -> String {
    e.source().map_or_else(|| e.to_string(), cause)
}

/// Tells what an answer warns of (RFC 7234, section 5.5), once: a command asks many times.
fn warn(headers: &hyper::HeaderMap) {
    static TOLD: std::sync::Once = std::sync::Once::new();
    let warning = headers.get(hyper::header::WARNING).and_then(|w| w.to_str().ok());
    if let Some(text) = warning.and_then(|w| w.split('"').nth(1)) {
        TOLD.call_once(|| eprintln!("WARNING: {text}"));
    }
}

/// The registry of an image's name.
pub fn registry_of(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => skep_registry::DOCKER_HUB,
    }
}

/// A body at hand.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// A body read as it is sent.
pub fn reader(from: impl AsyncRead + Send + Sync + Unpin + 'static) -> Body {
    use futures::TryStreamExt;
    BodyExt::boxed(StreamBody::new(
        tokio_util::io::ReaderStream::with_capacity(from, 1 << 16).map_ok(Frame::data),
    ))
}

/// A query string.
#[derive(Clone, Debug, Default)]
pub struct Query(String);

impl Query {
    /// No parameters.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a parameter.
    pub fn with(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.0.push(if self.0.is_empty() { '?' } else { '&' });
        self.0.push_str(name);
        self.0.push('=');
        self.0.push_str(&encode(value.as_ref()));
        self
    }

    /// Adds a flag when it is set.
    pub fn flag(self, name: &str, set: bool) -> Self {
        if set { self.with(name, "1") } else { self }
    }

    /// Adds `-f key=value` filters.
    pub fn filters(self, filters: &[String]) -> Result<Self> {
        if filters.is_empty() {
            return Ok(self);
        }
        let mut map = std::collections::BTreeMap::<&str, Vec<&str>>::new();
        for filter in filters {
            let (key, value) = filter
                .split_once('=')
                .with_context(|| format!("invalid filter {filter:?}: want name=value"))?;
            map.entry(key).or_default().push(value);
        }
        Ok(self.with("filters", serde_json::to_string(&map)?))
    }
}

impl Query {
    /// The value of a parameter.
    pub fn get(&self, name: &str) -> Option<String> {
        let pairs = self.0.trim_start_matches('?').split('&').filter_map(|p| p.split_once('='));
        let value = pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next_back()?;
        Some(decode(value))
    }
}

impl std::fmt::Display for Query {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Percent-encodes one path segment or query value (RFC 3986, unreserved characters stay).
pub fn encode(text: &str) -> String {
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

/// What [`encode`] was given.
pub fn decode(text: &str) -> String {
    let (mut out, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((byte, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|h| u8::from_str_radix(std::str::from_utf8(h).ok()?, 16).ok());
        rest = match (byte, hex) {
            (b'%', Some(value)) => {
                out.push(value);
                &after[2..]
            }
            _ => {
                out.push(*byte);
                after
            }
        };
    }
    String::from_utf8_lossy(&out).into_owned()
}
