//! The autoscaler: how many replicas a service should have by what its tasks use, as a function of that, the service and
//! the time. It tracks targets as Kubernetes' HorizontalPodAutoscaler does: the replicas there are, times what they use on
//! average over what they should, rounded up; the greatest of several targets counts.
//!
//! What must be remembered is in the service (`AutoscaleStatus`), so a new leader goes on: when it was scaled last, and
//! since when fewer replicas would do and how many at most in that time.

use std::collections::BTreeMap;

use skep_proto::v1::{self, service_spec::Mode};

/// Between two changes, where nothing is said.
pub const COOLDOWN_MS: i64 = 60_000;
/// How long fewer replicas must have been enough before there are fewer, where nothing is said.
pub const WINDOW_MS: i64 = 5 * 60_000;
/// By how much of the target it may be missed without a change.
const TOLERANCE: f64 = 0.1;
/// Changes that are remembered.
const HISTORY: usize = 10;

/// What one task uses.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Used {
    /// Billionths of a processor.
    pub nano_cpus: f64,
    /// Bytes, without what the kernel would give back at once.
    pub memory_bytes: f64,
    /// What its own metric says; none if it cannot be had.
    pub metric: Option<f64>,
}

/// The service's settings, if it is scaled by itself.
pub fn of(service: &v1::Service) -> Option<&v1::Autoscale> {
    service.spec.as_ref().and_then(|s| s.autoscale.as_ref()).filter(|a| a.max > 0)
}

/// The replicas the service asks for.
fn replicas(service: &v1::Service) -> u64 {
    match service.spec.as_ref().and_then(|s| s.mode.as_ref()) {
        Some(Mode::Replicated(r)) => r.replicas,
        _ => 0,
    }
}

/// One pass: the service as it is to be, if anything of it changes. `used` is what is known of its tasks; those it has no
/// word of count as idle where more replicas seem to be needed, and as well used where fewer do.
pub fn pass(
    service: &v1::Service,
    task: &v1::TaskSpec,
    used: &BTreeMap<String, Used>,
    now_ms: i64,
) -> Option<v1::Service> {
    let config = of(service)?;
    let present = replicas(service);
    let before = service.autoscale_status.clone().unwrap_or_default();
    let mut status = before.clone();
    let wanted = match bounded(config, present) {
        Some(forced) => Some(forced),
        None => by_use(config, task, present, used, &mut status, now_ms),
    };
    let mut service = service.clone();
    if let Some((replicas, reason)) = wanted {
        status.events.push(v1::ScaleEvent { at_ms: now_ms, from: present, to: replicas, reason });
        let excess = status.events.len().saturating_sub(HISTORY);
        status.events.drain(..excess);
        status.scaled_at_ms = now_ms;
        (status.below_since_ms, status.below_most) = (0, 0);
        service.spec.get_or_insert_default().mode = Some(Mode::Replicated(v1::Replicated { replicas }));
    }
    (status != before).then(|| {
        service.autoscale_status = Some(status);
        service
    })
}

/// The bounds come before everything.
fn bounded(config: &v1::Autoscale, present: u64) -> Option<(u64, String)> {
    if present < config.min {
        return Some((config.min, format!("{} is the least there may be", config.min)));
    }
    (present > config.max).then(|| (config.max, format!("{} is the most there may be", config.max)))
}

fn by_use(
    config: &v1::Autoscale,
    task: &v1::TaskSpec,
    present: u64,
    used: &BTreeMap<String, Used>,
    status: &mut v1::AutoscaleStatus,
    now_ms: i64,
) -> Option<(u64, String)> {
    let best = targets(config, task)
        .into_iter()
        .filter_map(|t| {
            let ratios: Vec<f64> = used.values().filter_map(|u| (t.ratio)(u)).collect();
            let wanted = track(present, &ratios)?;
            let average = ratios.iter().sum::<f64>() / ratios.len() as f64;
            Some((wanted, format!("{} is at {:.0}% of its target", t.name, average * 100.0)))
        })
        .max_by_key(|(wanted, _)| *wanted);
    let Some((wanted, reason)) = best else {
        say(status, "waits for its tasks to tell what they use");
        return None;
    };
    let wanted = wanted.min(at_most_from(present)).clamp(config.min, config.max);
    if wanted >= present {
        (status.below_since_ms, status.below_most) = (0, 0);
    } else if status.below_since_ms == 0 {
        (status.below_since_ms, status.below_most) = (now_ms, wanted);
    } else {
        status.below_most = status.below_most.max(wanted);
    }
    let cooldown_ms = config.cooldown_ns.map_or(COOLDOWN_MS, |ns| ns / 1_000_000);
    let window_ms = config.window_ns.map_or(WINDOW_MS, |ns| ns / 1_000_000);
    let cooled = status.scaled_at_ms == 0 || now_ms >= status.scaled_at_ms + cooldown_ms;
    if wanted == present {
        say(status, "as many replicas as are needed");
        return None;
    }
    if wanted < present && now_ms < status.below_since_ms + window_ms {
        say(status, "fewer replicas would do: waits whether that lasts");
        return None;
    }
    if !cooled {
        say(status, "waits for the cooldown to end");
        return None;
    }
    say(status, "as many replicas as are needed");
    if wanted > present { Some((wanted, reason)) } else { Some((status.below_most, reason)) }
}

