//! Fields of a service specification that are Skep's own. Docker's clients pass over them, and drop them when they
//! send a specification back; so what is absent is not asked to change.

use serde_json::{Value, json};
use skep_proto::v1::{
    Autoscale, AutoscaleStatus, DataPlacement, Homes, IdleTimeout, MetricTarget, Prerequisite,
    PrerequisiteCondition, Prerequisites, Rebalance, RebalanceState, RebalanceStatus, RunOutcome, Schedule,
    ScheduleConcurrency, ScheduleStatus, ScheduledRun, ServiceSpec,
};

use crate::convert::names::Named;
use crate::convert::{number, time};
use crate::error::{ApiError, ApiResult};
use crate::fields::Fields;

/// Takes them out of a request.
pub fn read(f: &mut Fields, spec: &mut ServiceSpec) -> ApiResult<()> {
    spec.drain_ns = super::read::duration(f, "DrainTime")?;
    let path = f.path("DataPlacement");
    spec.data_placement =
        f.opt_string("DataPlacement")?.map(|w| DataPlacement::read(&path, &w)).transpose()?.map(|p| p as i32);
    spec.schedule = f.opt_object("Schedule")?.map(schedule).transpose()?;
    spec.autoscale = f.opt_object("Autoscale")?.map(autoscale).transpose()?;
    spec.rebalance = f.opt_object("Rebalance")?.map(rebalance).transpose()?;
    spec.idle_timeout = f.opt_object("IdleTimeout")?.map(idle_timeout).transpose()?;
    if let Some(list) = f.opt_objects("DependsOn")? {
        let all = list.into_iter().map(prerequisite).collect::<ApiResult<_>>()?;
        spec.depends_on = Some(Prerequisites { all });
    }
    Ok(())
}

fn schedule(mut f: Fields) -> ApiResult<Schedule> {
    let history = f.opt_u64("History")?;
    let schedule = Schedule {
        cron: f.string("Cron")?,
        time_zone: f.string("TimeZone")?,
        concurrency: ScheduleConcurrency::read(&f.path("Concurrency"), &f.string("Concurrency")?)? as i32,
        starting_deadline_ns: super::read::duration(&mut f, "StartingDeadline")?,
        history: history.map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
        suspend: f.bool("Suspend")?,
    };
    f.refuse_rest(&[])?;
    Ok(schedule)
}

fn autoscale(mut f: Fields) -> ApiResult<Autoscale> {
    let metric = |mut f: Fields| -> ApiResult<MetricTarget> {
        let metric = MetricTarget {
            name: f.string("Name")?,
            port: f.port("Port")?.into(),
            path: f.string("Path")?,
            target: f.f64("Target")?,
        };
        f.refuse_rest(&[])?;
        Ok(metric)
    };
    let autoscale = Autoscale {
        min: f.u64("Min")?,
        max: f.u64("Max")?,
        cpu_percent: f.f64("CPUPercent")?,
        memory_percent: f.f64("MemoryPercent")?,
        memory_bytes: f.i64("MemoryBytes")?,
        metric: f.opt_object("Metric")?.map(metric).transpose()?,
        cooldown_ns: super::read::duration(&mut f, "Cooldown")?,
        window_ns: super::read::duration(&mut f, "Window")?,
    };
    f.refuse_rest(&[])?;
    Ok(autoscale)
}

fn idle_timeout(mut f: Fields) -> ApiResult<IdleTimeout> {
    let mut one = |key| super::read::duration(&mut f, key).map(Option::unwrap_or_default);
    let timeout = IdleTimeout { tcp_ns: one("TCP")?, udp_ns: one("UDP")? };
    f.refuse_rest(&[])?;
    Ok(timeout)
}

fn rebalance(mut f: Fields) -> ApiResult<Rebalance> {
    let rebalance = Rebalance {
        enabled: f.bool("Enabled")?,
        parallelism: f.opt_u64("Parallelism")?.unwrap_or(0),
        delay_ns: super::read::duration(&mut f, "Delay")?,
    };
    f.refuse_rest(&[])?;
    Ok(rebalance)
}

fn prerequisite(mut f: Fields) -> ApiResult<Prerequisite> {
    let service = f.string("Service")?;
    if service.is_empty() {
        return Err(ApiError::bad_request(format!("{} is missing: name a service", f.path("Service"))));
    }
    let condition = PrerequisiteCondition::read(&f.path("Condition"), &f.string("Condition")?)? as i32;
    let optional = f.bool("Optional")?;
    f.refuse_rest(&[])?;
    Ok(Prerequisite { service, condition, optional })
}

