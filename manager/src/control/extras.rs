//! What a service has beside Docker's specification. Docker's clients drop the fields they do not know when they send
//! a specification back: an update without one of these leaves it as it is.

use std::collections::BTreeSet;

use skep_proto::v1;
use tonic::Status;

use super::validate;
use crate::prerequisites;
use crate::store::StoreView;

/// Fills in what an update says nothing of.
pub(super) fn keep(spec: &mut v1::ServiceSpec, before: Option<&v1::ServiceSpec>) {
    let Some(before) = before else { return };
    spec.drain_ns = spec.drain_ns.or(before.drain_ns);
    spec.data_placement = spec.data_placement.or(before.data_placement);
    spec.depends_on = spec.depends_on.take().or_else(|| before.depends_on.clone());
}

/// Refuses what cannot be.
pub(super) fn check(spec: &v1::ServiceSpec) -> Result<(), Status> {
    if spec.drain_ns.is_some_and(|ns| ns < 0) {
        return Err(Status::invalid_argument("the drain time must not be negative"));
    }
    if spec.data_placement.is_some_and(|p| v1::DataPlacement::try_from(p).is_err()) {
        return Err(Status::invalid_argument("the data placement is not known: stay, prefer or ignore"));
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

/// Refuses a service that would wait for itself.
pub(super) fn no_cycle(view: &StoreView, id: &str, spec: &v1::ServiceSpec) -> Result<(), Status> {
    match prerequisites::cycle(view, id, spec) {
        None => Ok(()),
        Some(way) => Err(Status::invalid_argument(format!("services would wait for each other: {way}"))),
    }
}
