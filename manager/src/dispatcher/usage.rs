//! What tasks of services that are scaled by themselves use: which nodes are asked for it, what they say (not replicated:
//! a new leader waits for the next word), and the loop in which the leader has the autoscaler decide.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use skep_proto::v1::{self, TaskState};
use tokio::time::Instant;

use crate::autoscaler::{self, Used};
use crate::context::Context;
use crate::orchestrator::task;
use crate::store::StoreView;
use crate::store::change::put;

/// How often the leader looks.
const EVERY: Duration = Duration::from_secs(5);
/// What is older is not known any more.
const FRESH: Duration = Duration::from_secs(30);

/// What the leader has been told.
#[derive(Default)]
pub(super) struct Usage {
    told: Mutex<HashMap<String, (Instant, Used)>>,
}

impl Usage {
    /// Takes what a node says of its tasks.
    pub fn take(&self, view: &StoreView, node_id: &str, usage: &[v1::TaskUsage]) {
        if usage.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for u in usage.iter().filter(|u| view.task(&u.task_id).is_some_and(|t| t.node_id == node_id)) {
            let sane = |n: f64| n.is_finite() && n >= 0.0;
            let used = Used {
                nano_cpus: u.nano_cpus as f64,
                memory_bytes: u.memory_bytes as f64,
                metric: u.metric.filter(|m| sane(*m)),
            };
            told.insert(u.task_id.clone(), (now, used));
        }
    }

    /// What is known of the running tasks of a service.
    fn of(&self, view: &StoreView, service_id: &str) -> BTreeMap<String, Used> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |t: &Arc<v1::Task>| {
            let (at, used) = told.get(&t.id)?;
            (at.elapsed() < FRESH).then(|| (t.id.clone(), used.clone()))
        };
        view.tasks_of_service(service_id).filter(|t| counts(t)).filter_map(known).collect()
    }

    fn forget_old(&self) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, (at, _)| at.elapsed() < FRESH);
    }
}

fn counts(t: &v1::Task) -> bool {
    task::live(t) && task::state(t) == TaskState::Running
}

/// What a node is to tell of its tasks.
pub(super) fn wanted(view: &StoreView, node_id: &str) -> Vec<v1::UsageWanted> {
    let one = |t: &Arc<v1::Task>| {
        let config = autoscaler::of(view.service(&t.service_id)?)?;
        Some(v1::UsageWanted { task_id: t.id.clone(), metric: config.metric.clone() })
    };
    view.tasks_of_node(node_id).filter(|t| counts(t)).filter_map(one).collect()
}

/// While this manager leads: scales the services that are scaled by themselves.
pub(super) async fn watch(ctx: Arc<Context>, usage: Arc<Usage>) {
    let mut leadership = ctx.consensus.leader();
    loop {
        if ctx.is_leader() {
            usage.forget_old();
            scale(&ctx, &usage).await;
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            changed = leadership.changed() => if changed.is_err() { return },
        }
    }
}

async fn scale(ctx: &Context, usage: &Usage) {
    let due = |view: &StoreView| -> Vec<v1::Service> {
        let services = view.services().filter(|s| !s.removing && autoscaler::of(s).is_some());
        let decide = |s: &Arc<v1::Service>| {
            let spec = view.present_spec(s)?;
            autoscaler::pass(s, spec, &usage.of(view, &s.id), ctx.now_ms())
        };
        services.filter_map(decide).collect()
    };
    if due(&ctx.view()).is_empty() {
        return;
    }
    if let Err(error) = ctx.write(|view| Ok(due(view).into_iter().map(put).collect())).await {
        tracing::warn!(%error, "services are not scaled by what they use yet");
    }
}
