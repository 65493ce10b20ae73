//! Explaining what is, and planning what would be: reads that nothing is written by.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use skep_proto::v1::{self, planned_write::Write};
use tonic::Status;

use super::{dependencies, lookup, networks, nodes, read, services};
use crate::context::Context;
use crate::forecast::forecast;
use crate::orchestrator::slot::{self, SlotKey};
use crate::orchestrator::task;
use crate::store::StoreView;
use crate::{explain, scheduler};

/// Tasks whose placement is judged in one answer: each is a pass over all nodes.
const MOST_JUDGED: usize = 20;

pub(super) fn explanations(
    view: &StoreView,
    request: &v1::ExplainRequest,
    now_ms: i64,
) -> Result<v1::ExplainResponse, Status> {
    let (service, only) = if request.task.is_empty() {
        (read::find_service(view, &request.service)?, None)
    } else {
        let t = view.find_task(&request.task).map_err(lookup)?;
        (read::find_service(view, &t.service_id)?, Some(t))
    };
    let mut slots = slot::slots(view, service);
    let mut tasks: Vec<_> = match only {
        Some(t) => vec![t.clone()],
        None => slots.values().filter_map(|s| s.newest().cloned()).collect(),
    };
    // Those that do not run come first.
    tasks.sort_by_key(|t| (!task::waiting(t), task::finished(t)));
    let mut judged = 0;
    let mut explained = Vec::new();
    for t in tasks {
        let slot = slots.entry(SlotKey::of(&t)).or_default();
        let standing = explain::standing(view, slot, &t, now_ms);
        let mut one = v1::TaskExplanation {
            service_name: read::service_name(service).to_owned(),
            standing,
            ..Default::default()
        };
        if task::live(&t) && judged < MOST_JUDGED {
            judged += 1;
            let placement = scheduler::explain(view, &t, now_ms);
            one.judged = true;
            one.nodes = placement.nodes;
            one.goes_to = placement.goes_to.unwrap_or_default();
            one.why = placement.why.unwrap_or_default();
        }
        one.task = Some(v1::Task::clone(&t));
        explained.push(one);
    }
    Ok(v1::ExplainResponse { tasks: explained, notes: explain::notes(service), stale: false })
}

pub(super) fn plan(
    ctx: &Context,
    view: &StoreView,
    request: v1::PlanRequest,
) -> Result<v1::PlanResponse, Status> {
    let (mut ahead, now_ms) = (view.clone(), ctx.now_ms());
    let mut all = Vec::new();
    for planned in request.writes {
        let id = Some(planned.id).filter(|id| !id.is_empty()).unwrap_or_else(|| ctx.new_id());
        let changes = match planned.write {
            Some(Write::CreateService(r)) => services::creation(&ahead, &r, &id, now_ms)?,
            Some(Write::UpdateService(r)) => services::changes(&ahead, &r, now_ms)?,
            Some(Write::RemoveService(r)) => services::removal(&ahead, &r)?,
            Some(Write::UpdateNode(r)) => nodes::changes(ctx, &ahead, &r)?,
            Some(Write::CreateNetwork(r)) => networks::creation(&ahead, &r, &id)?,
            Some(Write::CreateDependency(r)) => dependencies::creation(&ahead, &r, &id)?,
            None => return Err(Status::invalid_argument("a planned write says nothing")),
        };
        ahead.foresee(changes.clone(), now_ms);
        all.extend(changes);
    }
    let mut rng: StdRng = ctx.with_rng(|rng| StdRng::seed_from_u64(rng.random()));
    let found = forecast(view, all, now_ms, &mut rng);
    Ok(v1::PlanResponse { steps: found.steps, complete: found.complete, stale: false })
}
