//! What services ask for as `run` does: kept over updates by clients that know nothing of it, and told of where it
//! was, or where no node allows it.

use skep_proto::gpus::{GPU, are_counted};
use skep_proto::privileges::{Privilege, needed};
use skep_proto::v1;

use crate::store::StoreView;

fn of(spec: Option<&v1::ServiceSpec>) -> Option<&v1::ContainerSpec> {
    spec?.task.as_ref()?.container.as_ref()
}

/// Docker's clients send back a specification without what they do not know of: what there was `before` stays. What
/// is given and asks for nothing takes it away.
pub(super) fn keep(spec: &mut v1::ServiceSpec, before: Option<&v1::ServiceSpec>) {
    let Some(task) = &mut spec.task else { return };
    let Some(container) = &mut task.container else { return };
    let run = container.run.take().or_else(|| of(before).and_then(|c| c.run.clone()));
    container.run = run.filter(|run| *run != v1::RunOptions::default());
    let gpus = container.run.as_ref().map_or(0, gpus);
    if gpus > 0 {
        task.generic.retain(|g| g.kind != GPU);
        task.generic.push(v1::GenericResource { kind: GPU.into(), name: String::new(), amount: gpus });
    }
}

/// How many GPUs are asked for by their number.
fn gpus(run: &v1::RunOptions) -> i64 {
    let counted = run.device_requests.iter().filter(|r| are_counted(r));
    counted.map(|r| r.count.max(0)).fold(0, i64::saturating_add)
}

/// What the client is told of a service that it made or, with what it `sent`, updated.
pub(super) fn warnings(
    view: &StoreView,
    service: Option<&v1::Service>,
    sent: Option<&v1::ServiceSpec>,
) -> Vec<String> {
    let Some(container) = service.and_then(|s| of(s.spec.as_ref())) else { return Vec::new() };
    let mut warnings = Vec::new();
    if container.run.is_some() && of(sent).is_some_and(|c| c.run.is_none()) {
        warnings.push(
            "RunOptions (privileged, devices and the like, which services of Docker do not have) stay as they were: \
             this client does not know them; change them with skep service update"
                .to_owned(),
        );
    }
    let (by_own, by_another) = (needed(container, true), needed(container, false));
    let takes = |n: &v1::Node, p: Privilege| {
        let d = n.description.as_ref();
        let needed = if d.is_none_or(|d| d.default_runtime.is_empty()) { &by_own } else { &by_another };
        !needed.contains_key(&p) || d.is_some_and(|d| d.allows.iter().any(|word| word == p.word()))
    };
    for (p, what) in &by_another {
        if !view.nodes().any(|n| takes(n, *p)) {
            warnings.push(format!(
                "no node allows {what} in services yet: start daemons with --allow-in-services {}",
                p.word()
            ));
        }
    }
    warnings
}
