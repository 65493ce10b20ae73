//! On the manager that is asked: one request as a client of the node's API, and its answer, or the connection that
//! it takes over.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::Response;
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt, copy, sink, split};

use super::SEPARATOR;
use super::lead::To;
use crate::error::{ApiError, ApiResult};
use crate::hijack::{self, Connection, Takeover};
use crate::state::ApiState;
use crate::version::Version;

/// How long a client may take to see that the output has ended.
const LINGER: Duration = Duration::from_secs(5);
/// Longest JSON answer that is read to be changed.
const LONGEST: usize = 4 << 20;
/// Headers about a connection, which end with it.
const OF_CONNECTIONS: [HeaderName; 4] =
    [header::CONNECTION, header::UPGRADE, header::TRANSFER_ENCODING, header::HOST];

/// Sends a request to the node of a task, at `target` without its version.
pub(super) async fn forward(
    s: &ApiState,
    spoken: Version,
    to: &To,
    target: &Uri,
    request: Request,
) -> ApiResult {
    let tunnels = s.swarm().tunnels().ok_or_else(|| s.not_a_manager())?;
    let io = tunnels.reach(&to.node_id, &to.task_id).await?;
    let broke = |e: hyper::Error| {
        ApiError::unavailable(format!("the connection to node {} broke off: {e}; try again", to.node_id))
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(broke)?;
    tokio::spawn(async move {
        if let Err(e) = connection.with_upgrades().await {
            tracing::debug!(error = %e, "a request through a tunnel ended early");
        }
    });
    let (method, path) = (request.method().clone(), target.path().to_owned());
    let bare = takes_over(&method, &path, request.headers());
    let upgrades = upgrades(request.headers());
    let answer = sender.send_request(sent(spoken, target, request, bare)).await.map_err(broke)?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        return taken_over(answer, upgrades).await.map_err(broke);
    }
    let mut answer = answer.map(Body::new);
    for name in &OF_CONNECTIONS {
        answer.headers_mut().remove(name);
    }
    if answer.status().is_success() && method != Method::HEAD {
        return with_ids(answer, &to.task_id, &method, &path).await;
    }
    Ok(answer)
}

/// Whether the client asks for a connection of its own.
fn upgrades(headers: &HeaderMap) -> bool {
    hijack::wants(headers, "tcp") || hijack::wants(headers, "websocket")
}

/// Whether the client's connection becomes the container's without a word of the client's about it.
fn takes_over(method: &Method, path: &str, headers: &HeaderMap) -> bool {
    let body = headers.get(header::CONTENT_LENGTH).is_some_and(|l| l != "0")
        || headers.contains_key(header::TRANSFER_ENCODING);
    // A body of `attach` is the container's input, and its connection stays HTTP's.
    method == Method::POST && (path.ends_with("/start") || path.ends_with("/attach") && !body)
}

fn sent(spoken: Version, target: &Uri, request: Request, bare: bool) -> hyper::Request<Body> {
    let (mut parts, body) = request.into_parts();
    let upgrade = parts.headers.get(header::UPGRADE).cloned();
    let upgrade = upgrade.filter(|_| upgrades(&parts.headers));
    for name in &OF_CONNECTIONS {
        parts.headers.remove(name);
    }
    parts.headers.insert(header::HOST, HeaderValue::from_static("skep"));
    if let Some(upgrade) = upgrade.or_else(|| bare.then(|| HeaderValue::from_static("tcp"))) {
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        parts.headers.insert(header::UPGRADE, upgrade);
    }
    let whole = format!("/v{spoken}{target}");
    let mut out = hyper::Request::new(body);
    *out.method_mut() = parts.method;
    // Both parts are of a request that was parsed.
    *out.uri_mut() = whole.parse().unwrap_or_else(|_| target.clone());
    *out.headers_mut() = parts.headers;
    out
}

/// The answer that gives the client's connection to the node, in the client's own form.
async fn taken_over(
    answer: hyper::Response<hyper::body::Incoming>,
    upgrades: bool,
) -> Result<Response, hyper::Error> {
    let mut response = Response::new(Body::empty());
    if upgrades {
        *response.status_mut() = answer.status();
        *response.headers_mut() = answer.headers().clone();
    } else if let Some(kind) = answer.headers().get(header::CONTENT_TYPE) {
        response.headers_mut().insert(header::CONTENT_TYPE, kind.clone());
    }
    let node = hyper::upgrade::on(answer).await?;
    response.extensions_mut().insert(Takeover::new(move |client| join(client, node)));
    Ok(response)
}

/// Joins the two until the node has no more to say; the client may have ended its part long before.
async fn join(client: Box<dyn Connection>, node: Upgraded) {
    let (mut from_client, mut to_client) = split(client);
    let (mut from_node, mut to_node) = split(TokioIo::new(node));
    let up = async {
        // Both may be gone already.
        let _ = copy(&mut from_client, &mut to_node).await;
        let _ = to_node.shutdown().await;
        std::future::pending::<()>().await;
    };
    let down = async { copy(&mut from_node, &mut to_client).await };
    tokio::select! {
        _ = down => {}
        () = up => {}
    }
    let _ = to_client.shutdown().await;
    // To close while the client still sends would reset the connection, and it would take that for a failure.
    let _ = tokio::time::timeout(LINGER, copy(&mut from_client, &mut sink())).await;
}

/// The answer with the IDs of execs as every manager finds them.
async fn with_ids(answer: Response, task: &str, method: &Method, path: &str) -> ApiResult {
    let made = method == Method::POST && path.ends_with("/exec");
    let shown = method == Method::GET && path.ends_with("/json");
    if !made && !shown {
        return Ok(answer);
    }
    let (mut parts, body) = answer.into_parts();
    let bytes = axum::body::to_bytes(body, LONGEST)
        .await
        .map_err(|e| ApiError::unavailable(format!("the node's answer broke off: {e}; try again")))?;
    let mut value: Value = serde_json::from_slice(&bytes)
        .map_err(|e| ApiError::internal(format!("the node's answer is not JSON: {e}")))?;
    let whole = |id: &Value| id.as_str().map(|id| json!(format!("{task}{SEPARATOR}{id}")));
    let field = match (made, path.starts_with("/exec/")) {
        (true, _) => Some("Id"),
        (false, true) => Some("ID"),
        (false, false) => None,
    };
    match field {
        Some(field) => {
            if let Some(id) = whole(&value[field]) {
                value[field] = id;
            }
        }
        None => {
            if let Some(ids) = value.get_mut("ExecIDs").and_then(Value::as_array_mut) {
                for id in ids {
                    *id = whole(id).unwrap_or_default();
                }
            }
        }
    }
    parts.headers.remove(header::CONTENT_LENGTH);
    Ok(Response::from_parts(parts, Body::from(format!("{value}\n"))))
}
