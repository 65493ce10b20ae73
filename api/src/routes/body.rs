//! Reading request bodies and building the few kinds of response there are.

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::{Stream, TryStreamExt};
use serde_json::Value;
use skep_engine::Error;
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;

use super::upload;
use crate::error::{ApiError, ApiResult};

/// Longest JSON body: a service with its labels is far below it.
const LONGEST: usize = 4 << 20;

/// Reads a whole JSON body, which its content type must say it is.
pub(super) async fn read(request: Request) -> ApiResult<Bytes> {
    let kind = request.headers().get(header::CONTENT_TYPE).cloned();
    let body = read_any(request).await?;
    match kind {
        None if body.is_empty() => {}
        kind => check_json(&String::from_utf8_lossy(kind.as_ref().map_or(b"", HeaderValue::as_bytes)))?,
    }
    Ok(body)
}

/// In Docker's words (`httputils.CheckForJSON`, and Go's `mime.ParseMediaType`).
fn check_json(kind: &str) -> ApiResult<()> {
    let media = kind.split(';').next().unwrap_or_default().trim();
    if media.is_empty() {
        return Err(ApiError::bad_request(format!(
            "malformed Content-Type header ({kind}): mime: no media type"
        )));
    }
    if media.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(ApiError::bad_request(format!(
        "unsupported Content-Type header ({kind}): must be 'application/json'"
    )))
}

/// Reads a whole body, whatever it is.
pub(super) async fn read_any(request: Request) -> ApiResult<Bytes> {
    axum::body::to_bytes(request.into_body(), LONGEST).await.map_err(|e| {
        ApiError::bad_request(format!("cannot read the request body (at most {LONGEST} bytes): {e}"))
    })
}

/// Takes a short body in before anything is answered: a client that is answered while it still writes may see a
/// broken pipe and not the answer. Longer ones, and those of unknown length, come as they are read.
pub(super) async fn take_in(request: Request) -> ApiResult<Request> {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|l| l.to_str().ok()?.parse().ok());
    if length.is_none_or(|l: usize| l > LONGEST) {
        return Ok(upload::guarded(request));
    }
    let (parts, body) = request.into_parts();
    let bytes = axum::body::to_bytes(body, LONGEST)
        .await
        .map_err(|e| ApiError::bad_request(format!("cannot read the request body: {e}")))?;
    Ok(Request::from_parts(parts, bytes.into()))
}

/// A body to be read as it comes.
pub(super) fn reader(request: Request) -> impl AsyncRead + Send + Unpin + 'static {
    let stream = request.into_body().into_data_stream();
    StreamReader::new(Box::pin(stream.map_err(std::io::Error::other)))
}

/// A JSON answer with this status.
pub(super) fn json(status: StatusCode, value: &Value) -> Response {
    let kind = HeaderValue::from_static("application/json");
    (status, [(header::CONTENT_TYPE, kind)], format!("{value}\n")).into_response()
}

/// 200 with JSON.
pub(super) fn ok(value: &Value) -> Response {
    json(StatusCode::OK, value)
}

/// A JSON answer of the swarm; one that no leader confirmed says so.
pub(super) fn swarm(value: &Value, stale: bool) -> Response {
    let mut response = ok(value);
    if stale {
        response.headers_mut().insert(header::WARNING, HeaderValue::from_static(STALE));
    }
    response
}

/// What a `Warning` header says of a read that no leader confirmed.
const STALE: &str = "199 skep \"the swarm has no leader: this answer may be out of date\"";

/// An answer with its warnings, if there are any.
pub(super) fn with_warnings(mut answer: Value, warnings: Vec<String>) -> Value {
    if !warnings.is_empty() {
        answer["Warnings"] = warnings.into();
    }
    answer
}

