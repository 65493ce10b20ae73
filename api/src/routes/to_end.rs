//! What a request begins is carried through, whether or not its client waits for the answer: a client that is interrupted
//! leaves nothing half done. Docker's daemon does the same (it takes the cancellation off such requests' contexts). Requests
//! that are no more than a stream to or from their client end with it.

use axum::Router;
use axum::extract::Request;
use axum::http::Method;
use axum::response::{IntoResponse, Response};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::error::ApiError;
use crate::under_way::UnderWay;

/// Who waits for the answer; for those handlers that have many things to do, and need not go on with the next.
#[derive(Clone, Debug, Default)]
pub(super) struct Client(CancellationToken);

impl Client {
    pub(super) fn has_left(&self) -> bool {
        self.0.is_cancelled()
    }
}

/// Carries out a request, in a task among those `under_way` unless it ends with its client.
pub(super) async fn run(operations: Router, mut request: Request, under_way: &UnderWay) -> Response {
    let client = Client::default();
    let _waiting = client.0.clone().drop_guard();
    let ends_with_client = ends_with_client(request.method(), request.uri().path());
    request.extensions_mut().insert(client);
    let work = operations.oneshot(request);
    if ends_with_client {
        let Ok(response) = work.await;
        return response;
    }
    match under_way.spawn(work).await {
        Ok(Some(Ok(response))) => response,
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        Ok(None) | Err(_) => ApiError::unavailable("the daemon is shutting down").into_response(),
    }
}

/// Whether a request, its version cut off, changes nothing by itself, or is a transfer or a conversation.
fn ends_with_client(method: &Method, path: &str) -> bool {
    if [Method::GET, Method::HEAD].contains(method) {
        return true;
    }
    let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
    let pushes = matches!(segments.as_slice(), ["images", .., "push"]) && *method == Method::POST;
    pushes
        || matches!(
            segments.as_slice(),
            ["auth" | "build" | "plan"]
                | ["build", "agent"]
                | ["images", "create" | "load"]
                | ["containers", _, "archive" | "attach" | "wait"]
                | ["exec", _, "start"]
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_end_with_their_client_and_changes_do_not() {
        for (request, expected) in [
            ("GET /images/json", true),
            ("HEAD /_ping", true),
            ("POST /auth", true),
            ("POST /build", true),
            ("POST /build/agent", true),
            ("POST /build/prune", false),
            ("POST /commit", false),
            ("POST /containers/create", false),
            ("POST /containers/web%2Fdb/wait", true),
            ("POST /containers/wait/start", false),
            ("POST /containers/web/attach", true),
            ("PUT /containers/web/archive", true),
            ("POST /containers/web/rename", false),
            ("DELETE /containers/web", false),
            ("DELETE /containers/attach", false),
            ("POST /exec/1/start", true),
            ("POST /containers/web/exec", false),
            ("POST /images/create", true),
            ("POST /images/load", true),
            ("POST /images/localhost:5000/a/b/push", true),
            ("POST /images/a/b/tag", false),
            ("POST /images/prune", false),
            ("DELETE /images/a/push", false),
            ("POST /networks/back/connect", false),
            ("POST /plan", true),
            ("PUT /volumes/v", false),
            ("POST /services/create", false),
            ("POST /swarm/join", false),
        ] {
            let (method, path) = request.split_once(' ').expect("a method and a path");
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            assert_eq!(ends_with_client(&method, path), expected, "{request}");
        }
    }
}
