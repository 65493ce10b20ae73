//! On the task's node: what comes through a tunnel is for the container of the tunnel's task, and only what looks
//! into it.

use axum::extract::Request;
use axum::http::Uri;

use super::{Asked, asked};
use crate::convert::container::TASK_LABEL;
use crate::error::{ApiError, ApiResult};
use crate::state::ApiState;

/// The container of a task.
pub(super) fn container(s: &ApiState, task: &str) -> ApiResult<String> {
    let mut containers = s.engine().list().into_iter();
    let found = containers.find(|c| c.config.labels.get(TASK_LABEL).is_some_and(|t| t == task));
    found.map(|c| c.id.to_string()).ok_or_else(|| {
        ApiError::not_found(format!(
            "No such container: the one of task {task} is not on its node: it has been removed, or could not be made (docker service ps)"
        ))
    })
}

/// Marks a request that came through a tunnel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tunnelled;

/// The request with the container's own ID in place of the task's.
pub(crate) fn admit(s: &ApiState, task: &str, mut request: Request) -> ApiResult<Request> {
    *request.uri_mut() = target(s, task, &request)?;
    request.extensions_mut().insert(Tunnelled);
    Ok(request)
}

fn target(s: &ApiState, task: &str, request: &Request) -> ApiResult<Uri> {
    let uri = request.uri();
    let refused = || {
        let what = format!("{} {}", request.method(), uri.path());
        ApiError::new(
            axum::http::StatusCode::FORBIDDEN,
            format!("{what} is not for a manager to ask of the container of task {task}"),
        )
    };
    match asked(request.method(), uri.path()).ok_or_else(refused)? {
        Asked::Container { name, operation } if name == task => {
            let query = uri.query().map(|q| format!("?{q}")).unwrap_or_default();
            let path = format!("/containers/{}/{operation}{query}", container(s, task)?);
            path.parse().map_err(|_| refused())
        }
        Asked::Exec { id, .. } => {
            let exec = s.engine().exec_inspect(id)?;
            if exec.container_id.as_str() == container(s, task)? { Ok(uri.clone()) } else { Err(refused()) }
        }
        Asked::Container { .. } => Err(refused()),
    }
}
