//! `import`: an image of a root file system, which the client sends or the daemon fetches.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::http::StatusCode;
use serde_json::json;
use skep_engine::{ImportRequest, Progress};
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::io::StreamReader;

use super::transfer::{self, Tell};
use super::{body, images};
use crate::error::{ApiError, ApiResult};
use crate::state::ApiState;

/// Shortest time between two messages of how far it has got.
const BREATH: Duration = Duration::from_millis(100);

/// `POST /images/create?fromSrc=`.
pub(super) async fn import(s: &ApiState, q: &[(String, String)], request: Request) -> ApiResult {
    let value = |key: &str| q.iter().find(|(k, _)| k == key).map_or("", |(_, v)| v.as_str());
    let text = |key: &str| Some(value(key).to_owned()).filter(|v| !v.is_empty());
    let source = value("fromSrc");
    let asked = ImportRequest {
        reference: text("repo").map(|repo| images::named(&repo, value("tag"))),
        changes: q.iter().filter(|(k, _)| k == "changes").map(|(_, v)| v.clone()).collect(),
        message: text("message").unwrap_or_else(|| format!("Imported from {source}")),
        platform: transfer::platform(value("platform"))?,
    };
    if source != "-" {
        return fetch(s, source, asked).await;
    }
    let id = s.engine().images().import(body::reader(request), asked).await?;
    let line = body::line(&json!({ "status": id }));
    Ok(body::stream("application/json", futures::stream::iter([Ok::<_, io::Error>(line)])))
}

async fn fetch(s: &ApiState, source: &str, asked: ImportRequest) -> ApiResult {
    let url = if source.contains("://") { source.to_owned() } else { format!("http://{source}") };
    let images = s.engine().images().clone();
    let fetching = images.registries().fetch(&url, None).await.map_err(failed)?;
    transfer::stream(|tell| async move {
        tell.say(Progress::Line { about: None, text: format!("Downloading from {url}") });
        let size = fetching.size().unwrap_or(0);
        let bytes = StreamReader::new(Box::pin(fetching.into_stream()));
        let told = Told { bytes, tell: &tell, done: 0, size, last: Instant::now() };
        let id = images.import(told, asked).await?;
        tell.say(Progress::Line { about: None, text: id });
        Ok(())
    })
    .await
}

/// The status Docker gives to what the server answered.
fn failed(e: skep_registry::Error) -> ApiError {
    let status = match e.status().map(|s| s.as_u16()) {
        Some(404) => StatusCode::NOT_FOUND,
        Some(400) => StatusCode::BAD_REQUEST,
        Some(401) => StatusCode::UNAUTHORIZED,
        Some(403) => StatusCode::FORBIDDEN,
        _ if matches!(e, skep_registry::Error::Invalid(_)) => StatusCode::BAD_REQUEST,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    ApiError::new(status, e.to_string())
}

/// Tells how far a file has come.
struct Told<'a, R> {
    bytes: R,
    tell: &'a Tell,
    done: u64,
    /// 0 = not known.
    size: u64,
    last: Instant,
}

impl<R: AsyncRead + Unpin> AsyncRead for Told<'_, R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.bytes).poll_read(cx, buf);
        let read = buf.filled().len() - before;
        self.done += read as u64;
        if self.last.elapsed() >= BREATH || polled.is_ready() && read == 0 {
            self.last = Instant::now();
            let bytes = Some((self.done, self.size));
            self.tell.say(Progress::Layer { id: String::new(), text: "Importing".into(), bytes });
        }
        polled
    }
}
