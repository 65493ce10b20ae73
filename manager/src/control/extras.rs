//! What a service has beside Docker's specification. Docker's clients drop the fields they do not know when they send
//! a specification back: an update without one of these leaves it as it is.

use skep_proto::v1;
use tonic::Status;

/// Fills in what an update says nothing of.
pub(super) fn keep(spec: &mut v1::ServiceSpec, before: Option<&v1::ServiceSpec>) {
    let Some(before) = before else { return };
    spec.drain_ns = spec.drain_ns.or(before.drain_ns);
    spec.data_placement = spec.data_placement.or(before.data_placement);
}

/// Refuses what cannot be.
pub(super) fn check(spec: &v1::ServiceSpec) -> Result<(), Status> {
    if spec.drain_ns.is_some_and(|ns| ns < 0) {
        return Err(Status::invalid_argument("the drain time must not be negative"));
    }
    if spec.data_placement.is_some_and(|p| v1::DataPlacement::try_from(p).is_err()) {
        return Err(Status::invalid_argument("the data placement is not known: stay, prefer or ignore"));
    }
    Ok(())
}
