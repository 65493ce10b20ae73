//! `/containers/{id}/exec` and `/exec`: further commands in containers that run.

use axum::Router;
use axum::extract::{Extension, Query, Request, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use skep_engine::{Attached, Engine, ExecConfig, ExecInfo};
use tokio::io::{AsyncWriteExt, DuplexStream};

use super::container_streams::{content_type, failure, piece};
use super::{Spoken, body, containers::Resize};
use crate::error::{ApiError, ApiResult};
use crate::fields::Fields;
use crate::hijack::{self, DetachKeys};
use crate::path::Path;
use crate::reach::Tunnelled;
use crate::state::ApiState;
use crate::stdcopy::{self, STDOUT};

/// Bytes of a client's input kept while nothing takes them.
const INPUT_BUFFER: usize = 64 << 10;

pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/containers/{id}/exec", post(create))
        .route("/exec/{id}/start", post(start))
        .route("/exec/{id}/resize", post(resize))
        .route("/exec/{id}/json", get(inspect))
}

async fn create(State(s): State<ApiState>, Path(id): Path<String>, request: Request) -> ApiResult {
    let tunnelled = request.extensions().get::<Tunnelled>().is_some();
    let config = read(&body::read(request).await?)?;
    // A service has no more of this node than the node allows services, and gets it by no exec.
    if tunnelled && config.privileged && !s.engine().inspect(&id)?.config.privileged {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "privileged execs by managers are for tasks of privileged services: ask the task's own node",
        ));
    }
    let id = s.engine().exec_create(&id, config)?;
    Ok(body::json(StatusCode::CREATED, &json!({ "Id": id })))
}

fn read(body: &[u8]) -> ApiResult<ExecConfig> {
    let mut f = Fields::parse(body)?;
    let config = ExecConfig {
        argv: f.strings("Cmd")?,
        env: f.strings("Env")?,
        working_dir: f.string("WorkingDir")?,
        user: f.string("User")?,
        privileged: f.bool("Privileged")?,
        tty: f.bool("Tty")?,
        size: console(&mut f)?,
        stdin: f.bool("AttachStdin")?,
        stdout: f.bool("AttachStdout")?,
        stderr: f.bool("AttachStderr")?,
        detach_keys: f.string("DetachKeys")?,
    };
    DetachKeys::parse(&config.detach_keys)?;
    // What detaches is `start`; the container is the path's (docker-py says it twice).
    f.drop_all(&["Detach", "Container"]);
    f.refuse_rest(&[])?;
    Ok(config)
}

/// `[rows, columns]`; zeroes are a client without a terminal.
fn console(f: &mut Fields) -> ApiResult<Option<(u16, u16)>> {
    let wrong = || ApiError::bad_request(format!("{} must be [height, width]", f.path("ConsoleSize")));
    let wrong = wrong();
    let Some(value) = f.take("ConsoleSize") else { return Ok(None) };
    let number = |v: &Value| v.as_u64().and_then(|n| u16::try_from(n).ok());
    match value.as_array().map(Vec::as_slice) {
        Some([rows, columns]) => match (number(rows), number(columns)) {
            (Some(0), _) | (_, Some(0)) => Ok(None),
            (Some(rows), Some(columns)) => Ok(Some((rows, columns))),
            _ => Err(wrong),
        },
        _ => Err(wrong),
    }
}

async fn start(
    State(s): State<ApiState>,
    Path(id): Path<String>,
    Extension(spoken): Extension<Spoken>,
    request: Request,
) -> ApiResult {
    let upgrades = hijack::wants_upgrade(request.headers());
    let exec = s.engine().exec_inspect(&id)?;
    let (detach, tty, size) = read_start(&body::read(request).await?)?;
    let size = size.filter(|_| exec.config.tty);
    if detach {
        s.engine().exec_start(&id, size, false).await?;
        return Ok(StatusCode::OK.into_response());
    }
    let (output, input) = started(s.engine().clone(), id.clone(), size, tty, exec.config.stdin);
    let keys = DetachKeys::parse(&exec.config.detach_keys)?;
    // The keys are a terminal's.
    let keys = exec.config.tty.then_some(keys);
    let engine = s.engine().clone();
    let left = move || engine.exec_detached(&id);
    Ok(hijack::response(upgrades, content_type(spoken.0, tty), output, input, keys, left))
}

