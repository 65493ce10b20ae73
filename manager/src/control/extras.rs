//! What a service has beside Docker's specification. Docker's clients drop the fields they do not know when they send
//! a specification back: an update without one of these leaves it as it is.

use std::collections::BTreeSet;

use skep_proto::v1::{self, service_spec::Mode};
use tonic::Status;

use super::{idle, validate};
use crate::autoscaler;
use crate::cron::Cron;
use crate::orchestrator::schedule;
use crate::prerequisites;
use crate::store::StoreView;

/// Most runs of a schedule that are remembered: each write of the service has them all.
const MAX_HISTORY: u32 = 100;

/// Fills in what an update says nothing of.
pub(super) fn keep(spec: &mut v1::ServiceSpec, before: Option<&v1::ServiceSpec>) {
    let Some(before) = before else { return };
    spec.drain_ns = spec.drain_ns.or(before.drain_ns);
    spec.data_placement = spec.data_placement.or(before.data_placement);
    spec.schedule = spec.schedule.take().or_else(|| before.schedule.clone());
    spec.depends_on = spec.depends_on.take().or_else(|| before.depends_on.clone());
    spec.rebalance = spec.rebalance.or(before.rebalance);
    spec.autoscale = spec.autoscale.take().or_else(|| before.autoscale.clone());
    spec.idle_timeout = spec.idle_timeout.or(before.idle_timeout);
    let held = before.endpoint.iter().flat_map(|e| &e.ports);
    for port in spec.endpoint.iter_mut().flat_map(|e| &mut e.ports).filter(|p| p.host_ip.is_empty()) {
        let place = |p: &v1::PortConfig| (p.protocol, p.target_port, p.published_port, p.mode);
        if let Some(same) = held.clone().find(|p| place(p) == place(port)) {
            port.host_ip.clone_from(&same.host_ip);
        }
    }
}

/// A schedule without an expression is none, nor is what is turned off there.
pub(super) fn settle(spec: &mut v1::ServiceSpec) {
    spec.rebalance = spec.rebalance.filter(|r| r.enabled);
    spec.autoscale = spec.autoscale.take().filter(|a| a.max > 0 || a.min > 0);
    spec.schedule = spec.schedule.take().filter(|s| !s.cron.is_empty());
    spec.idle_timeout = spec.idle_timeout.filter(|t| t.tcp_ns > 0 || t.udp_ns > 0);
}

/// Refuses what cannot be.
pub(super) fn check(spec: &v1::ServiceSpec) -> Result<(), Status> {
    if spec.drain_ns.is_some_and(|ns| ns < 0) {
        return Err(Status::invalid_argument("the drain time must not be negative"));
    }
    if spec.data_placement.is_some_and(|p| v1::DataPlacement::try_from(p).is_err()) {
        return Err(Status::invalid_argument("the data placement is not known: stay, prefer or ignore"));
    }
    idle::check(spec)?;
    check_schedule(spec)?;
    if let Some(r) = spec.rebalance.filter(|r| r.enabled) {
        if !matches!(spec.mode, Some(Mode::Replicated(_))) {
            return Err(Status::invalid_argument(
                "only replicated services are rebalanced: use mode replicated",
            ));
        }
        if r.delay_ns.is_some_and(|ns| ns < 0) {
            return Err(Status::invalid_argument("rebalance: its delay must not be negative"));
        }
    }
    if let Some(a) = spec.autoscale.as_ref().filter(|a| a.max > 0 || a.min > 0) {
        if !matches!(spec.mode, Some(Mode::Replicated(_))) {
            let why = "only replicated services are scaled by what they use: use mode replicated";
            return Err(Status::invalid_argument(why));
        }
        if a.max > validate::MAX_REPLICAS {
            let why = format!("autoscale: max={} is too many: at most {}", a.max, validate::MAX_REPLICAS);
            return Err(Status::invalid_argument(why));
        }
        if let Some(why) = autoscaler::nonsense(a, spec.task.as_ref()) {
            return Err(Status::invalid_argument(format!("autoscale: {why}")));
        }
    }
    let mut named = BTreeSet::new();
    for p in spec.depends_on.iter().flat_map(|d| &d.all) {
        validate::name("service", &p.service)?;
        if v1::PrerequisiteCondition::try_from(p.condition).is_err() {
            let why = format!(
                "what it depends on service {} for is not known: started, healthy or completed",
                p.service
            );
            return Err(Status::invalid_argument(why));
        }
        if !named.insert(&p.service) {
            let why = format!("it depends on service {} twice: name it once", p.service);
            return Err(Status::invalid_argument(why));
        }
    }
    Ok(())
}

