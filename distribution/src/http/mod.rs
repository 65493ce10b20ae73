//! Requests and their answers: who may, what it names, and the handler of that.

mod blobs;
mod body;
mod lists;
mod manifests;
mod range;
mod takeover;
mod uploads;
mod verified;

pub(crate) use blobs::answer as blob_answer;
#[cfg(test)]
pub(crate) use range::{Wanted, piece};
pub(crate) use verified::part as blob_part;

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use crate::auth::{Auth, Need};
use crate::daemon::DaemonBlobs;
use crate::error::Refusal;
use crate::mirror::Mirror;
use crate::route::Route;
use crate::store::Store;

/// Body of an answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;
type Answer = Result<Response<Body>, Refusal>;

/// What handlers work with.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) store: Store,
    pub(crate) auth: Auth,
    pub(crate) mirror: Option<Mirror>,
    pub(crate) daemon: Option<DaemonBlobs>,
    pub(crate) read_only: bool,
}

/// A request, its path understood.
struct Asked {
    method: Method,
    route: Route,
    query: Option<String>,
    headers: HeaderMap,
    body: Incoming,
}

impl App {
    /// Answers a request, whatever it is, and logs it.
    pub(crate) async fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<Body> {
        let begun = Instant::now();
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let agent = text(request.headers(), header::USER_AGENT.as_str()).unwrap_or_default().to_owned();
        let mut user = None;
        let mut response = match self.handle(request, &mut user).await {
            Ok(response) => response,
            Err(refusal) => refused(&refusal),
        };
        let headers = response.headers_mut();
        headers.insert("docker-distribution-api-version", HeaderValue::from_static("registry/2.0"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        let told =
            text(response.headers(), header::CONTENT_LENGTH.as_str()).and_then(|l| l.parse::<u64>().ok());
        let bytes = told.or_else(|| response.body().size_hint().exact());
        tracing::info!(
            %peer,
            user = user.as_deref().unwrap_or("-"),
            %method,
            path,
            status = response.status().as_u16(),
            bytes,
            ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            agent,
            "request"
        );
        response
    }

    async fn handle(&self, request: Request<Incoming>, user: &mut Option<String>) -> Answer {
        let (parts, body) = request.into_parts();
        let Some(route) = Route::read(parts.uri.path()) else {
            return Err(Refusal::new(StatusCode::NOT_FOUND, "UNSUPPORTED", "no such endpoint of a registry"));
        };
        if !route.has_good_name() {
            return Err(Refusal::name_invalid(route.name().unwrap_or_default()));
        }
        *user = self.auth.check(&parts.headers, &need(&parts.method, &route)).await?;
        let query = parts.uri.query().map(str::to_owned);
        let asked = Asked { method: parts.method, route, query, headers: parts.headers, body };
        let reads = asked.method == Method::GET || asked.method == Method::HEAD;
        if !reads && (self.read_only || self.mirror.is_some()) {
            let why = if self.read_only { "read-only" } else { "a mirror: push to the registry it mirrors" };
            return Err(Refusal::unsupported(format!(
                "the operation is unsupported: this registry is {why}"
            )));
        }
        let method = asked.method.clone();
        match (&asked.route, method.as_str()) {
            (Route::Base, "GET" | "HEAD") => Ok(json("{}".into())),
            (Route::Catalog, "GET" | "HEAD") => self.catalog(asked).await,
            (Route::Tags { .. }, "GET" | "HEAD") => self.tags(asked).await,
            (Route::Referrers { .. }, "GET" | "HEAD") => self.referrers(asked).await,
            (Route::Manifest { .. }, "GET" | "HEAD") => self.get_manifest(asked).await,
            (Route::Manifest { .. }, "PUT") => self.put_manifest(asked).await,
            (Route::Manifest { .. }, "DELETE") => self.delete_manifest(asked).await,
            (Route::Blob { .. }, "GET" | "HEAD") => self.get_blob(asked).await,
            (Route::Blob { .. }, "DELETE") => self.delete_blob(asked).await,
            (Route::Uploads { .. }, "POST") => self.begin_upload(asked).await,
            (Route::Upload { .. }, _) if !asked.route.is_known_upload() => Err(Refusal::upload_unknown()),
            (Route::Upload { .. }, "GET" | "HEAD") => self.upload_status(asked).await,
            (Route::Upload { .. }, "PATCH") => self.add_to_upload(asked).await,
            (Route::Upload { .. }, "PUT") => self.finish_upload(asked).await,
            (Route::Upload { .. }, "DELETE") => self.drop_upload(asked).await,
            (route, _) => Err(not_allowed(route)),
        }
    }
}

/// What whoever changes a repository may do there.
const PUSH: &[&str] = &["pull", "push"];

/// What a request needs to be allowed.
fn need(method: &Method, route: &Route) -> Need {
    let actions: &'static [&'static str] = match (route, method.as_str()) {
        (Route::Base, _) => return Need::Anybody,
        (Route::Catalog, _) => return Need::Catalog,
        (Route::Uploads { .. } | Route::Upload { .. }, _) | (_, "PUT" | "POST" | "PATCH") => PUSH,
        (_, "DELETE") => &["delete"],
        _ => &["pull"],
    };
    Need::Repository { name: route.name().unwrap_or_default().to_owned(), actions }
}

fn not_allowed(route: &Route) -> Refusal {
    let allowed = match route {
        Route::Manifest { .. } => "GET, HEAD, PUT, DELETE",
        Route::Blob { .. } => "GET, HEAD, DELETE",
        Route::Uploads { .. } => "POST",
        Route::Upload { .. } => "GET, PATCH, PUT, DELETE",
        _ => "GET, HEAD",
    };
    Refusal::unsupported("the operation is unsupported").header("allow", allowed.to_owned())
}

fn refused(refusal: &Refusal) -> Response<Body> {
    let mut response = json(refusal.body());
    *response.status_mut() = refusal.status;
    for (name, value) in &refusal.headers {
        set(&mut response, name, value);
    }
    response
}

/// A whole body.
fn full(bytes: impl Into<Bytes>) -> Body {
    http_body_util::Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

fn json(text: String) -> Response<Body> {
    let mut response = Response::new(full(text));
    set(&mut response, header::CONTENT_TYPE.as_str(), "application/json");
    response
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(full(""));
    *response.status_mut() = status;
    response
}

/// Sets a header; a value that cannot be one is left out.
fn set(response: &mut Response<Body>, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(HeaderName::from_static(name), value);
    }
}

/// A header's text.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}

/// Whether the client says that it has this already (RFC 9110, 13.1.2).
fn is_known(headers: &HeaderMap, digest: &str) -> bool {
    let bare = |tag: &str| tag.trim().trim_start_matches("W/").trim_matches('"').to_owned();
    text(headers, header::IF_NONE_MATCH.as_str())
        .is_some_and(|told| told.split(',').map(bare).any(|tag| tag == digest || tag == "*"))
}
