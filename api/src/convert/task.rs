//! Tasks as `service ps` and `inspect` show them, and their filters.

use serde_json::{Value, json};
use skep_proto::v1::{ListTasksRequest, PortConfig, PortProtocol, PublishMode, TaskState, TaskWithSpec};
use skep_registry::system_words::in_gos_words;

use super::names::Named;
use super::service::task_template;
use super::{created, generic, number, time, updated, version};
use crate::error::{ApiError, ApiResult};
use crate::filters::Filters;

/// The names a listing of tasks knows.
pub const FILTERS: &[&str] =
    &["_up-to-date", "desired-state", "id", "label", "name", "node", "runtime", "service"];

/// The part of the filters that the control service answers.
pub fn request(filters: &Filters) -> ApiResult<ListTasksRequest> {
    let states: Vec<_> = TaskState::WORDS.iter().map(|(_, word)| *word).collect();
    filters.check("desired-state", &states)?;
    filters.check("runtime", &["container", "plugin", "attachment"])?;
    let attachments = filters.values("runtime").any(|r| r == "attachment");
    if attachments && filters.values("runtime").any(|r| r == "container") {
        return Err(ApiError::bad_request(
            "invalid filter 'runtime': ask for containers and attachments one after the other",
        ));
    }
    Ok(ListTasksRequest {
        ids: filters.list("id"),
        services: filters.list("service"),
        nodes: filters.list("node"),
        desired_states: filters.list("desired-state"),
        up_to_date: filters.flag("_up-to-date")?.unwrap_or(false),
        attachments,
        containers: Vec::new(),
    })
}

/// The part it does not.
pub fn matches(filters: &Filters, t: &TaskWithSpec) -> bool {
    let labels = t.spec.as_ref().and_then(|s| s.container.as_ref()).map(|c| &c.labels);
    // There are no plugins.
    filters.any("runtime", |v| v != "plugin")
        && filters.any("name", |v| name(t).starts_with(v))
        && filters.labels("label", |k| labels.and_then(|l| l.get(k)).map(String::as_str))
}

/// `service.slot.id`, or `service.node.id` where the task is bound to its node.
pub fn name(t: &TaskWithSpec) -> String {
    t.task.as_ref().map(|task| task.name(&t.service_name)).unwrap_or_default()
}

/// A task.
pub fn task(t: &TaskWithSpec) -> Value {
    let task = t.task.clone().unwrap_or_default();
    let slot = task.shown_slot();
    let status = task.status.unwrap_or_default();
    let mut shown = json!({
        "Timestamp": time::from_ms(status.timestamp_ms),
        "State": TaskState::word(status.state),
        "Message": status.message,
        "PortStatus": {},
    });
    if !status.err.is_empty() {
        shown["Err"] = in_gos_words(&status.err).into();
    }
    if let Some(c) = status.container.filter(|c| !c.container_id.is_empty()) {
        shown["ContainerStatus"] =
            json!({ "ContainerID": c.container_id, "PID": c.pid, "ExitCode": c.exit_code });
    }
    let host: Vec<Value> =
        task.ports.iter().filter(|p| p.mode == PublishMode::Host as i32).map(port).collect();
    if !host.is_empty() {
        shown["PortStatus"] = json!({ "Ports": host });
    }
    let mut out = json!({
        "ID": task.id,
        "Version": version(task.meta.as_ref()),
        "CreatedAt": created(task.meta.as_ref()),
        "UpdatedAt": updated(task.meta.as_ref()),
        "Labels": {},
        "Spec": task_template(&t.spec.clone().unwrap_or_default()),
        "ServiceID": task.service_id,
        "Status": shown,
        "DesiredState": TaskState::word(task.desired_state),
    });
    if let Some(attachment) = task.attachment {
        out["Spec"] = json!({
            "NetworkAttachmentSpec": { "ContainerID": attachment.container_id },
            "ForceUpdate": 0,
            "Runtime": "attachment",
        });
        if let Some(out) = out.as_object_mut() {
            out.remove("ServiceID");
        }
    }
    if slot != 0 {
        out["Slot"] = slot.into();
    }
    if !task.generic.is_empty() {
        out["GenericResources"] = generic::write(&task.generic);
    }
    if !task.moved_from.is_empty() {
        out["MovedFrom"] = task.moved_from.into();
    }
    if let Some(iteration) = task.job_iteration {
        out["JobIteration"] = number(iteration);
    }
    if !task.node_id.is_empty() {
        out["NodeID"] = task.node_id.into();
    }
    if !task.addresses.is_empty() {
        let attachment = |a: &skep_proto::v1::TaskAddress| {
            let all = [&a.addr, &a.addr6].into_iter().filter(|addr| !addr.is_empty());
            json!({ "Network": { "ID": a.network_id }, "Addresses": all.collect::<Vec<_>>() })
        };
        out["NetworksAttachments"] = task.addresses.iter().map(attachment).collect();
    }
    out
}

fn port(p: &PortConfig) -> Value {
    json!({
        "Protocol": PortProtocol::word(p.protocol),
        "TargetPort": p.target_port,
        "PublishedPort": p.published_port,
        "PublishMode": PublishMode::word(p.mode),
    })
}

#[cfg(test)]
mod tests {
    use skep_proto::v1::{Task, TaskStatus};

    use super::*;

    fn web(slot: u64, node: &str) -> TaskWithSpec {
        let status =
            TaskStatus { state: TaskState::Rejected as i32, err: "no image".into(), ..TaskStatus::default() };
        let task =
            Task { id: "t1".into(), slot, node_id: node.into(), status: Some(status), ..Task::default() };
        TaskWithSpec { task: Some(task), spec: None, service_name: "web".into() }
    }

    #[test]
    fn tasks_are_named_by_slot_or_node() {
        assert_eq!(name(&web(2, "n")), "web.2.t1");
        assert_eq!(name(&web(0, "n")), "web.n.t1");
    }

    #[test]
    fn a_task_shows_why_it_does_not_run() {
        let shown = task(&web(1, ""));
        assert_eq!(shown["Status"]["State"], "rejected");
        assert_eq!(shown["Status"]["Err"], "no image");
        assert_eq!(shown.get("NodeID"), None);
    }

    #[test]
    fn filters_split_between_control_and_here() {
        let f = Filters::parse(Some(r#"{"_up-to-date":["true"],"service":["s"],"name":["web.2"]}"#), FILTERS)
            .expect("valid");
        let r = request(&f).expect("valid");
        assert!(r.up_to_date && r.services == ["s"]);
        assert!(matches(&f, &web(2, "")) && !matches(&f, &web(1, "")));
        let bad = Filters::parse(Some(r#"{"desired-state":["dead"]}"#), FILTERS).expect("known");
        assert!(request(&bad).is_err());
    }
}
