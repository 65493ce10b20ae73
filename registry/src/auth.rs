//! Answers a registry's challenge: Basic, or a token from the server that the challenge names (Docker's
//! token specification, and OAuth 2.0's refresh grant).

use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::{HeaderMap, Method, Response, StatusCode};
use serde::Deserialize;

use crate::Error;
use crate::challenge::{Challenge, parse};
use crate::credentials::Credentials;
use crate::http::{self, Http, encode, full, named};

/// Longest answer of a token server.
const LONGEST: usize = 1 << 20;
/// What token servers are told of who asks.
const CLIENT: &str = "docker";

/// What a token server gave.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Token {
    token: Option<String>,
    access_token: Option<String>,
    pub(crate) refresh_token: Option<String>,
}

impl Token {
    pub(crate) fn value(&self) -> Option<&str> {
        let given = [&self.token, &self.access_token].into_iter().flatten();
        given.map(String::as_str).find(|t| !t.is_empty())
    }
}

/// A token is asked for a scope; a login asks for none, but for a token to come back with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum For<'a> {
    Scope(&'a str),
    Login,
}

/// All challenges of an answer.
pub(crate) fn challenges<B>(response: &Response<B>) -> Vec<Challenge> {
    let values = response.headers().get_all(WWW_AUTHENTICATE).into_iter();
    values.filter_map(|v| v.to_str().ok()).flat_map(parse).collect()
}

/// The `Authorization` that answers the challenges of a 401.
pub(crate) async fn authorize(
    http: &Http,
    lax: bool,
    challenges: &[Challenge],
    credentials: &Credentials,
    scope: &str,
    (method, url): (&Method, &str),
) -> Result<HeaderValue, Error> {
    let text = if let Some(bearer) = challenges.iter().find(|c| c.scheme == "bearer") {
        if credentials.registry_token.is_empty() {
            let token = fetch(http, lax, bearer, credentials, For::Scope(scope)).await?;
            format!("Bearer {}", token.value().unwrap_or_default())
        } else {
            format!("Bearer {}", credentials.registry_token)
        }
    } else {
        let none = || Error::NoCredentials { method: named(method), url: http::bare(url) };
        credentials.basic().ok_or_else(none)?
    };
    authorization(&text)
}

/// An `Authorization` that no log shows.
pub(crate) fn authorization(text: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| Error::Invalid("the credentials cannot be sent: they hold control characters".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Asks the server that a challenge names for a token.
pub(crate) async fn fetch(
    http: &Http,
    lax: bool,
    challenge: &Challenge,
    credentials: &Credentials,
    purpose: For<'_>,
) -> Result<Token, Error> {
    let (realm, service) = (challenge.get("realm"), challenge.get("service"));
    let mut scopes: Vec<&str> = match purpose {
        For::Login => Vec::new(),
        // The registry knows best what it wants to see, but may not say it.
        For::Scope(own) => own.split(' ').chain(challenge.get("scope").split(' ')).collect(),
    };
    scopes.retain(|s| !s.is_empty());
    scopes.sort_unstable();
    scopes.dedup();
    let mut headers = HeaderMap::new();
    let (method, url, response) = if credentials.identity_token.is_empty() {
        let mut url = format!("{realm}{}service={}", separator(realm), encode(service));
        scopes.iter().for_each(|s| url.push_str(&format!("&scope={}", encode(s))));
        if let Some(basic) = credentials.basic() {
            url.push_str(&format!("&account={}", encode(&credentials.username)));
            if purpose == For::Login {
                url.push_str(&format!("&client_id={CLIENT}&offline_token=true"));
            }
            headers.insert(AUTHORIZATION, authorization(&basic)?);
        }
        let response = http.follow(lax, &Method::GET, &url, &headers).await?;
        (Method::GET, url, response)
    } else {
        let form = format!(
            "grant_type=refresh_token&refresh_token={}&client_id={CLIENT}&service={}&scope={}",
            encode(&credentials.identity_token),
            encode(service),
            encode(&scopes.join(" ")),
        );
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        let response = http.send(lax, &Method::POST, realm, &headers, full(form)).await?;
        (Method::POST, realm.to_owned(), response)
    };
    if !response.status().is_success() {
        return Err(refusal(&method, &url, response).await);
    }
    let body = http::read(&method, &url, response, LONGEST).await?;
    let token: Token = serde_json::from_slice(&body)
        .map_err(|e| Error::Invalid(format!("the token server {realm} gave no token: {e}")))?;
    if token.value().is_none() {
        return Err(Error::Invalid(format!(
            "authorization server {realm} did not include a token in the response"
        )));
    }
    Ok(token)
}

fn separator(url: &str) -> char {
    if url.contains('?') { '&' } else { '?' }
}

#[derive(Deserialize)]
struct Errors {
    #[serde(default)]
    errors: Vec<OneError>,
    #[serde(default)]
    details: Option<String>,
}

#[derive(Deserialize)]
struct OneError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: Option<String>,
}

/// What an answer that is no success says.
pub(crate) async fn refusal(method: &Method, url: &str, response: Response<hyper::body::Incoming>) -> Error {
    let status = response.status();
    for challenge in challenges(&response).iter().filter(|c| c.scheme == "bearer") {
        let code = match challenge.get("error") {
            "invalid_token" => "UNAUTHORIZED",
            "insufficient_scope" => "DENIED",
            _ => continue,
        };
        let told = challenge.get("error_description");
        let message = if told.is_empty() { meaning(code) } else { told };
        return Error::Refused { status, code: code.into(), message: message.into() };
    }
    let body = http::read(method, url, response, LONGEST).await.unwrap_or_default();
    if let Ok(read) = serde_json::from_slice::<Errors>(&body) {
        if let Some(first) = read.errors.into_iter().next() {
            let message = first.message.filter(|m| !m.is_empty());
            let message = message.unwrap_or_else(|| meaning(&first.code).to_owned());
            return Error::Refused { status, code: first.code, message };
        }
        if let Some(message) = read.details.filter(|d| !d.is_empty()) {
            let code = match status {
                StatusCode::UNAUTHORIZED => "UNAUTHORIZED",
                StatusCode::TOO_MANY_REQUESTS => "TOOMANYREQUESTS",
                _ => "UNKNOWN",
            };
            return Error::Refused { status, code: code.into(), message };
        }
    }
    let code = match status {
        StatusCode::UNAUTHORIZED => "UNAUTHORIZED",
        StatusCode::FORBIDDEN => "DENIED",
        StatusCode::TOO_MANY_REQUESTS => "TOOMANYREQUESTS",
        _ => {
            let text = String::from_utf8_lossy(&body);
            let body = text.trim().chars().filter(|c| !c.is_control()).take(200).collect();
            return Error::Unexpected { method: named(method), url: http::bare(url), status, body };
        }
    };
    Error::Refused { status, code: code.into(), message: meaning(code).into() }
}

/// What a code of the specification means, where the registry does not say it.
fn meaning(code: &str) -> &'static str {
    match code {
        "UNAUTHORIZED" => "authentication required",
        "DENIED" => "requested access to the resource is denied",
        "TOOMANYREQUESTS" => "too many requests",
        "MANIFEST_UNKNOWN" => "manifest unknown",
        "NAME_UNKNOWN" => "repository name not known to registry",
        "BLOB_UNKNOWN" => "blob unknown to registry",
        _ => "unknown error",
    }
}
