//! `GET /services/{id}/logs` and `GET /tasks/{id}/logs`.

use std::io;

use axum::Router;
use axum::extract::{Query, State};
use axum::routing::get;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use skep_proto::v1::{ListTasksRequest, LogEntry, LogSelector, SubscribeLogsRequest, Task, TaskSpec};

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
    let selector = LogSelector { service_ids: vec![service.id.clone()], task_ids: Vec::new() };
    let tasks = ListTasksRequest { services: vec![service.id], ..ListTasksRequest::default() };
    let tasks = s.control()?.list_tasks(tonic::Request::new(tasks)).await?.into_inner().tasks;
    logs(&s, selector, tasks.into_iter().filter_map(|t| t.task).collect(), &q, tty).await
}

async fn of_task(State(s): State<ApiState>, Path(id): Path<String>, Query(q): Query<LogQuery>) -> ApiResult {
    let found = tasks::find(&s, &id).await?.0;
    let tty = is_tty(found.spec.as_ref());
    let task = found.task.unwrap_or_default();
    let selector = LogSelector { service_ids: Vec::new(), task_ids: vec![task.id.clone()] };
    logs(&s, selector, vec![task], &q, tty).await
}

fn is_tty(spec: Option<&TaskSpec>) -> bool {
    spec.and_then(|s| s.container.as_ref()).is_some_and(|c| c.tty)
}

/// Those of the selected tasks, of which `tasks` are known by now.
async fn logs(s: &ApiState, selector: LogSelector, tasks: Vec<Task>, q: &LogQuery, tty: bool) -> ApiResult {
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
    let speakers = if wanted.follow { tasks } else { Vec::new() };
    Ok(body::stream(kind, pieces(entries, speakers, q.timestamps(), q.details(), tty)))
}

/// All there is, and at the end, in Docker's words, what is missing: clients stop at an error in the stream. One that follows
/// has no end to wait for: it is told at once, by a line on behalf of one of the `speakers`.
fn pieces(
    messages: LogStream,
    speakers: Vec<Task>,
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
                Some(Ok(mut m)) => {
                    match warning(&speakers, &m.warning) {
                        Some(line) => m.entries.push(line),
                        None => missing.extend(Some(m.warning).filter(|w| !w.is_empty())),
                    }
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

/// A warning as a line of standard error of the task that it is about, or of any: clients look up the task of each line.
fn warning(speakers: &[Task], why: &str) -> Option<LogEntry> {
    let about = speakers.iter().find(|t| why.contains(&t.id));
    let task = about.or(speakers.first()).filter(|_| !why.is_empty())?;
    Some(LogEntry {
        service_id: task.service_id.clone(),
        task_id: task.id.clone(),
        node_id: task.node_id.clone(),
        timestamp_ns: time::now_ns(),
        stream: u32::from(STDERR),
        data: format!("warning: {why}\n").into_bytes(),
    })
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

    #[tokio::test]
    async fn one_that_follows_is_told_at_once_what_is_missing() {
        let task =
            |id: &str| Task { id: id.into(), service_id: "s".into(), node_id: "n".into(), ..Task::default() };
        let said = skep_proto::v1::SubscribeLogsMessage {
            warning: "logs of task b: x".into(),
            ..Default::default()
        };
        // Nothing comes after it, and the stream does not end.
        let messages = futures::stream::iter([Ok(said.clone())]).chain(futures::stream::pending()).boxed();
        let mut told = Box::pin(pieces(messages, vec![task("a"), task("b")], false, true, false));
        let line = told.next().await.expect("a piece").expect("a line");
        let text = String::from_utf8_lossy(&line[8..]).into_owned();
        assert!(
            line[0] == STDERR && text.ends_with("swarm.task.id=b warning: logs of task b: x\n"),
            "{text}"
        );
        // One that does not is told at the end.
        let messages = futures::stream::iter([Ok(said)]).boxed();
        let told: Vec<_> = pieces(messages, Vec::new(), false, true, false).collect().await;
        let last = told.last().expect("a piece").as_ref().expect("a notice");
        assert!(told.len() == 1 && last[0] == stdcopy::SYSTEM_ERROR, "{last:?}");
    }

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
