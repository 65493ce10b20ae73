//! Reads: selections of the store, with what only the moment knows (leader, counts) filled in.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use skep_proto::v1::service_spec::Mode;
use skep_proto::v1::{self, TaskState};
use tonic::Status;

use super::lookup;
use crate::context::Context;
use crate::orchestrator::slot::SlotKey;
use crate::orchestrator::task::{current, goal};
use crate::store::{LookupError, StoreView};

pub(crate) fn service_name(service: &v1::Service) -> &str {
    service.spec.as_ref().and_then(|s| s.annotations.as_ref()).map_or("", |a| &a.name)
}

pub(super) fn network_name(network: &v1::Network) -> &str {
    network.spec.as_ref().and_then(|s| s.annotations.as_ref()).map_or("", |a| &a.name)
}

/// The service a user means. One that is being removed is gone for users, so its name is free.
pub(super) fn find_service<'a>(view: &'a StoreView, reference: &str) -> Result<&'a Arc<v1::Service>, Status> {
    let named = || view.service_by_name(reference).filter(|s| !s.removing);
    let found = view.service(reference).or_else(named);
    let found = found.map_or_else(|| view.find_service(reference).map_err(lookup), Ok)?;
    if found.removing {
        let reference = reference.to_owned();
        return Err(lookup(LookupError::NotFound { kind: "service", reference }));
    }
    Ok(found)
}

pub(super) fn node(ctx: &Context, node: &v1::Node) -> v1::Node {
    let mut node = node.clone();
    if let Some(manager) = &mut node.manager {
        let leader = ctx.leader().is_some_and(|l| l.node_id == node.id);
        manager.leader = leader;
        let member = ctx.consensus.members().into_iter().find(|m| m.peer.node_id == node.id);
        manager.learner = member.as_ref().is_some_and(|m| !m.voter);
        let heard = if ctx.is_leader() {
            member.is_some_and(|m| m.reachable)
        } else {
            leader || node.id == ctx.node_id || node.state == i32::from(v1::NodeState::Ready)
        };
        manager.reachable = heard && !manager.learner;
    }
    node
}

pub(super) fn nodes(ctx: &Context, view: &StoreView, wanted: &[String]) -> Result<Vec<v1::Node>, Status> {
    if wanted.is_empty() {
        return Ok(view.nodes().map(|n| node(ctx, n)).collect());
    }
    select(wanted, |r| view.find_node(r)).map(|found| found.into_iter().map(|n| node(ctx, n)).collect())
}

pub(super) fn networks(view: &StoreView, wanted: &[String]) -> Result<Vec<v1::Network>, Status> {
    if wanted.is_empty() {
        return Ok(view.networks().map(|n| v1::Network::clone(n)).collect());
    }
    select(wanted, |r| view.find_network(r))
        .map(|found| found.into_iter().map(|n| v1::Network::clone(n)).collect())
}

pub(super) fn services(view: &StoreView, wanted: &[String]) -> Result<Vec<v1::ServiceWithStatus>, Status> {
    if wanted.is_empty() {
        return Ok(view.services().filter(|s| !s.removing).map(|s| with_status(view, s)).collect());
    }
    let mut found = Vec::new();
    for reference in wanted {
        match find_service(view, reference) {
            Ok(service) => found.push(with_status(view, service)),
            Err(e) if e.code() == tonic::Code::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(found)
}

/// Objects that match one of the references; one that matches nothing is left out, as a filter does.
pub(super) fn select<'a, T>(
    wanted: &[String],
    find: impl Fn(&str) -> Result<&'a Arc<T>, LookupError>,
) -> Result<Vec<&'a Arc<T>>, Status> {
    let mut found: Vec<&Arc<T>> = Vec::new();
    for reference in wanted {
        match find(reference) {
            Ok(object) if found.iter().any(|f| Arc::ptr_eq(f, object)) => {}
            Ok(object) => found.push(object),
            Err(LookupError::NotFound { .. }) => {}
            Err(e @ LookupError::Ambiguous { .. }) => return Err(lookup(e)),
        }
    }
    Ok(found)
}