/// What is said of it; only what changes in kind is written.
fn say(status: &mut v1::AutoscaleStatus, message: &str) {
    if status.message != message {
        message.clone_into(&mut status.message);
    }
}

/// A step up: to twice as many, or by four.
fn at_most_from(present: u64) -> u64 {
    present.saturating_mul(2).max(present.saturating_add(4))
}

/// How many replicas bring the average to the target; `ratios` are what tasks use over what they should.
fn track(present: u64, ratios: &[f64]) -> Option<u64> {
    if ratios.is_empty() || present == 0 {
        return None;
    }
    let (sum, known) = (ratios.iter().sum::<f64>(), ratios.len() as f64);
    let all = (present as f64).max(known);
    let missing = all - known;
    let seen = sum / known;
    let careful = if seen > 1.0 { sum / all } else { (sum + missing) / all };
    // What is not known must not turn a want of more into a want of fewer, or the other way round.
    if (careful - 1.0).abs() <= TOLERANCE || (seen > 1.0) != (careful > 1.0) {
        return Some(present);
    }
    // Floating point: 3.0000000000000004 replicas are three.
    Some(((careful * present as f64) - 1e-6).ceil().max(0.0) as u64)
}

struct Target {
    name: String,
    ratio: Box<dyn Fn(&Used) -> Option<f64>>,
}

/// What is to be tracked. Shares are of what a task has reserved, else of its limit, else (of processors) of one.
fn targets(config: &v1::Autoscale, task: &v1::TaskSpec) -> Vec<Target> {
    let of_task = |pick: fn(&v1::Resources) -> i64| {
        let given = |r: &Option<v1::Resources>| r.as_ref().map(pick).filter(|n| *n > 0);
        given(&task.reservations).or(given(&task.limits))
    };
    let mut all = Vec::new();
    if config.cpu_percent > 0.0 {
        let base = of_task(|r| r.nano_cpus).unwrap_or(1_000_000_000) as f64 * config.cpu_percent / 100.0;
        let name = "cpu".to_owned();
        all.push(Target { name, ratio: Box::new(move |u| Some(u.nano_cpus / base)) });
    }
    let share = of_task(|r| r.memory_bytes).map(|base| base as f64 * config.memory_percent / 100.0);
    let bytes = if config.memory_bytes > 0 { Some(config.memory_bytes as f64) } else { share };
    if let Some(base) = bytes.filter(|b| *b > 0.0) {
        let name = "memory".to_owned();
        all.push(Target { name, ratio: Box::new(move |u| Some(u.memory_bytes / base)) });
    }
    if let Some(metric) = &config.metric {
        let base = metric.target;
        all.push(Target { name: metric.name.clone(), ratio: Box::new(move |u| u.metric.map(|m| m / base)) });
    }
    all
}

/// Why these settings cannot be, if so.
pub fn nonsense(config: &v1::Autoscale, task: Option<&v1::TaskSpec>) -> Option<String> {
    let percent = |p: f64| p.is_finite() && (0.0..=10_000.0).contains(&p);
    if config.min == 0 || config.max < config.min {
        return Some(format!(
            "min={} and max={} are no bounds: want 1 <= min <= max",
            config.min, config.max
        ));
    }
    if !percent(config.cpu_percent) || !percent(config.memory_percent) || config.memory_bytes < 0 {
        return Some("a target is not between 0 and 10000%".to_owned());
    }
    if config.cooldown_ns.is_some_and(|ns| ns < 0) || config.window_ns.is_some_and(|ns| ns < 0) {
        return Some("the cooldown and the window must not be negative".to_owned());
    }
    if config.memory_percent > 0.0 && config.memory_bytes > 0 {
        return Some("memory is a share or an amount, not both".to_owned());
    }
    if let Some(m) = &config.metric {
        let named =
            !m.name.is_empty() && m.name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':');
        if !named {
            return Some(format!("{:?} is not the name of a metric", m.name));
        }
        if m.port == 0 || m.port > 65535 {
            return Some(format!("the metric's port {} is not between 1 and 65535", m.port));
        }
        let path = m.path.bytes().all(|b| b.is_ascii_graphic());
        if !(m.path.is_empty() || m.path.starts_with('/')) || !path {
            return Some(format!("the metric's path {:?} is not one: want something like /metrics", m.path));
        }
        if !(m.target.is_finite() && m.target > 0.0) {
            return Some(format!("the metric's target {} is not a positive number", m.target));
        }
    }
    let none = v1::TaskSpec::default();
    let task = task.unwrap_or(&none);
    if config.memory_percent > 0.0 {
        let has = |r: &Option<v1::Resources>| r.as_ref().is_some_and(|r| r.memory_bytes > 0);
        if !has(&task.reservations) && !has(&task.limits) {
            let why = "a share of memory is of what is reserved, or of the limit, and there is neither: use an amount, \
                       --reserve-memory or --limit-memory";
            return Some(why.to_owned());
        }
    }
    targets(config, task).is_empty().then(|| "there is no target: set cpu, memory or metric".to_owned())
}
