//! What a service asks for that managers of older versions do not know: they would take it, keep it without that, and
//! hand it on so. (That its tasks keep off such nodes is the scheduler's.)

use skep_proto::features::{Feature, asked};
use skep_proto::v1;
use tonic::Status;

use crate::store::StoreView;

fn of(spec: Option<&v1::ServiceSpec>) -> Vec<Feature> {
    spec.and_then(|s| s.task.as_ref()).and_then(|t| t.container.as_ref()).map(asked).unwrap_or_default()
}

/// Whether it asks for anything that some version does not know.
pub(super) fn any(spec: Option<&v1::ServiceSpec>) -> bool {
    !of(spec).is_empty()
}

/// Refuses what is new in it where a manager would drop it.
pub(super) fn possible(
    view: &StoreView,
    spec: Option<&v1::ServiceSpec>,
    before: Option<&v1::ServiceSpec>,
) -> Result<(), Status> {
    let had = of(before);
    for feature in of(spec).into_iter().filter(|f| !had.contains(f)) {
        // One that has no version has not said yet what it is.
        let managers = view.nodes().filter(|n| n.role() == v1::NodeRole::Manager);
        let described =
            managers.filter_map(|n| n.description.as_ref()).filter(|d| !d.engine_version.is_empty());
        let lacking: Vec<&str> =
            described.filter(|d| !feature.is_known_to(d)).map(|d| d.hostname.as_str()).collect();
        if !lacking.is_empty() {
            return Err(Status::failed_precondition(format!(
                "{} need all managers, and these run an older version of Skep, which would drop them without a word: {}. \
                 Upgrade them first, or do without",
                feature.what(),
                lacking.join(", ")
            )));
        }
    }
    Ok(())
}