fn with_status(view: &StoreView, service: &Arc<v1::Service>) -> v1::ServiceWithStatus {
    let (mut running, mut wanted, mut completed) = (0, 0, 0);
    let job = service.job_status.is_some();
    // A slot may have come to two completions, where a node was cut off.
    let mut done: BTreeSet<SlotKey> = BTreeSet::new();
    for task in view.tasks_of_service(&service.id).filter(|t| current(service, t)) {
        let state = task.status.as_ref().map_or(TaskState::New, v1::TaskStatus::state);
        if job && state == TaskState::Complete {
            completed += u64::from(done.insert(SlotKey::of(task)));
        } else if task.desired_state() == goal(task) {
            wanted += 1;
            running += u64::from(state == TaskState::Running);
        }
    }
    let desired = match service.spec.as_ref().and_then(|s| s.mode.as_ref()) {
        Some(Mode::Replicated(r)) => r.replicas,
        Some(Mode::ReplicatedJob(job)) => job.max_concurrent,
        _ => wanted,
    };
    let homes = view.homes(&service.id).map(|h| v1::Homes::clone(h));
    v1::ServiceWithStatus { service: Some(v1::Service::clone(service)), running, desired, completed, homes }
}

pub(super) fn tasks(
    view: &StoreView,
    request: &v1::ListTasksRequest,
) -> Result<Vec<v1::TaskWithSpec>, Status> {
    let desired = request
        .desired_states
        .iter()
        .map(|s| {
            let name = format!("TASK_STATE_{}", s.to_uppercase());
            TaskState::from_str_name(&name)
                .ok_or_else(|| Status::invalid_argument(format!("invalid filter 'desired-state': {s}")))
        })
        .collect::<Result<HashSet<_>, _>>()?;
    let ids = |wanted: &[String], find: &dyn Fn(&str) -> Option<String>| -> Option<HashSet<String>> {
        (!wanted.is_empty()).then(|| wanted.iter().filter_map(|r| find(r)).collect())
    };
    let services = ids(&request.services, &|r| find_service(view, r).ok().map(|s| s.id.clone()));
    let nodes = ids(&request.nodes, &|r| view.find_node(r).ok().map(|n| n.id.clone()));
    let tasks = ids(&request.ids, &|r| view.find_task(r).ok().map(|t| t.id.clone()));
    let matches = |t: &v1::Task| {
        services.as_ref().is_none_or(|s| s.contains(&t.service_id))
            && nodes.as_ref().is_none_or(|n| n.contains(&t.node_id))
            && match &tasks {
                Some(ids) => ids.contains(&t.id),
                None => t.attachment.is_some() == request.attachments,
            }
            && (desired.is_empty() || desired.contains(&t.desired_state()))
            && (request.containers.is_empty() || of_container(t, &request.containers))
            && (!request.up_to_date
                || view.service(&t.service_id).is_some_and(|s| s.revision == t.revision && current(s, t)))
    };
    // By an index where the request names one.
    let found: Vec<&Arc<v1::Task>> = match (&tasks, &services, &nodes) {
        (Some(ids), _, _) => ids.iter().filter_map(|id| view.task(id)).collect(),
        (_, Some(ids), _) => ids.iter().flat_map(|id| view.tasks_of_service(id)).collect(),
        (_, _, Some(ids)) => ids.iter().flat_map(|id| view.tasks_of_node(id)).collect(),
        _ => view.tasks().collect(),
    };
    Ok(found.into_iter().filter(|t| matches(t)).map(|t| with_spec(view, t)).collect())
}

/// Whether the task's container is one of these.
fn of_container(task: &v1::Task, wanted: &[String]) -> bool {
    let container = task.status.as_ref().and_then(|s| s.container.as_ref()).map_or("", |c| &c.container_id);
    wanted.iter().any(|w| !w.is_empty() && container.starts_with(w.as_str()))
}

fn with_spec(view: &StoreView, task: &Arc<v1::Task>) -> v1::TaskWithSpec {
    v1::TaskWithSpec {
        task: Some(v1::Task::clone(task)),
        spec: view.task_spec(task).cloned(),
        service_name: view.service(&task.service_id).map(|s| service_name(s).to_owned()).unwrap_or_default(),
    }
}
