//! Idle timeouts of a service's connections: what can be asked for, and whether all nodes can do it. Each node that leads a
//! connection on has to keep it for as long, so one that cannot is a reason to refuse.

use skep_proto::v1;
use tonic::Status;

use crate::store::StoreView;

const SECOND: i64 = 1_000_000_000;
/// The kernel counts in 32 bits of its clock's ticks, up to 1000 a second, and compares with a sign.
const LONGEST: i64 = 24 * 24 * 3600;

/// Refuses what no kernel can count.
pub(super) fn check(spec: &v1::ServiceSpec) -> Result<(), Status> {
    let Some(asked) = spec.idle_timeout else { return Ok(()) };
    for (protocol, ns) in [("tcp", asked.tcp_ns), ("udp", asked.udp_ns)] {
        if ns < 0 || ns % SECOND != 0 || ns / SECOND > LONGEST {
            return Err(Status::invalid_argument(format!(
                "idle timeout of {protocol}: want whole seconds, from 1s to 576h (24 days), or 0 for what each node has for \
                 all other connections"
            )));
        }
    }
    Ok(())
}

/// Refuses them where a node cannot do it. What holds already goes on: a node that came later does without.
pub(super) fn possible(
    view: &StoreView,
    spec: &v1::ServiceSpec,
    before: Option<&v1::ServiceSpec>,
) -> Result<(), Status> {
    if spec.idle_timeout.is_none() || before.is_some_and(|b| b.idle_timeout == spec.idle_timeout) {
        return Ok(());
    }
    let lacking = view.nodes().filter_map(|n| n.description.as_ref()).filter(|d| !d.has_idle_timeouts);
    let names: Vec<&str> = lacking.map(|d| d.hostname.as_str()).collect();
    if names.is_empty() {
        return Ok(());
    }
    Err(Status::failed_precondition(format!(
        "idle timeouts of a service need all nodes, and these cannot: {}. Either their kernel has no timeouts for single \
         connections (CONFIG_NF_CONNTRACK_TIMEOUT and the module nft_ct; their log says so), or they run an older version \
         of Skep: upgrade them, or do without an idle timeout",
        names.join(", ")
    )))
}
