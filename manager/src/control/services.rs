//! Writes to services. A service's task specification lives in numbered revisions; an update that changes
//! it makes a new one.

use skep_proto::v1::{self, service_spec::Mode};
use tonic::Status;

use super::{check_version, dependencies, extras, features, host_ip, idle, read, run_options, validate};
use crate::context::Context;
use crate::rebalancer;
use crate::store::StoreView;
use crate::store::change::put;

pub(super) async fn create(
    ctx: &Context,
    request: v1::CreateServiceRequest,
) -> Result<v1::ServiceResponse, Status> {
    let id = ctx.new_id();
    let view = ctx.write(|view| creation(view, &request, &id, ctx.now_ms())).await?;
    response(&view, &id, None)
}

/// What creating a service changes.
pub(super) fn creation(
    view: &StoreView,
    request: &v1::CreateServiceRequest,
    id: &str,
    now_ms: i64,
) -> Result<Vec<v1::Change>, Status> {
    let spec =
        request.spec.clone().ok_or_else(|| Status::invalid_argument("a service needs a specification"))?;
    validate::service(&spec)?;
    let job = validate::is_job(&spec);
    let mut spec = resolve(view, spec, id)?;
    extras::settle(&mut spec);
    idle::possible(view, &spec, None)?;
    host_ip::possible(view, &spec)?;
    extras::bound(&mut spec, None)?;
    run_options::keep(&mut spec, None);
    features::possible(view, Some(&spec), None)?;
    dependencies::resolve(view, &spec)?;
    extras::no_cycle(view, id, &spec)?;
    let revision = revision(id, 1, &spec);
    let endpoint = settled(&spec);
    let mut service =
        v1::Service { id: id.to_owned(), spec: Some(spec), revision: 1, endpoint, ..Default::default() };
    if job {
        service.job_status = Some(v1::JobStatus { iteration: 0, last_execution_ms: now_ms });
        extras::reschedule(&mut service, None, now_ms)?;
    }
    Ok(vec![put(service), put(revision)])
}

/// The endpoint of a service with neither ports nor networks: there is nothing to allocate, and so no further version
/// of it to come between a client's inspection and its update.
fn settled(spec: &v1::ServiceSpec) -> Option<v1::Endpoint> {
    let endpoint = spec.endpoint.clone().unwrap_or_default();
    let networks = spec.task.as_ref().map_or(0, |t| t.networks.len());
    (endpoint.ports.is_empty() && networks == 0)
        .then(|| v1::Endpoint { spec: Some(endpoint), ..Default::default() })
}

pub(super) async fn update(
    ctx: &Context,
    request: v1::UpdateServiceRequest,
) -> Result<v1::ServiceResponse, Status> {
    let view = ctx.write(|view| changes(view, &request, ctx.now_ms())).await?;
    let sent = request.spec.as_ref().filter(|_| !request.rollback && !request.rebalance);
    response(&view, &read::find_service(&view, &request.id)?.id, sent)
}

/// What an update of a service changes.
pub(super) fn changes(
    view: &StoreView,
    request: &v1::UpdateServiceRequest,
    now_ms: i64,
) -> Result<Vec<v1::Change>, Status> {
    if request.rebalance {
        return rebalanced(view, &request.id, now_ms);
    }
    if !request.rollback {
        let spec = request.spec.as_ref();
        validate::service(
            spec.ok_or_else(|| Status::invalid_argument("a service update needs a specification"))?,
        )?;
    }
    let service = read::find_service(view, &request.id)?;
    let what = format!("service {}", read::service_name(service));
    check_version(&what, service.meta.as_ref(), request.version)?;
    let mut service = v1::Service::clone(service);
    if request.rollback && service.job_status.is_some() {
        return Err(Status::invalid_argument(format!(
            "{what} is a job, and rollback is not supported for jobs: update it to what it was, which begins another \
             iteration"
        )));
    }
    let wanted = match (request.rollback, &request.spec) {
        (false, Some(spec)) => {
            let mut spec = resolve(view, spec.clone(), &service.id)?;
            extras::keep(&mut spec, service.spec.as_ref());
            extras::settle(&mut spec);
            extras::check(&spec)?;
            idle::possible(view, &spec, service.spec.as_ref())?;
            host_ip::possible(view, &spec)?;
            extras::bound(&mut spec, service.spec.as_ref())?;
            run_options::keep(&mut spec, service.spec.as_ref());
            spec
        }
        _ => service.previous_spec.clone().ok_or_else(|| {
            Status::failed_precondition(format!(
                "service {} does not have a previous spec to roll back to",
                read::service_name(&service)
            ))
        })?,
    };
    let mode =
        |spec: Option<&v1::ServiceSpec>| spec.and_then(|s| s.mode.as_ref()).map(std::mem::discriminant);
    if mode(service.spec.as_ref()) != mode(Some(&wanted)) {
        return Err(Status::unimplemented("service mode change is not allowed"));
    }
    features::possible(view, Some(&wanted), service.spec.as_ref())?;
    // What the previous one named may be gone since.
    dependencies::resolve(view, &wanted)?;
    extras::no_cycle(view, &service.id, &wanted)?;
    replace_spec(&mut service, wanted, request.rollback, now_ms)
}

/// Has the tasks of a service moved until they are spread evenly, once.
fn rebalanced(view: &StoreView, id: &str, now_ms: i64) -> Result<Vec<v1::Change>, Status> {
    let mut service = v1::Service::clone(read::find_service(view, id)?);
    if !matches!(service.spec.as_ref().and_then(|s| s.mode.as_ref()), Some(Mode::Replicated(_))) {
        let name = read::service_name(&service);
        return Err(Status::invalid_argument(format!(
            "service {name} is not replicated: only tasks of replicated services are moved"
        )));
    }
    rebalancer::ask(&mut service, now_ms);
    Ok(vec![put(service)])
}