/// Whether to detach, whether its output is a terminal's, and the terminal's size.
fn read_start(body: &[u8]) -> ApiResult<(bool, bool, Option<(u16, u16)>)> {
    let mut f = Fields::parse(body)?;
    let start = (f.bool("Detach")?, f.bool("Tty")?, console(&mut f)?);
    // What clients send with the rest: what the exec was made with (Docker.DotNet says it once more), and notes of their own
    // (bollard's size of a buffer, go-dockerclient's streams).
    f.drop_all(&["AttachStdin", "AttachStdout", "AttachStderr", "DetachKeys", "Cmd", "Env", "WorkingDir"]);
    f.drop_all(&["User", "Privileged", "Container"]);
    f.drop_all(&["OutputCapacity", "InputStream", "OutputStream", "ErrorStream", "RawTerminal"]);
    f.refuse_rest(&[])?;
    Ok(start)
}

/// Starts it when its output is first asked for, which is after the answer's header is out, as with Docker: docker-py
/// loses what comes in one piece with the header. What goes wrong from then on is told where the output would be.
fn started(
    engine: Engine,
    id: String,
    size: Option<(u16, u16)>,
    tty: bool,
    stdin: bool,
) -> (BoxStream<'static, Bytes>, Option<hijack::Input>) {
    let (ours, theirs) = tokio::io::duplex(INPUT_BUFFER);
    let output = stream::once(async move {
        match engine.exec_start(&id, size, true).await {
            Ok(Attached { output, input }) => {
                if let Some(input) = input {
                    tokio::spawn(feed(theirs, input));
                }
                let pieces = output.map(move |frame| match frame {
                    Ok(f) => piece(&f, b"", tty),
                    Err(e) => failure(&e.to_string(), tty),
                });
                pieces.boxed()
            }
            Err(e) => {
                let text = format!("{}\r\n", ApiError::from(e).message);
                let text = if tty { text.into() } else { stdcopy::frame(STDOUT, b"", text.as_bytes()) };
                stream::iter([text]).boxed()
            }
        }
    });
    let input: Option<hijack::Input> = if stdin { Some(Box::pin(ours)) } else { None };
    (output.flatten().boxed(), input)
}

/// Passes a client's input on until either side ends.
async fn feed(mut from: DuplexStream, mut to: hijack::Input) {
    if let Err(e) = tokio::io::copy(&mut from, &mut to).await {
        tracing::debug!(error = %e, "the input of an exec ended");
    }
    if let Err(e) = to.shutdown().await {
        tracing::debug!(error = %e, "the input of an exec could not be closed");
    }
}

async fn resize(State(s): State<ApiState>, Path(id): Path<String>, Query(q): Query<Resize>) -> ApiResult {
    let (rows, columns) = q.read()?;
    s.engine().exec_resize(&id, rows, columns).await?;
    Ok(StatusCode::OK.into_response())
}

async fn inspect(State(s): State<ApiState>, Path(id): Path<String>) -> ApiResult {
    Ok(body::ok(&shown(&s.engine().exec_inspect(&id)?)))
}

fn shown(e: &ExecInfo) -> Value {
    let c = &e.config;
    let (entrypoint, arguments) = c.argv.split_first().map_or(("", &[][..]), |(e, a)| (e.as_str(), a));
    let mut process = json!({
        "tty": c.tty, "entrypoint": entrypoint, "arguments": arguments, "privileged": c.privileged,
    });
    if !c.user.is_empty() {
        process["user"] = json!(c.user);
    }
    json!({
        "ID": e.id,
        "Running": e.running,
        "ExitCode": e.exit_code,
        "ProcessConfig": process,
        "OpenStdin": c.stdin,
        "OpenStderr": c.stderr,
        "OpenStdout": c.stdout,
        "CanRemove": e.exit_code.is_some(),
        "ContainerID": e.container_id,
        "DetachKeys": "",
        "Pid": e.pid,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_send_to_start_an_exec_is_taken() {
        for (body, expected) in [
            (r#"{"Detach":false,"Tty":true,"ConsoleSize":[24,80]}"#, (false, true, Some((24, 80)))),
            // bollard.
            (r#"{"Detach":true,"OutputCapacity":8192}"#, (true, false, None)),
            // dockerode.
            (r#"{"hijack":true,"stdin":true,"Tty":true}"#, (false, true, None)),
            // Docker.DotNet.
            (
                r#"{"AttachStdin":true,"AttachStderr":true,"AttachStdout":true,"Tty":true}"#,
                (false, true, None),
            ),
            // go-dockerclient.
            (
                r#"{"Tty":true,"InputStream":{},"OutputStream":{"a":1},"ErrorStream":null,"RawTerminal":true}"#,
                (false, true, None),
            ),
        ] {
            assert_eq!(read_start(body.as_bytes()).expect(body), expected, "{body}");
        }
        let e = read_start(br#"{"Nope":true}"#).expect_err("nobody sends it");
        assert!(e.message.starts_with("Nope is not supported"), "{}", e.message);
    }
}
