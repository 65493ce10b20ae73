//! `GET /services/{id}/logs` and `GET /tasks/{id}/logs`.

use std::io;

use axum::Router;
use axum::extract::{Query, State};
use axum::routing::get;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use skep_proto::v1::{LogEntry, LogSelector, SubscribeLogsRequest, TaskSpec};

use super::container_streams::LogQuery;
use super::{body, services, tasks};
use crate::convert::time;
use crate::error::ApiResult;
use crate::path::Path;
use crate::state::ApiState;
use crate::stdcopy::{self, STDERR, STDOUT};
use crate::swarm::LogStream;

pub(super) fn routes() -> Router<ApiState> {
    Router::new().route("/services/{id}/logs", get(of_service)).route("/tasks/{id}/logs", get(of_task))
}

async fn of_service(
    State(s): State<ApiState>,
    Path(name): Path<String>,
    Query(q): Query<LogQuery>,
) -> ApiResult {
    let service = services::find(&s, &name).await?.0.service.unwrap_or_default();
    let tty = is_tty(service.spec.as_ref().and_then(|s| s.task.as_ref()));
    let selector = LogSelector { service_ids: vec![service.id], task_ids: Vec::new() };
    logs(&s, selector, &q, tty).await
}

async fn of_task(State(s): State<ApiState>, Path(id): Path<String>, Query(q): Query<LogQuery>) -> ApiResult {
    let found = tasks::find(&s, &id).await?.0;
    let tty = is_tty(found.spec.as_ref());
    let id = found.task.map(|t| t.id).unwrap_or_default();
    let selector = LogSelector { service_ids: Vec::new(), task_ids: vec![id] };
    logs(&s, selector, &q, tty).await
}

fn is_tty(spec: Option<&TaskSpec>) -> bool {
    spec.and_then(|s| s.container.as_ref()).is_some_and(|c| c.tty)
}

async fn logs(s: &ApiState, selector: LogSelector, q: &LogQuery, tty: bool) -> ApiResult {
    let wanted = q.read()?;
    let options = skep_proto::v1::LogOptions {
        follow: wanted.follow,
        stdout: wanted.stdout,
        stderr: wanted.stderr,
        tail: wanted.tail.and_then(|n| i64::try_from(n).ok()).unwrap_or(-1),
        since_ns: wanted.since_ns.unwrap_or(0),
        until_ns: wanted.until_ns.unwrap_or(0),
    };
    let request = SubscribeLogsRequest { selector: Some(selector), options: Some(options) };
    let entries = s.logs()?.subscribe(request).await?;
    let kind = if tty { stdcopy::RAW } else { stdcopy::MULTIPLEXED };
    Ok(body::stream(kind, pieces(entries, q.timestamps(), q.details(), tty)))
}

/// All there is, and at the end, in Docker's words, what is missing: clients stop at an error in the stream.
fn pieces(
    messages: LogStream,
    timestamps: bool,
    details: bool,
    tty: bool,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let ended = futures::stream::once(async { None });
    messages
        .map(Some)
        .chain(ended)
        .scan(Vec::new(), move |missing: &mut Vec<String>, message| {
            let pieces: Vec<io::Result<Bytes>> = match message {
                Some(Ok(m)) => {
                    missing.extend(Some(m.warning).filter(|w| !w.is_empty()));
                    m.entries.iter().map(|e| Ok(entry(e, timestamps, details, tty))).collect()
                }
                // The stream has begun, so there is no status.
                Some(Err(status)) => {
                    missing.push(status.message().to_owned());
                    Vec::new()
                }
                None if missing.is_empty() => Vec::new(),
                None => vec![Ok(notice(&format!("{INCOMPLETE} {}", missing.join(", ")), tty))],
            };
            std::future::ready(Some(futures::stream::iter(pieces)))
        })
        .flatten()
}

/// What Docker says before the reasons.
const INCOMPLETE: &str =
    "warning: incomplete log stream. some logs could not be retrieved for the following reasons:";

/// One line as the client's `service logs` takes it apart: time, details, text.
fn entry(e: &LogEntry, timestamps: bool, details: bool, tty: bool) -> Bytes {
    let mut prefix = String::new();
    if timestamps {
        prefix.push_str(&time::fixed(e.timestamp_ns));
        prefix.push(' ');
    }
    if details {
        prefix.push_str(&format!(
            "com.docker.swarm.node.id={},com.docker.swarm.service.id={},com.docker.swarm.task.id={} ",
            e.node_id, e.service_id, e.task_id
        ));
    }
    if tty {
        return [prefix.as_bytes(), &e.data].concat().into();
    }
    let stream = if e.stream == u32::from(STDERR) { STDERR } else { STDOUT };
    stdcopy::frame(stream, prefix.as_bytes(), &e.data)
}

/// Stream 3 carries errors of the daemon: the client prints them and ends.
fn notice(text: &str, tty: bool) -> Bytes {
    let text = format!("{text}\n");
    if tty { text.into() } else { stdcopy::frame(stdcopy::SYSTEM_ERROR, b"", text.as_bytes()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_framed_as_the_client_takes_them_apart() {
        let e = LogEntry {
            service_id: "s".into(),
            task_id: "t".into(),
            node_id: "n".into(),
            timestamp_ns: 0,
            stream: 2,
            data: b"hi\n".to_vec(),
        };
        let line = "com.docker.swarm.node.id=n,com.docker.swarm.service.id=s,com.docker.swarm.task.id=t hi\n";
        let framed = entry(&e, false, true, false);
        assert_eq!(framed[..8], [2, 0, 0, 0, 0, 0, 0, line.len() as u8]);
        assert_eq!(framed[8..], *line.as_bytes());
        assert_eq!(&entry(&e, true, false, true)[..], b"1970-01-01T00:00:00.000000000Z hi\n");
    }
}
