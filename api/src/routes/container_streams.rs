//! What streams from a container: `logs`, `wait`, `attach`.

use std::io;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use serde::Deserialize;
use serde_json::json;
use skep_engine::{AttachOptions, AttachSpan, LogFrame, LogOptions, StdStream, WaitCondition};
use tokio::io::AsyncWriteExt;

use super::{Spoken, body};
use crate::convert::time;
use crate::error::{ApiError, ApiResult};
use crate::hijack;
use crate::path::Path;
use crate::state::ApiState;
use crate::stdcopy::{self, STDERR, STDOUT};
use crate::version::Version;
use crate::websocket::Handshake;

pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/containers/{id}/logs", get(logs))
        .route("/containers/{id}/wait", post(wait))
        .route("/containers/{id}/attach", post(attach))
        .route("/containers/{id}/attach/ws", get(attach_websocket))
}

/// The query of every kind of logs.
#[derive(Deserialize)]
pub(super) struct LogQuery {
    follow: Option<String>,
    stdout: Option<String>,
    stderr: Option<String>,
    since: Option<String>,
    until: Option<String>,
    timestamps: Option<String>,
    details: Option<String>,
    tail: Option<String>,
}

impl LogQuery {
    /// What is asked of the log.
    pub(super) fn read(&self) -> ApiResult<LogOptions> {
        let options = LogOptions {
            follow: body::flag(self.follow.as_deref()),
            stdout: body::flag(self.stdout.as_deref()),
            stderr: body::flag(self.stderr.as_deref()),
            since_ns: time::parse("since", self.since.as_deref().unwrap_or_default())?,
            until_ns: time::parse("until", self.until.as_deref().unwrap_or_default())?,
            // What is not a number is all of it, as Docker reads it.
            tail: self.tail.as_deref().and_then(|t| t.parse().ok()),
        };
        if !options.stdout && !options.stderr {
            return Err(ApiError::bad_request("Bad parameters: you must choose at least one stream"));
        }
        Ok(options)
    }

    pub(super) fn timestamps(&self) -> bool {
        body::flag(self.timestamps.as_deref())
    }

    pub(super) fn details(&self) -> bool {
        body::flag(self.details.as_deref())
    }
}

async fn logs(
    State(s): State<ApiState>,
    Path(id): Path<String>,
    Query(q): Query<LogQuery>,
    Extension(spoken): Extension<Spoken>,
) -> ApiResult {
    let options = q.read()?;
    let container = s.engine().inspect(&id)?;
    let tty = container.config.tty;
    let (timestamps, details) = (q.timestamps(), q.details());
    let frames = s.engine().logs(container.id.as_str(), options).await?;
    let pieces = frames.map(move |frame| {
        Ok::<_, io::Error>(match frame {
            Ok(f) => {
                let mut prefix = String::new();
                if timestamps {
                    prefix = time::fixed(f.timestamp_ns) + " ";
                }
                if details {
                    prefix.push_str(&told(&f.attributes));
                    prefix.push(' ');
                }
                piece(&f, prefix.as_bytes(), tty)
            }
            Err(e) => failure(&e.to_string(), tty),
        })
    });
    Ok(body::stream(content_type(spoken.0, tty), pieces))
}

/// Labels and variables of a message, as clients take them apart: `a=1,b=2`, escaped as in a query.
fn told(attributes: &[(String, String)]) -> String {
    let mut out = String::new();
    for (key, value) in attributes {
        for (before, text) in [(if out.is_empty() { "" } else { "," }, key), ("=", value)] {
            out.push_str(before);
            for b in text.bytes() {
                match b {
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(b.into()),
                    b' ' => out.push('+'),
                    _ => out.push_str(&format!("%{b:02X}")),
                }
            }
        }
    }
    out
}

/// A piece of output on the wire.
pub(super) fn piece(f: &LogFrame, prefix: &[u8], tty: bool) -> Bytes {
    let stream = if f.stream == StdStream::Stderr { STDERR } else { STDOUT };
    match (tty, prefix) {
        (true, b"") => f.data.clone(),
        (true, _) => [prefix, &f.data].concat().into(),
        (false, _) => stdcopy::frame(stream, prefix, &f.data),
    }
}

/// An error after the stream has begun.
pub(super) fn failure(text: &str, tty: bool) -> Bytes {
    let text = format!("{text}\n");
    if tty { text.into() } else { stdcopy::frame(stdcopy::SYSTEM_ERROR, b"", text.as_bytes()) }
}

/// The content type since API 1.42; before it, always raw.
pub(super) fn content_type(spoken: Version, tty: bool) -> &'static str {
    if tty || spoken < Version(1, 42) { stdcopy::RAW } else { stdcopy::MULTIPLEXED }
}

#[derive(Deserialize)]
struct Wait {
    condition: Option<String>,
}

