//! Pull and push: what they say of themselves, as a stream of JSON lines. What fails before the first line is an
//! HTTP error; what fails later ends the stream with a line that says so.

use std::io;

use axum::http::HeaderMap;
use futures::StreamExt;
use serde_json::{Value, json};
use skep_engine::{Error, Progress, PullRequest, PushRequest, Reference};
use skep_registry::{Credentials, Platform};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::task::AbortOnDropHandle;

use super::body;
use crate::error::{ApiError, ApiResult};
use crate::state::ApiState;

/// Header with a client's credentials.
const AUTH: &str = "x-registry-auth";

/// Who a request is made as. As with Docker, a header that cannot be read is nobody.
pub(super) fn credentials(headers: &HeaderMap) -> Credentials {
    let text = headers.get(AUTH).and_then(|v| v.to_str().ok()).unwrap_or_default();
    Credentials::from_header(text).unwrap_or_else(|e| {
        tracing::warn!(error = %e, "the registry is asked without credentials");
        Credentials::default()
    })
}

/// A platform of a query in JSON, as clients send it since API 1.48; empty is none.
pub(super) fn platform_of_json(text: &str) -> ApiResult<Option<Platform>> {
    let some = Some(text).filter(|t| !t.is_empty());
    some.map(serde_json::from_str)
        .transpose()
        .map_err(|e| ApiError::bad_request(format!("failed to parse platform: {e}")))
}

/// A platform of a query; empty is none.
pub(super) fn platform(text: &str) -> ApiResult<Option<Platform>> {
    let some = Some(text).filter(|t| !t.is_empty());
    some.map(Platform::parse).transpose().map_err(|e| ApiError::bad_request(e.to_string()))
}

/// `POST /images/create?fromImage=`.
pub(super) async fn pull(s: &ApiState, name: &str, wanted: &str, headers: &HeaderMap) -> ApiResult {
    let request = PullRequest {
        reference: Reference::parse(name)?,
        platform: platform(wanted)?,
        credentials: credentials(headers),
    };
    let images = s.engine().images().clone();
    stream(|tell| async move { images.pull(request, &|p| tell.say(p)).await.map(drop) }).await
}

/// `POST /images/NAME/push`; without a tag, every tag of the name.
pub(super) async fn push(s: &ApiState, name: &str, headers: &HeaderMap) -> ApiResult {
    let request = PushRequest { reference: Reference::parse(name)?, credentials: credentials(headers) };
    let images = s.engine().images().clone();
    stream(|tell| async move { images.push(request, &|p| tell.say(p)).await }).await
}

/// Runs a transfer and answers with what it says. Who hangs up ends it.
pub(super) async fn stream<F, W>(run: F) -> ApiResult
where
    F: FnOnce(Tell) -> W,
    W: Future<Output = Result<(), Error>> + Send + 'static,
{
    let (send, mut said) = mpsc::unbounded_channel();
    let work = AbortOnDropHandle::new(tokio::spawn(run(Tell(send))));
    let Some(first) = said.recv().await else {
        return match work.await {
            Ok(Ok(())) => Ok(body::stream("application/json", futures::stream::empty())),
            Ok(Err(e)) => Err(e.into()),
            Err(e) => Err(ApiError::internal(e.to_string())),
        };
    };
    let said = futures::stream::iter([first]).chain(UnboundedReceiverStream::new(said)).map(|p| line(&p));
    let end = futures::stream::once(work).filter_map(|ended| {
        let why = match ended {
            Ok(Ok(())) => None,
            Ok(Err(e)) => Some(ApiError::from(e)),
            Err(e) => Some(ApiError::internal(e.to_string())),
        };
        let line = why.map(|e| json!({ "errorDetail": { "message": e.message }, "error": e.message }));
        futures::future::ready(line)
    });
    let lines = said.chain(end).map(|value| Ok::<_, io::Error>(body::line(&value)));
    Ok(body::stream("application/json", lines))
}

/// Takes what a transfer says.
pub(super) struct Tell(mpsc::UnboundedSender<Progress>);

impl Tell {
    pub(super) fn say(&self, p: Progress) {
        // Nobody listens when the client has hung up, which ends the transfer too.
        let _ = self.0.send(p);
    }
}

pub(super) fn line(p: &Progress) -> Value {
    match p {
        Progress::Line { about: Some(id), text } => json!({ "status": text, "id": id }),
        Progress::Line { about: None, text } => json!({ "status": text }),
        Progress::Layer { id, text, bytes: None } => {
            json!({ "status": text, "progressDetail": {}, "id": id })
        }
        Progress::Layer { id, text, bytes: Some((done, all)) } => {
            let mut line = json!({
                "status": text,
                "progressDetail": { "current": done, "total": all },
                "progress": bar(*done, *all),
            });
            if !id.is_empty() {
                line["id"] = json!(id);
            }
            line
        }
        Progress::Aux(value) => json!({ "progressDetail": {}, "aux": value }),
    }
}

/// `[=====>     ]  1.5MB/3MB`, for clients that do not draw their own. Of what nobody knows the end of, the beginning.
fn bar(done: u64, all: u64) -> String {
    if all == 0 && done > 0 {
        return format!("{:>8}", size(done));
    }
    let half = done.saturating_mul(50).checked_div(all).unwrap_or(50).min(50) as usize;
    let rest = " ".repeat(49usize.saturating_sub(half));
    format!("[{}>{rest}] {:>8}/{}", "=".repeat(half), size(done), size(all))
}

/// Four digits and a decimal unit, as go-units writes them.
fn size(bytes: u64) -> String {
    let (mut n, mut unit) = (bytes as f64, 0);
    while n >= 1000.0 && unit < 5 {
        n /= 1000.0;
        unit += 1;
    }
    let digits = if n >= 1000.0 {
        0
    } else if n >= 100.0 {
        1
    } else if n >= 10.0 {
        2
    } else {
        3
    };
    let text = format!("{n:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", ["B", "kB", "MB", "GB", "TB", "PB"][unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_docker_s() {
        assert_eq!(size(0), "0B");
        assert_eq!(size(1_536_000), "1.536MB");
        assert_eq!(size(314_572_800), "314.6MB");
        assert_eq!(bar(0, 100), format!("[>{}]       0B/100B", " ".repeat(49)));
        assert_eq!(bar(100, 100), format!("[{}>]     100B/100B", "=".repeat(50)));
    }
}
