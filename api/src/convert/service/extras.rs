//! Fields of a service specification that are Skep's own. Docker's clients pass over them, and drop them when they
//! send a specification back; so what is absent is not asked to change.

use serde_json::{Value, json};
use skep_proto::v1::{DataPlacement, Homes, ServiceSpec};

use crate::convert::names::Named;
use crate::error::ApiResult;
use crate::fields::Fields;

/// Takes them out of a request.
pub fn read(f: &mut Fields, spec: &mut ServiceSpec) -> ApiResult<()> {
    spec.drain_ns = super::read::duration(f, "DrainTime")?;
    let path = f.path("DataPlacement");
    spec.data_placement =
        f.opt_string("DataPlacement")?.map(|w| DataPlacement::read(&path, &w)).transpose()?.map(|p| p as i32);
    Ok(())
}

/// Adds them to a specification that is shown.
pub fn write(s: &ServiceSpec, out: &mut Value) {
    if let Some(drain) = s.drain_ns {
        out["DrainTime"] = drain.into();
    }
    if let Some(placement) = s.data_placement {
        out["DataPlacement"] = DataPlacement::word(placement).into();
    }
}

/// `DataNodes` of a service: the node that holds the data of each slot.
pub fn data_nodes(homes: &Homes) -> Value {
    let one = |(slot, h): (&u64, &skep_proto::v1::Home)| json!({ "Slot": slot, "NodeID": h.node_id, "Volumes": h.volumes });
    homes.slots.iter().map(one).collect()
}
