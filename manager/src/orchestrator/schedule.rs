//! Jobs that begin anew by a schedule. Every run is an iteration of the job; when a run is due, what became of the
//! ones before it and up to when everything is dealt with, is in the service itself, so a new leader goes on from there:
//! of the times that came while nobody led, the last one is made up for, if its deadline has not passed.

use std::collections::BTreeSet;

use skep_proto::v1::{self, RunOutcome, ScheduleConcurrency, ScheduledRun, service_spec::Mode};
use v1::TaskState;

use super::slot::SlotKey;
use super::{Plan, jobs, task};
use crate::cron::Cron;
use crate::store::{StoreView, change::put};

/// Runs that are remembered where nothing is said.
pub const HISTORY: u32 = 10;
/// Runs that may be under way beside each other: each is in every write of the service, and has tasks.
pub const MOST_BESIDE: usize = 100;

/// The schedule of a job.
pub fn of(service: &v1::Service) -> Option<&v1::Schedule> {
    service.spec.as_ref().and_then(|s| s.schedule.as_ref())
}

/// Whether tasks of the job's present iteration may be begun: without a schedule always, else during a run of it.
pub(super) fn open(service: &v1::Service) -> bool {
    of(service).is_none() || under_way(service, service.job_status.map(|job| job.iteration))
}

/// Whether a run of this iteration has not ended.
pub fn under_way(service: &v1::Service, iteration: Option<u64>) -> bool {
    let mut runs = service.schedule_status.iter().flat_map(|s| &s.runs);
    runs.any(|r| r.outcome() == RunOutcome::Running && r.iteration == iteration)
}

/// Whether a task of an earlier iteration goes on beside those of the present one.
pub(super) fn goes_on(view: &StoreView, service: &v1::Service, t: &v1::Task) -> bool {
    let allowed = of(service).is_some_and(|s| s.concurrency() == ScheduleConcurrency::Allow);
    let goes_on = allowed && under_way(service, t.job_iteration);
    goes_on && task::live(t) && !task::node_drained(view, &t.node_id)
}

/// Notes what became of runs, and begins the next one if it is due. True if the service changed: the pass is over.
pub(super) fn tick(view: &StoreView, service: &v1::Service, now_ms: i64, plan: &mut Plan) -> bool {
    let (Some(schedule), Some(mut job)) = (of(service), service.job_status) else { return false };
    // What control has let through can be read.
    let Ok(cron) = Cron::parse(&schedule.cron, &schedule.time_zone) else { return false };
    let before = service.schedule_status.clone();
    let mut status =
        before.clone().unwrap_or(v1::ScheduleStatus { considered_ms: now_ms, ..Default::default() });
    for run in status.runs.iter_mut().filter(|r| r.outcome() == RunOutcome::Running) {
        let outcome = outcome(view, service, run);
        if outcome != RunOutcome::Running {
            run.set_outcome(outcome);
            run.ended_ms = now_ms;
        }
    }
    if !schedule.suspend
        && let Some(due) = last_due(&cron, status.considered_ms, now_ms)
    {
        status.considered_ms = due;
        let run = judge(schedule, &mut status, due, now_ms);
        if run.outcome() == RunOutcome::Running {
            begin(&mut job, now_ms);
        }
        let iteration = (run.outcome() == RunOutcome::Running).then_some(job.iteration);
        status.runs.push(ScheduledRun { iteration, ..run });
    }
    status.next_ms = match schedule.suspend {
        true => 0,
        false => cron.next_ms(status.considered_ms.max(now_ms)).unwrap_or(0),
    };
    if status.next_ms > 0 {
        plan.wake(status.next_ms);
    }
    forget(&mut status, schedule.history.unwrap_or(HISTORY) as usize);
    if before.as_ref() == Some(&status) {
        return false;
    }
    let mut service = service.clone();
    (service.job_status, service.schedule_status) = (Some(job), Some(status));
    plan.changes.push(put(service));
    true
}

/// Why no further run may begin beside those under way, if so.
pub fn too_many(service: &v1::Service) -> Option<String> {
    let beside = of_concurrency(service.spec.as_ref()) == ScheduleConcurrency::Allow;
    let runs = service.schedule_status.as_ref().map_or(&[][..], |s| &s.runs);
    beside.then(|| full(runs)).flatten()
}

fn full(runs: &[ScheduledRun]) -> Option<String> {
    let under_way = runs.iter().filter(|r| r.outcome() == RunOutcome::Running).count();
    (under_way >= MOST_BESIDE).then(|| {
        format!("{under_way} runs are under way, and at most {MOST_BESIDE} may be beside each other")
    })
}

/// Makes the next iteration the present one.
fn begin(job: &mut v1::JobStatus, now_ms: i64) {
    job.iteration += 1;
    job.last_execution_ms = now_ms;
}

