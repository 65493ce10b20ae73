//! What the commands print.

use std::collections::BTreeMap;
use std::fmt::Write;

use skep_manager::orchestrator::task;
use skep_manager::store::StoreView;
use skep_proto::v1;

fn state(s: v1::TaskState) -> String {
    s.as_str_name().trim_start_matches("TASK_STATE_").to_lowercase()
}

/// One line a task, by service, slot and age.
pub fn tasks(view: &StoreView) -> String {
    let mut out = String::new();
    for service in view.services() {
        let mut tasks: Vec<_> = view.tasks_of_service(&service.id).collect();
        let order = |t: &v1::Task| (t.slot, if t.slot == 0 { t.node_id.clone() } else { String::new() });
        tasks.sort_by(|a, b| order(a).cmp(&order(b)).then_with(|| task::age_key(a).cmp(&task::age_key(b))));
        for t in tasks {
            let slot = if t.slot == 0 { t.node_id.clone() } else { t.slot.to_string() };
            let node = if t.node_id.is_empty() { "-" } else { &t.node_id };
            let iteration = t.job_iteration.map(|n| format!(" i{n}")).unwrap_or_default();
            let _ = write!(out, "{}.{slot} r{}{iteration} {node} ", service.id, t.revision);
            let _ = write!(out, "{}", state(task::state(t)));
            let _ = write!(out, " (wanted {})", state(t.desired_state()));
            for a in &t.addresses {
                let _ = write!(out, " {}={}{}", a.network_id, a.addr, after(&a.addr6));
            }
            for g in &t.generic {
                let what = if g.name.is_empty() { g.amount.to_string() } else { g.name.clone() };
                let _ = write!(out, " {}:{what}", g.kind);
            }
            if let Some(s) = t.status.as_ref().filter(|s| !s.err.is_empty()) {
                let _ = write!(out, ": {}", s.err);
            }
            out.push('\n');
        }
    }
    out
}

/// Slots of jobs that are not complete, and nodes that lack their task of a global service.
pub fn unfinished(view: &StoreView) -> String {
    let mut out = String::new();
    for service in view.services() {
        if let Some(v1::service_spec::Mode::Global(_)) = service.spec.as_ref().and_then(|s| s.mode.as_ref()) {
            let has = |n: &v1::Node| {
                view.tasks_of_service(&service.id).any(|t| t.node_id == n.id && task::wanted(t))
            };
            for node in view.nodes().filter(|n| !has(n)) {
                let _ = writeln!(out, "{}.{}", service.id, node.id);
            }
        }
        let Some(job) = &service.job_status else { continue };
        let tasks = view.tasks_of_service(&service.id).filter(|t| task::current(service, t));
        let done: Vec<_> = tasks.filter(|t| task::state(t) == v1::TaskState::Complete).collect();
        let slots: Vec<String> = match service.spec.as_ref().and_then(|s| s.mode.as_ref()) {
            Some(v1::service_spec::Mode::ReplicatedJob(r)) => {
                let open = |n: &u64| done.iter().all(|t| t.slot != *n);
                (1..=r.total_completions).filter(open).map(|n| n.to_string()).collect()
            }
            _ => {
                let of_then = |n: &v1::Node| n.meta.is_some_and(|m| m.created_at_ms <= job.last_execution_ms);
                let open = |n: &v1::Node| of_then(n) && done.iter().all(|t| t.node_id != n.id);
                view.nodes().filter(|n| open(n)).map(|n| n.id.clone()).collect()
            }
        };
        for slot in slots {
            let _ = writeln!(out, "{}.{slot}", service.id);
        }
    }
    out
}

/// How many live tasks of each service each node has.
pub fn spread(view: &StoreView) -> String {
    let mut counts: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for t in view.tasks().filter(|t| task::live(t)) {
        *counts.entry((&t.service_id, &t.node_id)).or_default() += 1;
    }
    counts.iter().fold(String::new(), |mut out, ((service, node), n)| {
        let _ = writeln!(out, "{service} {} {n}", if node.is_empty() { "-" } else { node });
        out
    })
}

/// Revision, update, addresses and ports of a service.
pub fn status(view: &StoreView, name: &str) -> Result<String, String> {
    let service = match view.find_service(name) {
        Ok(service) => service,
        Err(e) => return Ok(format!("{e}\n")),
    };
    let image = service.spec.as_ref().and_then(|s| s.task.as_ref()).and_then(|t| t.container.as_ref());
    let mut out = format!("revision {} image {}\n", service.revision, image.map_or("", |c| &c.image));
    if let Some(u) = &service.update_status {
        let state = u.state().as_str_name().trim_start_matches("UPDATE_STATE_").to_lowercase();
        let message = u.message.split(" task ").next().unwrap_or_default();
        let _ = writeln!(out, "{state}: {message}");
    }
    for vip in service.endpoint.iter().flat_map(|e| &e.virtual_ips) {
        let _ = writeln!(out, "vip {} {}{}", vip.network_id, vip.addr, after(&vip.addr6));
    }
    for p in service.endpoint.iter().flat_map(|e| &e.ports) {
        let _ = writeln!(out, "port {} -> {}", p.published_port, p.target_port);
    }
    let revisions: Vec<_> = view.revisions_of(&service.id).map(|r| r.number.to_string()).collect();
    let _ = writeln!(out, "revisions kept: {}", revisions.join(" "));
    Ok(out)
}

