//! `GET /distribution/NAME/json`: asked by `service create` to pin an image's digest.

use axum::Router;
use axum::extract::Path;
use axum::routing::get;

use crate::error::ApiError;
use crate::state::ApiState;

pub(super) fn routes() -> Router<ApiState> {
    Router::new().route("/distribution/{*name}", get(distribution))
}

/// Clients take 404 as "go on with the reference as it is".
async fn distribution(Path(name): Path<String>) -> ApiError {
    match name.strip_suffix("/json") {
        Some(name) => ApiError::not_found(format!(
            "no registry is asked for {name} by this version of Skep: the image is used as each node has it"
        )),
        None => ApiError::page_not_found(),
    }
}
