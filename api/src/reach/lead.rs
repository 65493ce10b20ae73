//! On the manager that is asked: is it a container of ours, or a task's elsewhere?

use axum::extract::Request;
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use skep_engine::Error;
use skep_proto::v1::{TaskState, TaskWithSpec};

use super::resolve::{find, state};
use super::{Asked, SEPARATOR, asked, forward};
use crate::convert::names::Named;
use crate::convert::task;
use crate::error::{ApiError, ApiResult};
use crate::state::ApiState;
use crate::version::Version;

/// The request as it is to be served here, or the answer of the node it was meant for.
pub(crate) async fn lead(s: ApiState, spoken: Version, mut request: Request) -> Result<Request, Response> {
    let path = request.uri().path().to_owned();
    let answer = match asked(request.method(), &path) {
        // A worker knows of no tasks but its own, which are containers here.
        _ if s.swarm().control().is_none() => return Ok(request),
        None => match others(&s, &path).await {
            None => return Ok(request),
            Some(e) => Err(e),
        },
        Some(Asked::Container { name, operation }) => match of_container(&s, name).await {
            Ok(Where::Here(None)) => return Ok(request),
            Ok(Where::Here(Some(id))) => {
                *request.uri_mut() = at(request.uri(), &format!("/containers/{id}/{operation}"));
                return Ok(request);
            }
            Ok(Where::Elsewhere(to)) => {
                let target = at(request.uri(), &format!("/containers/{}/{operation}", to.task_id));
                forward::forward(&s, spoken, &to, &target, request).await
            }
            Err(e) => Err(e),
        },
        Some(Asked::Exec { id, operation }) => {
            let Some((task_id, exec)) = id.split_once(SEPARATOR) else { return Ok(request) };
            let target = at(request.uri(), &format!("/exec/{exec}/{operation}"));
            match of_exec(&s, id, task_id).await {
                Ok(to) if to.node_id == s.swarm().local().node_id => {
                    *request.uri_mut() = target;
                    return Ok(request);
                }
                Ok(to) => forward::forward(&s, spoken, &to, &target, request).await,
                Err(e) => Err(e),
            }
        }
    };
    Err(answer.unwrap_or_else(IntoResponse::into_response))
}

/// The node and the task a request is for.
pub(super) struct To {
    pub node_id: String,
    pub task_id: String,
}

enum Where {
    /// A container of this host, by the name it was asked for or by this ID.
    Here(Option<String>),
    Elsewhere(To),
}

async fn of_container(s: &ApiState, name: &str) -> ApiResult<Where> {
    // A container of this host comes first, whatever its name.
    if !matches!(s.engine().inspect(name), Err(Error::NoSuchContainer { .. })) {
        return Ok(Where::Here(None));
    }
    let Some(found) = find(s, name).await? else { return Ok(Where::Here(None)) };
    let to = placed(&found)?;
    if to.node_id != s.swarm().local().node_id {
        return Ok(Where::Elsewhere(to));
    }
    super::admit::container(s, &to.task_id).map(|id| Where::Here(Some(id)))
}

async fn of_exec(s: &ApiState, id: &str, task_id: &str) -> ApiResult<To> {
    let gone = || ApiError::not_found(format!("No such exec instance: {id}"));
    let found = find(s, task_id).await?.filter(|t| t.task.as_ref().is_some_and(|t| t.id == task_id));
    placed(&found.ok_or_else(gone)?)
}

/// Where a task's container is, or why there is none.
fn placed(found: &TaskWithSpec) -> ApiResult<To> {
    let name = task::name(found);
    let Some(t) = &found.task else { return Err(ApiError::internal("a task without its data")) };
    let (known, status) = (state(t), t.status.clone().unwrap_or_default());
    if !t.node_id.is_empty() && known >= TaskState::Ready {
        return Ok(To { node_id: t.node_id.clone(), task_id: t.id.clone() });
    }
    let why = [status.err.as_str(), status.message.as_str()].into_iter().find(|w| !w.is_empty());
    let why = why.map(|w| format!(" ({w})")).unwrap_or_default();
    Err(ApiError::conflict(format!(
        "task {name} has no container yet: it is {}{why}; wait until it runs (docker service ps {})",
        TaskState::word(status.state),
        found.service_name
    )))
}

/// Why an operation is refused that is not for the containers of other nodes, if it means one.
async fn others(s: &ApiState, path: &str) -> Option<ApiError> {
    let name = path.strip_prefix("/containers/")?.split('/').next()?;
    if matches!(name, "json" | "create" | "prune")
        || !matches!(s.engine().inspect(name), Err(Error::NoSuchContainer { .. }))
    {
        return None;
    }
    let found = find(s, name).await.ok().flatten()?;
    let node = found.task.as_ref().map_or("", |t| t.node_id.as_str());
    if node.is_empty() || node == s.swarm().local().node_id {
        return None;
    }
    Some(ApiError::not_found(format!(
        "No such container: {name}: it is a task on node {node}; from here one can exec, attach, cp, logs, stats, top, wait and inspect it, and change it by its service {}",
        found.service_name
    )))
}

/// The same query at another path.
fn at(uri: &Uri, path: &str) -> Uri {
    let target = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    // Made of parts of a valid one and of IDs.
    target.parse().unwrap_or_else(|_| uri.clone())
}