/// Subnets of networks and overlay addresses of nodes.
pub fn networks(view: &StoreView) -> String {
    let mut out = String::new();
    for n in view.networks() {
        let _ = writeln!(out, "network {} {}{} gateway {}", n.id, n.subnet, after(&n.subnet6), n.gateway);
    }
    for n in view.nodes() {
        let _ = writeln!(out, "node {} {}", n.id, n.overlay_addr);
    }
    out
}

/// What there is of IPv6, behind what there is of IPv4.
fn after(six: &str) -> String {
    if six.is_empty() { String::new() } else { format!(",{six}") }
}

/// Routes of a network.
pub fn blocks(view: &StoreView, network: &str) -> String {
    let blocks = skep_manager::allocator::blocks(view, network);
    let six = skep_manager::allocator::v6::blocks(view, network, &blocks);
    let mut out = String::new();
    for (cidr, node) in &blocks {
        let _ = writeln!(out, "{cidr} {node}");
    }
    for (cidr, node) in six {
        let _ = writeln!(out, "{cidr} {node}");
    }
    out
}

/// Where the data of slots lies.
pub fn homes(view: &StoreView) -> String {
    let mut out = String::new();
    for s in view.services() {
        for (slot, home) in view.homes(&s.id).into_iter().flat_map(|h| &h.slots) {
            let _ = writeln!(out, "{}.{slot} {} on {}", s.id, home.volumes.join(","), home.node_id);
        }
    }
    out
}

/// What a task does, and what becomes of it.
pub fn explanation(standing: &str, placement: Option<&skep_manager::scheduler::Explanation>) -> String {
    let mut out = format!("{standing}\n");
    let Some(placement) = placement else { return out };
    for n in &placement.nodes {
        let ranks =
            format!("{} failures, {} of the service, {} in all", n.failures, n.service_tasks, n.tasks);
        let why = if n.refusal.is_empty() { ranks } else { n.refusal.clone() };
        let _ = writeln!(out, "  {}: {why}", n.hostname);
    }
    let goes = placement.goes_to.as_ref().map(|n| format!("goes to {n}"));
    let _ = writeln!(out, "{}", goes.or(placement.why.clone()).unwrap_or_default());
    out
}

/// The steps of a plan.
pub fn plan(found: &skep_manager::forecast::Forecast) -> String {
    let mut out = String::new();
    for s in &found.steps {
        let on = if s.node.is_empty() { String::new() } else { format!(" on {}", s.node) };
        let why = if s.why.is_empty() { String::new() } else { format!(": {}", s.why) };
        let _ = writeln!(out, "{}ms {} {}.{}{on}{why}", s.after_ms, s.act, s.service, s.slot);
    }
    let _ = writeln!(out, "{}", if found.complete { "at rest" } else { "and so on" });
    out
}

/// Runs of a schedule, in seconds after 1970.
pub fn runs(view: &StoreView, name: &str) -> Result<String, String> {
    let service = view.find_service(name).map_err(|e| e.to_string())?;
    let status = service.schedule_status.clone().unwrap_or_default();
    let mut out = String::new();
    for r in &status.runs {
        let outcome = r.outcome().as_str_name().trim_start_matches("RUN_OUTCOME_").to_lowercase();
        let iteration = r.iteration.map(|n| format!(" i{n}")).unwrap_or_default();
        let _ = writeln!(out, "due {}{iteration} began {} {outcome}", r.due_ms / 1000, r.began_ms / 1000);
    }
    let _ = writeln!(out, "next {}", status.next_ms / 1000);
    Ok(out)
}

/// How many runs of a schedule are under way, and why the last of the others was not begun.
pub fn under_way(view: &StoreView, name: &str) -> Result<String, String> {
    let service = view.find_service(name).map_err(|e| e.to_string())?;
    let runs = service.schedule_status.clone().unwrap_or_default().runs;
    let count = runs.iter().filter(|r| r.outcome() == v1::RunOutcome::Running).count();
    let last = runs.iter().rev().find(|r| !r.reason.is_empty()).map_or("-", |r| &r.reason);
    Ok(format!("{count} under way; {last}\n"))
}

/// Where a rebalance stands.
pub fn balance(view: &StoreView, name: &str) -> Result<String, String> {
    let service = view.find_service(name).map_err(|e| e.to_string())?;
    let Some(status) = &service.rebalance_status else { return Ok("-\n".to_owned()) };
    let state = status.state().as_str_name().trim_start_matches("REBALANCE_STATE_").to_lowercase();
    Ok(format!("{state}: {}\n", status.message))
}