fn replace_spec(
    service: &mut v1::Service,
    wanted: v1::ServiceSpec,
    rollback: bool,
    now_ms: i64,
) -> Result<Vec<v1::Change>, Status> {
    let mut changes = Vec::new();
    let before = service.spec.as_ref();
    let new_task = before.map(|s| &s.task) != Some(&wanted.task) || needs_new_tasks(before, &wanted);
    service.previous_spec = service.spec.replace(wanted.clone());
    let before = service.previous_spec.clone();
    extras::reschedule(service, before.as_ref(), now_ms)?;
    service.update_status = rollback.then(|| v1::UpdateStatus {
        state: v1::UpdateState::RollbackStarted.into(),
        started_at_ms: now_ms,
        message: "manually requested rollback".to_owned(),
        ..Default::default()
    });
    if service.spec.as_ref().is_none_or(|s| s.autoscale.is_none()) {
        service.autoscale_status = None;
    }
    // One that was stopped is tried again with what is said now.
    let stopped = |s: &v1::RebalanceStatus| s.state() == v1::RebalanceState::Stopped;
    service.rebalance_status = service.rebalance_status.take().filter(|s| !stopped(s));
    if new_task {
        service.revision += 1;
        if let Some(status) = &mut service.update_status {
            status.revision = service.revision;
        }
        changes.push(put(revision(&service.id, service.revision, &wanted)));
    }
    changes.push(put(service.clone()));
    Ok(changes)
}

/// Whether the ports ask for something that a task is given at its start only: a place in the ingress network,
/// or ports of its host.
fn needs_new_tasks(before: Option<&v1::ServiceSpec>, wanted: &v1::ServiceSpec) -> bool {
    fn ports(spec: &v1::ServiceSpec, mode: v1::PublishMode) -> impl Iterator<Item = &v1::PortConfig> {
        spec.endpoint.iter().flat_map(|e| &e.ports).filter(move |p| p.mode() == mode)
    }
    let Some(before) = before else { return true };
    let ingress = |spec| ports(spec, v1::PublishMode::Ingress).next().is_some();
    let host = |spec| ports(spec, v1::PublishMode::Host).collect::<Vec<_>>();
    (ingress(wanted) && !ingress(before)) || host(before) != host(wanted)
}

fn revision(service_id: &str, number: u64, spec: &v1::ServiceSpec) -> v1::Revision {
    v1::Revision { service_id: service_id.to_owned(), number, meta: None, spec: spec.task.clone() }
}

pub(super) async fn remove(ctx: &Context, request: v1::RemoveRequest) -> Result<v1::Empty, Status> {
    ctx.write(|view| removal(view, &request)).await?;
    Ok(v1::Empty {})
}

/// What removing a service changes at first.
pub(super) fn removal(view: &StoreView, request: &v1::RemoveRequest) -> Result<Vec<v1::Change>, Status> {
    let mut service = v1::Service::clone(read::find_service(view, &request.id)?);
    service.removing = true;
    Ok(vec![put(service)])
}

/// The service as it is now; `sent` is what a client updated it with.
fn response(
    view: &StoreView,
    id: &str,
    sent: Option<&v1::ServiceSpec>,
) -> Result<v1::ServiceResponse, Status> {
    let service = view.service(id).map(|s| v1::Service::clone(s));
    let warnings = run_options::warnings(view, service.as_ref(), sent);
    Ok(v1::ServiceResponse { service, warnings })
}

/// Checks what depends on other objects, and replaces network names by identifiers.
fn resolve(view: &StoreView, mut spec: v1::ServiceSpec, id: &str) -> Result<v1::ServiceSpec, Status> {
    let name = spec.annotations.as_ref().map_or("", |a| &a.name);
    if let Some(other) = view.service_by_name(name).filter(|s| !s.removing && s.id != id) {
        return Err(Status::already_exists(format!(
            "name conflicts with an existing object: service {name} already exists ({})",
            other.id
        )));
    }
    let ports = spec.endpoint.as_ref().map_or(&[][..], |e| &e.ports);
    if let Some(why) = crate::allocator::ports::conflict(view, id, ports) {
        return Err(Status::invalid_argument(why));
    }
    for attachment in spec.task.iter_mut().flat_map(|t| &mut t.networks) {
        if ["host", "bridge", "none"].contains(&attachment.network.as_str()) {
            return Err(Status::invalid_argument(format!(
                "network {} is a node's own, and services attach to overlay networks only: make one with `network \
                 create -d overlay`",
                attachment.network
            )));
        }
        let network = view.find_network(&attachment.network).map_err(super::lookup)?;
        if network.spec.as_ref().is_some_and(|s| s.ingress) {
            return Err(Status::invalid_argument(format!(
                "network {} is the ingress network: a service is in it by publishing ports, not by attaching",
                attachment.network
            )));
        }
        attachment.network.clone_from(&network.id);
    }
    let networks = spec.task.as_ref().map_or(&[][..], |t| &t.networks);
    let mut ids: Vec<_> = networks.iter().map(|n| &n.network).collect();
    ids.sort_unstable();
    if let Some(twice) = ids.windows(2).find(|w| w[0] == w[1]) {
        return Err(Status::invalid_argument(format!("network {} is attached twice", twice[0])));
    }
    Ok(spec)
}