/// Adds them to a specification that is shown.
pub fn write(s: &ServiceSpec, out: &mut Value) {
    if let Some(drain) = s.drain_ns {
        out["DrainTime"] = drain.into();
    }
    if let Some(placement) = s.data_placement {
        out["DataPlacement"] = DataPlacement::word(placement).into();
    }
    if let Some(s) = &s.schedule {
        let mut shown = json!({ "Cron": s.cron, "Concurrency": ScheduleConcurrency::word(s.concurrency), "Suspend": s.suspend });
        if !s.time_zone.is_empty() {
            shown["TimeZone"] = s.time_zone.clone().into();
        }
        if let Some(deadline) = s.starting_deadline_ns {
            shown["StartingDeadline"] = deadline.into();
        }
        if let Some(history) = s.history {
            shown["History"] = history.into();
        }
        out["Schedule"] = shown;
    }
    if let Some(a) = &s.autoscale {
        let mut shown = json!({ "Min": a.min, "Max": a.max });
        for (name, percent) in [("CPUPercent", a.cpu_percent), ("MemoryPercent", a.memory_percent)] {
            if percent > 0.0 {
                shown[name] = percent.into();
            }
        }
        if a.memory_bytes > 0 {
            shown["MemoryBytes"] = a.memory_bytes.into();
        }
        if let Some(m) = &a.metric {
            shown["Metric"] = json!({ "Name": m.name, "Port": m.port, "Path": m.path, "Target": m.target });
        }
        for (name, ns) in [("Cooldown", a.cooldown_ns), ("Window", a.window_ns)] {
            if let Some(ns) = ns {
                shown[name] = ns.into();
            }
        }
        out["Autoscale"] = shown;
    }
    if let Some(r) = &s.rebalance {
        let mut shown = json!({ "Enabled": r.enabled });
        if r.parallelism > 0 {
            shown["Parallelism"] = r.parallelism.into();
        }
        if let Some(delay) = r.delay_ns {
            shown["Delay"] = delay.into();
        }
        out["Rebalance"] = shown;
    }
    if let Some(t) = &s.idle_timeout {
        for (name, ns) in [("TCP", t.tcp_ns), ("UDP", t.udp_ns)] {
            if ns > 0 {
                out["IdleTimeout"][name] = ns.into();
            }
        }
    }
    if let Some(d) = s.depends_on.as_ref().filter(|d| !d.all.is_empty()) {
        let one = |p: &Prerequisite| {
            let mut shown =
                json!({ "Service": p.service, "Condition": PrerequisiteCondition::word(p.condition) });
            if p.optional {
                shown["Optional"] = true.into();
            }
            shown
        };
        out["DependsOn"] = d.all.iter().map(one).collect();
    }
}

/// `ScheduleStatus` of a job: its next run, and those before, newest first.
pub fn schedule_status(s: &ScheduleStatus) -> Value {
    let shown = |ms: i64| if ms == 0 { Value::Null } else { time::from_ms(ms).into() };
    let run = |r: &ScheduledRun| {
        let mut out = json!({ "Due": shown(r.due_ms), "Outcome": RunOutcome::word(r.outcome) });
        for (name, ms) in [("Began", r.began_ms), ("Ended", r.ended_ms)] {
            if ms != 0 {
                out[name] = shown(ms);
            }
        }
        if !r.reason.is_empty() {
            out["Reason"] = r.reason.clone().into();
        }
        if let Some(iteration) = r.iteration {
            out["JobIteration"] = number(iteration);
        }
        out
    };
    json!({ "NextRun": shown(s.next_ms), "Runs": s.runs.iter().rev().map(run).collect::<Vec<_>>() })
}

/// `RebalanceStatus` of a service whose tasks were moved, or are.
pub fn rebalance_status(s: &RebalanceStatus) -> Value {
    let mut out = json!({ "State": RebalanceState::word(s.state), "Message": s.message, "Moved": s.moved });
    for (name, ms) in [("StartedAt", s.started_at_ms), ("CompletedAt", s.completed_at_ms)] {
        if ms != 0 {
            out[name] = time::from_ms(ms).into();
        }
    }
    out
}

/// `AutoscaleStatus` of a service: what holds, and its last changes, newest first.
pub fn autoscale_status(s: &AutoscaleStatus) -> Value {
    let events = s
        .events
        .iter()
        .rev()
        .map(|e| json!({ "At": time::from_ms(e.at_ms), "From": e.from, "To": e.to, "Reason": e.reason }));
    json!({ "Message": s.message, "Events": events.collect::<Vec<_>>() })
}

/// `DataNodes` of a service: the node that holds the data of each slot.
pub fn data_nodes(homes: &Homes) -> Value {
    let one = |(slot, h): (&u64, &skep_proto::v1::Home)| json!({ "Slot": slot, "NodeID": h.node_id, "Volumes": h.volumes });
    homes.slots.iter().map(one).collect()
}