/// A body that comes in pieces; its headers go out at once.
pub(super) fn stream<S>(kind: &'static str, pieces: S) -> Response
where
    S: Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static,
{
    let kind = HeaderValue::from_static(kind);
    ([(header::CONTENT_TYPE, kind)], Body::from_stream(pieces)).into_response()
}

/// One line of a JSON stream.
pub(super) fn line(value: &Value) -> Bytes {
    Bytes::from(format!("{value}\r\n"))
}

/// The status Docker gives to what the engine answered.
impl From<Error> for ApiError {
    fn from(e: Error) -> Self {
        let status = match &e {
            Error::NoSuchImage { .. }
            | Error::NoSuchContainer { .. }
            | Error::NoSuchExec { .. }
            | Error::NoSuchVolume { .. }
            | Error::NoSuchFile { .. }
            | Error::NoSuchPlugin { .. } => StatusCode::NOT_FOUND,
            Error::VolumeInUse { .. } => StatusCode::CONFLICT,
            Error::Invalid(_) | Error::Archive(_) | Error::AmbiguousPrefix { .. } => StatusCode::BAD_REQUEST,
            Error::Forbidden(_) => StatusCode::FORBIDDEN,
            Error::NameInUse { .. } | Error::Conflict(_) | Error::NotRunning { .. } => StatusCode::CONFLICT,
            Error::AlreadyStarted { .. } => StatusCode::NOT_MODIFIED,
            // 126 and 127 are the user's: a command that cannot be run or is not there.
            Error::StartFailed { code: 126 | 127, .. } | Error::ExecFailed { .. } => StatusCode::BAD_REQUEST,
            Error::Registry { cause, .. } => registry_status(cause),
            Error::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, e.to_string())
    }
}

/// The status Docker gives to what a registry answered.
pub(super) fn registry_status(e: &skep_registry::Error) -> StatusCode {
    use skep_registry::Error;
    match e {
        Error::Refused { code, .. }
            if matches!(code.as_str(), "DENIED" | "MANIFEST_UNKNOWN" | "NAME_UNKNOWN") =>
        {
            StatusCode::NOT_FOUND
        }
        Error::Login { .. } => StatusCode::UNAUTHORIZED,
        Error::Refused { status, .. } if status.is_client_error() => *status,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The status Docker gives to what the data plane answered.
impl From<skep_overlay::Error> for ApiError {
    fn from(e: skep_overlay::Error) -> Self {
        use skep_overlay::Error;
        let status = match &e {
            Error::NoSuchNetwork(_) => StatusCode::NOT_FOUND,
            Error::NetworkExists(_) => StatusCode::CONFLICT,
            Error::NetworkInUse { .. }
            | Error::Forbidden(_)
            | Error::Overlap { .. }
            | Error::AddressInUse { .. }
            | Error::AlreadyConnected { .. }
            | Error::NotConnected { .. } => StatusCode::FORBIDDEN,
            Error::UnchosenSubnet
            | Error::Invalid { .. }
            | Error::Parent(_)
            | Error::NeedsSwarmAddress(_) => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, e.to_string())
    }
}

/// A boolean of a query, as Docker reads it: anything but these is true.
pub(super) fn flag(text: Option<&str>) -> bool {
    !matches!(
        text.map(|t| t.trim().to_ascii_lowercase()).as_deref(),
        None | Some("" | "0" | "no" | "false" | "none")
    )
}

/// The `version` every update must name.
pub(super) fn version(text: Option<&str>, what: &str) -> ApiResult<u64> {
    let text = text.unwrap_or_default();
    text.parse().map_err(|_| {
        ApiError::bad_request(format!(
            "invalid {what} version '{text}': give the version from inspect that the update is based on"
        ))
    })
}

/// The one object meant by `name` of those the control service found for it: an exact ID first, then
/// an exact name, then the beginning of an ID.
pub(super) fn one<T>(
    kind: &str,
    name: &str,
    found: Vec<T>,
    id: impl Fn(&T) -> String,
    named: impl Fn(&T) -> bool,
) -> ApiResult<T> {
    let mut rest = Vec::new();
    let mut by_name = Vec::new();
    for object in found {
        if id(&object) == name {
            return Ok(object);
        }
        let list = if named(&object) { &mut by_name } else { &mut rest };
        list.push(object);
    }
    let mut candidates = if by_name.is_empty() { rest } else { by_name };
    match (candidates.pop(), candidates.len()) {
        (Some(object), 0) => Ok(object),
        (None, _) => Err(ApiError::not_found(format!("{kind} {name} not found"))),
        (Some(_), others) => Err(ApiError::bad_request(format!(
            "{kind} {name} is ambiguous ({} matches found); give the whole ID",
            others + 1
        ))),
    }
}
