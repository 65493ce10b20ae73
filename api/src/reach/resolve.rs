//! The task that a client means by what would be a container's name.

use std::cmp::Reverse;

use skep_proto::v1::{ListTasksRequest, TaskState, TaskWithSpec};

use crate::convert::task;
use crate::error::{ApiError, ApiResult};
use crate::state::ApiState;

/// Fewest digits by which a container is told from a task or a slot.
const CONTAINER_ID: usize = 12;

/// The one task of this name: `web.1` is the present task of that slot (`web.NODE` of that node), `web.1.ID` that
/// very task, as are the task's ID, an unambiguous beginning of it, and the ID of its container.
pub(super) async fn find(s: &ApiState, name: &str) -> ApiResult<Option<TaskWithSpec>> {
    let parts: Vec<&str> = name.split('.').collect();
    let request = match parts.as_slice() {
        [_, .., _, id] => ListTasksRequest { ids: vec![(*id).into()], ..Default::default() },
        [service, _] => ListTasksRequest { services: vec![(*service).into()], ..Default::default() },
        _ => ListTasksRequest { ids: vec![name.into()], ..Default::default() },
    };
    let mut found = list(s, request).await?;
    match parts.as_slice() {
        [_, .., _, _] => found.retain(|t| task::name(t) == name),
        [service, place] => {
            let place = format!("{service}.{place}.");
            found.retain(|t| task::name(t).starts_with(&place));
        }
        _ if found.is_empty()
            && name.len() >= CONTAINER_ID
            && name.bytes().all(|b| b.is_ascii_hexdigit()) =>
        {
            found = list(s, ListTasksRequest { containers: vec![name.into()], ..Default::default() }).await?;
            if found.len() > 1 {
                let many = format!("Multiple IDs found with provided prefix: {name}");
                return Err(ApiError::bad_request(many));
            }
        }
        _ => {}
    }
    // Of a slot's tasks, the one that runs, else the one that was made last.
    Ok(found.into_iter().max_by_key(|t| {
        let task = t.task.as_ref();
        let runs = task.is_some_and(|t| state(t) == TaskState::Running);
        let wanted = Reverse(task.map_or(TaskState::Orphaned, |t| t.desired_state()));
        (runs, wanted, task.map_or(0, |t| t.incarnation))
    }))
}

async fn list(s: &ApiState, request: ListTasksRequest) -> ApiResult<Vec<TaskWithSpec>> {
    let found = s.control()?.list_tasks(tonic::Request::new(request)).await?.into_inner();
    Ok(found.tasks.into_iter().filter(|t| !t.service_name.is_empty()).collect())
}

/// The state a task is known to be in.
pub(super) fn state(task: &skep_proto::v1::Task) -> TaskState {
    task.status.as_ref().map_or(TaskState::New, |s| s.state())
}
