//! `GET /events`.

use std::io;
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::routing::get;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use serde::Deserialize;
use serde_json::{Value, json};
use skep_engine::{Event, Reference};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::body;
use crate::convert::time;
use crate::error::{ApiError, ApiResult};
use crate::filters::Filters;
use crate::state::ApiState;

/// The names `events --filter` knows.
const FILTERS: &[&str] = &[
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
];

pub(super) fn routes() -> Router<ApiState> {
    Router::new().route("/events", get(events))
}

#[derive(Deserialize)]
struct Events {
    since: Option<String>,
    until: Option<String>,
    filters: Option<String>,
}

async fn events(State(s): State<ApiState>, Query(q): Query<Events>) -> ApiResult {
    let since = time::parse("since", q.since.as_deref().unwrap_or_default())?;
    let until = time::parse("until", q.until.as_deref().unwrap_or_default())?;
    if let (Some(since), Some(until)) = (since, until)
        && since > until
    {
        let [since, until] = [since, until].map(|ns| ns / 1_000_000_000);
        return Err(ApiError::bad_request(format!(
            "`since` time ({since}) cannot be after `until` time ({until})"
        )));
    }
    let filters = Filters::parse(q.filters.as_deref(), FILTERS)?;
    let (past, live) = s.engine().follow_events();
    // Without `since` only what comes is shown, unless `until` asks for what was.
    let from = since.unwrap_or(if until.is_some() { 0 } else { i64::MAX });
    let past: Vec<Event> =
        past.into_iter().filter(|e| e.time_ns >= from && until.is_none_or(|u| e.time_ns <= u)).collect();
    let lines = futures::stream::iter(past)
        .chain(following(live, until))
        .filter(move |e| std::future::ready(matches(&filters, e)))
        .map(|e| Ok::<Bytes, io::Error>(body::line(&event(&e))));
    Ok(body::stream("application/json", lines))
}

/// What comes, up to a time; nothing when that is past.
fn following(live: Receiver<Event>, until: Option<i64>) -> impl Stream<Item = Event> + Send {
    let left = until.map(|u| Duration::from_nanos(u.saturating_sub(time::now_ns()).max(0) as u64));
    let end = async move {
        match left {
            Some(left) => tokio::time::sleep(left).await,
            None => std::future::pending().await,
        }
    };
    let events = futures::stream::unfold(live, |mut live| async move {
        loop {
            match live.recv().await {
                Ok(event) => return Some((event, live)),
                Err(RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "a client reads events too slowly and has lost some");
                }
                Err(RecvError::Closed) => return None,
            }
        }
    });
    events.take_until(Box::pin(end))
}

fn matches(filters: &Filters, e: &Event) -> bool {
    let attribute = |k: &str| e.attributes.get(k).map(String::as_str);
    let names = |kind: &str| {
        filters.any(kind, |v| {
            e.kind == kind && (e.id.starts_with(v) || attribute("name") == Some(v))
                || kind == "image" && is_image(e, v)
        })
    };
    // `exec_create: sh` is matched by `exec_create` too.
    let action = e.action.split(':').next().unwrap_or_default();
    filters.any("event", |v| v == e.action || v == action)
        && filters.any("type", |v| v == e.kind)
        && filters.any("scope", |v| v == scope(e))
        && filters.labels("label", attribute)
        && [
            "container",
            "image",
            "network",
            "volume",
            "service",
            "node",
            "daemon",
            "plugin",
            "config",
            "secret",
        ]
        .iter()
        .all(|kind| names(kind))
}

/// Whether an event is about an image, or about a container of it: by its name with or without the tag.
fn is_image(e: &Event, asked: &str) -> bool {
    let name = e.attributes.get(if e.kind == "image" { "name" } else { "image" });
    let of_image = (e.kind == "image").then_some(&e.id);
    name.into_iter().chain(of_image).any(|n| n == asked || Reference::parse(n).is_ok_and(|r| r.name == asked))
}

fn scope(e: &Event) -> &'static str {
    if e.swarm { "swarm" } else { "local" }
}

/// As clients of every API version read it.
fn event(e: &Event) -> Value {
    let mut out = json!({
        "Type": e.kind,
        "Action": e.action,
        "Actor": { "ID": e.id, "Attributes": e.attributes },
        "scope": scope(e),
        "time": e.time_ns / 1_000_000_000,
        "timeNano": e.time_ns,
    });
    if matches!(e.kind.as_str(), "container" | "image") {
        out["status"] = json!(e.action);
        out["id"] = json!(e.id);
        if let Some(image) = e.attributes.get("image") {
            out["from"] = json!(image);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_known_with_and_without_their_tag() {
        let event = |kind: &str, id: &str, key: &str, name: &str| Event {
            kind: kind.into(),
            id: id.into(),
            attributes: [(key.to_owned(), name.to_owned())].into(),
            ..Event::default()
        };
        let pull = event("image", "team/bb:1", "name", "team/bb");
        let start = event("container", "0123", "image", "team/bb:1");
        for (asked, matches) in [("team/bb:1", true), ("team/bb", true), ("bb", false), ("team/bb:2", false)]
        {
            assert_eq!(is_image(&pull, asked), matches, "{asked}");
            assert_eq!(is_image(&start, asked), matches, "{asked}");
        }
    }
}
