//! Operations Docker has and Skep does not have yet: each says so by name.

use axum::Router;
use axum::routing::{MethodFilter, get, on};

use crate::error::ApiError;
use crate::path::Path;
use crate::state::ApiState;

const POST: MethodFilter = MethodFilter::POST;

/// Method, path, and what a user calls the operation.
const LATER: &[(MethodFilter, &str, &str)] = &[(POST, "/session", "session")];

/// Objects of kinds that cannot be made yet: none is there, and `docker inspect NAME`, which asks for
/// every kind in turn, goes on to the next.
const NONE: &[(&str, &str)] = &[("/plugins/{id}/json", "plugin")];

pub(super) fn routes() -> Router<ApiState> {
    let none = NONE.iter().fold(Router::new(), |router, &(path, kind)| {
        let absent = move |Path(id): Path<String>| async move { absent(kind, &id) };
        router.route(path, get(absent).delete(absent))
    });
    // None can be installed, so none are: `docker plugin ls` shows an empty table.
    let none = none.route("/plugins", get(|| async { axum::Json(serde_json::json!([])) }));
    LATER.iter().fold(none, |router, &(method, path, name)| {
        router.route(path, on(method, move || async move { not_yet(name) }))
    })
}

fn absent(kind: &str, id: &str) -> ApiError {
    ApiError::not_found(format!("{kind} {id} not found: no {kind}s are kept by this version of Skep yet"))
}

/// The answer to an operation that is not there yet.
fn not_yet(name: &str) -> ApiError {
    ApiError::not_implemented(format!("{name} is not supported by this version of Skep yet"))
}
