//! What a service or a network asks for that managers of older versions do not know: they would take it, keep it without that, and
//! hand it on so. (That its tasks keep off such nodes is the scheduler's.)

use skep_proto::features::{Feature, asked, is_on_one_address};
use skep_proto::v1;
use tonic::Status;

use crate::store::StoreView;

fn of(spec: Option<&v1::ServiceSpec>) -> Vec<Feature> {
    let container = spec.and_then(|s| s.task.as_ref()).and_then(|t| t.container.as_ref());
    let mut all = container.map(asked).unwrap_or_default();
    let mut ports = spec.and_then(|s| s.endpoint.as_ref()).into_iter().flat_map(|e| &e.ports);
    all.extend(ports.any(|p| is_on_one_address(&p.host_ip)).then_some(Feature::HostIp));
    all
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
    of(spec).into_iter().filter(|f| !had.contains(f)).try_for_each(|feature| known_to_all(view, feature))
}

/// The same of a network.
pub(super) fn possible_of_network(view: &StoreView, spec: Option<&v1::NetworkSpec>) -> Result<(), Status> {
    if !spec.is_some_and(|s| s.ipv6) {
        return Ok(());
    }
    known_to_all(view, Feature::OverlayIpv6)
}

fn known_to_all(view: &StoreView, feature: Feature) -> Result<(), Status> {
    // One that has no version has not said yet what it is.
    let managers = view.nodes().filter(|n| n.role() == v1::NodeRole::Manager);
    let described = managers.filter_map(|n| n.description.as_ref()).filter(|d| !d.engine_version.is_empty());
    let lacking: Vec<&str> =
        described.filter(|d| !feature.is_known_to(d)).map(|d| d.hostname.as_str()).collect();
    if lacking.is_empty() {
        return Ok(());
    }
    Err(Status::failed_precondition(format!(
        "{} need all managers, and these run an older version of Skep, which would drop them without a word: {}. \
         Upgrade them first, or do without",
        feature.what(),
        lacking.join(", ")
    )))
}