/// A run out of turn, as a user asks for it.
pub fn begin_now(service: &mut v1::Service, now_ms: i64) {
    let Some(job) = &mut service.job_status else { return };
    begin(job, now_ms);
    let iteration = Some(job.iteration);
    let status = service.schedule_status.get_or_insert_default();
    if of_concurrency(service.spec.as_ref()) != ScheduleConcurrency::Allow {
        replace_running(&mut status.runs, now_ms);
    }
    status.runs.push(ScheduledRun { due_ms: now_ms, began_ms: now_ms, iteration, ..Default::default() });
}

fn of_concurrency(spec: Option<&v1::ServiceSpec>) -> ScheduleConcurrency {
    spec.and_then(|s| s.schedule.as_ref()).map(v1::Schedule::concurrency).unwrap_or_default()
}

fn replace_running(runs: &mut [ScheduledRun], now_ms: i64) {
    for run in runs.iter_mut().filter(|r| r.outcome() == RunOutcome::Running) {
        run.set_outcome(RunOutcome::Replaced);
        run.ended_ms = now_ms;
    }
}

/// The last time that has come since. What comes often is not counted through after a long time without a leader: the
/// time is halved until there is none after the one that was found.
fn last_due(cron: &Cron, considered_ms: i64, now_ms: i64) -> Option<i64> {
    let due = |after| cron.next_ms(after).filter(|at| *at <= now_ms);
    let mut last = due(considered_ms)?;
    let mut none_after = now_ms;
    while last < none_after {
        // At `last` itself at the end: then that is the answer.
        let middle = last + (none_after - last) / 2;
        match due(middle) {
            Some(later) => last = later,
            None => none_after = middle,
        }
    }
    Some(last)
}

/// What becomes of a run that is due.
fn judge(schedule: &v1::Schedule, status: &mut v1::ScheduleStatus, due_ms: i64, now_ms: i64) -> ScheduledRun {
    let mut run = ScheduledRun { due_ms, began_ms: now_ms, ..Default::default() };
    let deadline = schedule.starting_deadline_ns.map(|ns| ns / 1_000_000);
    let busy = status.runs.iter().any(|r| r.outcome() == RunOutcome::Running);
    if deadline.is_some_and(|ms| now_ms - due_ms > ms) {
        run.set_outcome(RunOutcome::Missed);
        run.reason = "its deadline had passed before it could begin".to_owned();
    } else if busy && schedule.concurrency() == ScheduleConcurrency::Forbid {
        run.set_outcome(RunOutcome::Skipped);
        run.reason = "another run is under way".to_owned();
    } else if schedule.concurrency() == ScheduleConcurrency::Allow
        && let Some(why) = full(&status.runs)
    {
        run.set_outcome(RunOutcome::Skipped);
        run.reason = why;
    } else if schedule.concurrency() == ScheduleConcurrency::Replace {
        replace_running(&mut status.runs, now_ms);
    }
    if run.outcome() != RunOutcome::Running {
        (run.began_ms, run.ended_ms) = (0, now_ms);
    }
    run
}

/// Drops the oldest runs that are over.
fn forget(status: &mut v1::ScheduleStatus, most: usize) {
    let over = status.runs.iter().filter(|r| r.outcome() != RunOutcome::Running).count();
    let mut excess = over.saturating_sub(most);
    status.runs.retain(|r| {
        let drop = excess > 0 && r.outcome() != RunOutcome::Running;
        excess -= usize::from(drop);
        !drop
    });
}

/// What has become of a run by its tasks.
fn outcome(view: &StoreView, service: &v1::Service, run: &ScheduledRun) -> RunOutcome {
    let present = service.job_status.map(|job| job.iteration) == run.iteration;
    let (mut slots, mut complete, mut open) = (BTreeSet::new(), BTreeSet::new(), false);
    for t in view.tasks_of_service(&service.id).filter(|t| t.job_iteration == run.iteration) {
        let slot = SlotKey::of(t);
        if task::state(t) == TaskState::Complete {
            complete.insert(slot.clone());
        } else {
            // One that failed is restarted or given up in the same pass; in an earlier iteration nobody restarts it.
            let lost = task::node_lost(view, &t.node_id) && task::state(t) >= TaskState::Assigned;
            open |= if present { task::wanted(t) } else { task::live(t) && !lost };
            open |= task::may_run(view, t);
        }
        slots.insert(slot);
    }
    let total = match service.spec.as_ref().and_then(|s| s.mode.as_ref()) {
        Some(Mode::ReplicatedJob(job)) => job.total_completions as usize,
        _ => slots.len(),
    };
    // Those of this very pass are not there yet, nor those that wait for the ones before them to stop.
    let unopened = present && (slots.len() < total || jobs::unopened(view, service, &slots));
    if complete.len() >= total && !unopened {
        RunOutcome::Complete
    } else if open || unopened {
        RunOutcome::Running
    } else {
        RunOutcome::Failed
    }
}