/// Registered before it answers, and answered before the condition holds: `docker run` starts the
/// container only once it has these headers.
async fn wait(State(s): State<ApiState>, Path(id): Path<String>, Query(q): Query<Wait>) -> ApiResult {
    let until = match q.condition.as_deref() {
        None | Some("" | "not-running") => WaitCondition::NotRunning,
        Some("next-exit") => WaitCondition::NextExit,
        Some("removed") => WaitCondition::Removed,
        Some(other) => {
            return Err(ApiError::bad_request(format!(
                "invalid condition: {other:?}: use not-running, next-exit or removed"
            )));
        }
    };
    let exit = s.engine().wait(&id, until)?;
    let answer = exit.map(|exit| {
        Ok::<_, io::Error>(body::line(&match exit {
            // Why a start failed is told by `start`; said here too, the client would print it twice.
            Ok(exit) => json!({ "StatusCode": exit.code }),
            Err(e) => json!({ "StatusCode": -1, "Error": { "Message": e.to_string() } }),
        }))
    });
    Ok(body::stream("application/json", answer.into_stream()))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Attach {
    stream: Option<String>,
    stdin: Option<String>,
    stdout: Option<String>,
    stderr: Option<String>,
    logs: Option<String>,
    detach_keys: Option<String>,
}

impl Attach {
    /// What is asked for, with `asked` telling whether a stream is.
    fn options(&self, asked: impl Fn(&Option<String>) -> bool) -> AttachOptions {
        let (stream, logs) = (body::flag(self.stream.as_deref()), body::flag(self.logs.as_deref()));
        let span = match (stream, logs) {
            (true, true) => AttachSpan::All,
            (true, false) => AttachSpan::Live,
            (false, _) => AttachSpan::Logged,
        };
        let output = |flag| (stream || logs) && asked(flag);
        AttachOptions {
            stdin: stream && asked(&self.stdin),
            stdout: output(&self.stdout),
            stderr: output(&self.stderr),
            span,
        }
    }
}

async fn attach(
    State(s): State<ApiState>,
    Path(id): Path<String>,
    Query(q): Query<Attach>,
    Extension(spoken): Extension<Spoken>,
    request: Request,
) -> ApiResult {
    let keys = hijack::DetachKeys::parse(q.detach_keys.as_deref().unwrap_or_default())?;
    let container = s.engine().inspect(&id)?;
    let tty = container.config.tty;
    let options = q.options(|flag| body::flag(flag.as_deref()));
    let upgrades = hijack::wants_upgrade(request.headers());
    let attached = s.engine().attach(container.id.as_str(), options).await?;
    let kind = content_type(spoken.0, tty);
    let output = attached.output.map(move |frame| match frame {
        Ok(f) => piece(&f, b"", tty),
        Err(e) => failure(&e.to_string(), tty),
    });
    if options.stdin && !upgrades && has_body(request.headers()) {
        // The connection stays HTTP's own: what is sent as the request's body is the container's input.
        if let Some(input) = attached.input {
            tokio::spawn(feed(request.into_body(), input));
        }
        let output = output.map(Ok::<_, io::Error>);
        let kind = HeaderValue::from_static(kind);
        return Ok(([(header::CONTENT_TYPE, kind)], Body::from_stream(output)).into_response());
    }
    let (engine, id) = (s.engine().clone(), container.id.clone());
    let left = move || engine.detached(id.as_str());
    Ok(hijack::response(upgrades, kind, output.boxed(), attached.input, tty.then_some(keys), left))
}

/// As [`attach`], with messages of a websocket, and never multiplexed.
async fn attach_websocket(
    State(s): State<ApiState>,
    Path(id): Path<String>,
    Query(q): Query<Attach>,
    Extension(spoken): Extension<Spoken>,
    headers: HeaderMap,
) -> ApiResult {
    let keys = hijack::DetachKeys::parse(q.detach_keys.as_deref().unwrap_or_default())?;
    let container = s.engine().inspect(&id)?;
    let handshake = Handshake::read(&headers)?;
    let tty = container.config.tty;
    // Older clients did not choose.
    let options = q.options(|flag| spoken.0 < Version(1, 42) || body::flag(flag.as_deref()));
    let attached = s.engine().attach(container.id.as_str(), options).await?;
    let output = attached.output.map(|frame| match frame {
        Ok(f) => piece(&f, b"", true),
        Err(e) => failure(&e.to_string(), true),
    });
    let (engine, id) = (s.engine().clone(), container.id.clone());
    let left = move || engine.detached(id.as_str());
    Ok(handshake.response(output.boxed(), attached.input, tty.then_some(keys), left))
}

/// Gives a container a request's body as its input, and end-of-file after it.
async fn feed(body: Body, mut input: hijack::Input) {
    let mut pieces = body.into_data_stream();
    while let Some(Ok(piece)) = pieces.next().await {
        if input.write_all(&piece).await.is_err() || input.flush().await.is_err() {
            // The container has closed its stdin or ended: what is sent on goes nowhere.
            return;
        }
    }
    let _ = input.shutdown().await;
}

/// Whether the request says that it has a body (RFC 9112, section 6.3), and that something is in it.
fn has_body(headers: &HeaderMap) -> bool {
    let length = headers.get(header::CONTENT_LENGTH);
    length.is_some_and(|l| l.as_bytes() != b"0") || headers.contains_key(header::TRANSFER_ENCODING)
}
