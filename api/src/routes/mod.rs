//! One file per group of operations, and the router that joins them.

mod archive;
mod body;
mod build;
mod container_streams;
mod container_usage;
mod containers;
mod dependencies;
mod distribution;
mod events;
mod exec;
mod foresight;
mod images;
mod import;
mod later;
mod networks;
mod nodes;
mod registry;
mod service_logs;
mod services;
mod swarm;
mod system;
mod tasks;
mod to_end;
mod transfer;
mod upload;
mod usage;
mod volumes;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::Uri;
use axum::response::{IntoResponse, Response};

use crate::error::ApiError;
use crate::link_path;
use crate::state::ApiState;
use crate::under_way::UnderWay;
use crate::version::{self, Version};

/// The version a request speaks, as an extension of the request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spoken(pub Version);

/// All operations. Serve it with [`crate::serve`], or call it as a tower service in tests.
pub fn router(state: ApiState) -> Router {
    let asked = state.clone();
    router_with(state, move |spoken, request| crate::reach::lead(asked.clone(), spoken, request))
}

/// Those of them that a manager may ask on behalf of a task of this node, for that task's container.
pub(crate) fn router_of_task(state: ApiState, task: String) -> Router {
    let asked = state.clone();
    router_with(state, move |_, request| {
        let admitted = crate::reach::admit(&asked, &task, request);
        std::future::ready(admitted.map_err(IntoResponse::into_response))
    })
}

/// All operations, each request as `admitted` makes it, if it does not answer by itself.
fn router_with<F>(
    state: ApiState,
    admitted: impl Fn(Version, Request) -> F + Clone + Send + Sync + 'static,
) -> Router
where
    F: Future<Output = Result<Request, Response>> + Send,
{
    let daemon_version = state.info().version.clone();
    let under_way = state.under_way().clone();
    let operations = Router::new()
        .merge(system::routes())
        .merge(events::routes())
        .merge(build::routes())
        .merge(images::routes())
        .merge(containers::routes())
        .merge(container_streams::routes())
        .merge(archive::routes())
        .merge(container_usage::routes())
        .merge(exec::routes())
        .merge(networks::routes())
        .merge(volumes::routes())
        .merge(usage::routes())
        .merge(distribution::routes())
        .merge(registry::routes())
        .merge(swarm::routes())
        .merge(nodes::routes())
        .merge(services::routes())
        .merge(service_logs::routes())
        .merge(tasks::routes())
        .merge(foresight::routes())
        .merge(dependencies::routes())
        .merge(later::routes())
        .fallback(|| async { ApiError::page_not_found() })
        .method_not_allowed_fallback(|| async { ApiError::page_not_found() })
        .with_state(state);
    // The version is cut off the path before any route is looked up.
    Router::new().fallback(move |request: Request| {
        let (operations, daemon_version) = (operations.clone(), daemon_version.clone());
        let (admitted, under_way) = (admitted.clone(), under_way.clone());
        async move {
            let mut response = dispatch(operations, &under_way, admitted, request).await;
            version::headers(response.headers_mut(), &daemon_version);
            response
        }
    })
}

async fn dispatch<F>(
    operations: Router,
    under_way: &UnderWay,
    admitted: impl Fn(Version, Request) -> F,
    request: Request<Body>,
) -> Response
where
    F: Future<Output = Result<Request, Response>>,
{
    let mut request = match body::take_in(request).await {
        Ok(request) => request,
        Err(e) => return e.into_response(),
    };
    let (spoken, uri) = match version::negotiate(request.uri()) {
        Ok(negotiated) => negotiated,
        Err(e) => return e.into_response(),
    };
    let uri = match link_path::encoded(request.method(), uri) {
        Ok(uri) => uri,
        Err(e) => return e.into_response(),
    };
    tracing::debug!(method = %request.method(), uri = %shown(&uri), "request");
    *request.uri_mut() = uri;
    request.extensions_mut().insert(Spoken(spoken));
    match admitted(spoken, request).await {
        Ok(request) => to_end::run(operations, request, under_way).await,
        Err(answer) => answer,
    }
}

fn shown(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", |p| p.as_str())
}