fn check_schedule(spec: &v1::ServiceSpec) -> Result<(), Status> {
    let Some(schedule) = spec.schedule.as_ref().filter(|s| !s.cron.is_empty()) else { return Ok(()) };
    if !validate::is_job(spec) {
        let why = "only jobs have a schedule: use mode replicated-job or global-job";
        return Err(Status::invalid_argument(why));
    }
    Cron::parse(&schedule.cron, &schedule.time_zone)
        .map_err(|e| Status::invalid_argument(format!("schedule: {e}")))?;
    if v1::ScheduleConcurrency::try_from(schedule.concurrency).is_err() {
        let why = "schedule: its concurrency is not known: forbid, allow or replace";
        return Err(Status::invalid_argument(why));
    }
    if schedule.starting_deadline_ns.is_some_and(|ns| ns < 0) {
        return Err(Status::invalid_argument("schedule: its starting deadline must not be negative"));
    }
    if schedule.history.is_some_and(|n| n > MAX_HISTORY) {
        let why = format!("schedule: at most {MAX_HISTORY} runs are remembered");
        return Err(Status::invalid_argument(why));
    }
    Ok(())
}

/// Brings the replicas of a service that is scaled by itself within its bounds; refuses others where the bounds were there
/// already.
pub(super) fn bound(spec: &mut v1::ServiceSpec, before: Option<&v1::ServiceSpec>) -> Result<(), Status> {
    let (Some(a), Some(Mode::Replicated(r))) = (&spec.autoscale, &mut spec.mode) else { return Ok(()) };
    if (a.min..=a.max).contains(&r.replicas) {
        return Ok(());
    }
    let held = before.and_then(|b| b.autoscale.as_ref());
    let asked = !matches!(before.and_then(|b| b.mode.as_ref()), Some(Mode::Replicated(b)) if b == r);
    if asked && held.is_some_and(|h| (h.min, h.max) == (a.min, a.max)) {
        return Err(Status::invalid_argument(format!(
            "the service is scaled by what its tasks use, to {} to {} replicas: {} are outside of that; set other bounds, \
             or none (--autoscale \"\")",
            a.min, a.max, r.replicas
        )));
    }
    r.replicas = r.replicas.clamp(a.min, a.max);
    Ok(())
}

/// Brings the state of a job's schedule, and its iterations, to a specification that is written. `before` is the one
/// there was.
pub(super) fn reschedule(
    service: &mut v1::Service,
    before: Option<&v1::ServiceSpec>,
    now_ms: i64,
) -> Result<(), Status> {
    let Some(job) = service.job_status.as_mut() else { return Ok(()) };
    let old = before.and_then(|s| s.schedule.as_ref());
    let new = service.spec.as_ref().and_then(|s| s.schedule.clone());
    let Some(new) = new else {
        service.schedule_status = None;
        if before.is_some() {
            job.iteration += 1;
        }
        job.last_execution_ms = now_ms;
        return Ok(());
    };
    let times = |s: &v1::Schedule| (s.cron.clone(), s.time_zone.clone(), s.suspend);
    if old.map(times) != Some(times(&new)) {
        // What was due until now is not made up for.
        service.schedule_status.get_or_insert_default().considered_ms = now_ms;
    }
    let forced = |s: Option<&v1::ServiceSpec>| s.and_then(|s| s.task.as_ref()).map_or(0, |t| t.force_update);
    if before.is_some() && forced(service.spec.as_ref()) != forced(before) {
        if let Some(why) = schedule::too_many(service) {
            return Err(Status::failed_precondition(format!("no run is begun: {why}")));
        }
        schedule::begin_now(service, now_ms);
    }
    Ok(())
}

/// Refuses a service that would wait for itself.
pub(super) fn no_cycle(view: &StoreView, id: &str, spec: &v1::ServiceSpec) -> Result<(), Status> {
    match prerequisites::cycle(view, id, spec) {
        None => Ok(()),
        Some(way) => Err(Status::invalid_argument(format!("services would wait for each other: {way}"))),
    }
}
