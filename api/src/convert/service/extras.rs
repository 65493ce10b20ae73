//! Fields of a service specification that are Skep's own. Docker's clients pass over them, and drop them when they
//! send a specification back; so what is absent is not asked to change.

use serde_json::{Value, json};
use skep_proto::v1::{DataPlacement, Homes, Prerequisite, PrerequisiteCondition, Prerequisites, ServiceSpec};

use crate::convert::names::Named;
use crate::error::{ApiError, ApiResult};
use crate::fields::Fields;

/// Takes them out of a request.
pub fn read(f: &mut Fields, spec: &mut ServiceSpec) -> ApiResult<()> {
    spec.drain_ns = super::read::duration(f, "DrainTime")?;
    let path = f.path("DataPlacement");
    spec.data_placement =
        f.opt_string("DataPlacement")?.map(|w| DataPlacement::read(&path, &w)).transpose()?.map(|p| p as i32);
    if let Some(list) = f.opt_objects("DependsOn")? {
        let all = list.into_iter().map(prerequisite).collect::<ApiResult<_>>()?;
        spec.depends_on = Some(Prerequisites { all });
    }
    Ok(())
}

fn prerequisite(mut f: Fields) -> ApiResult<Prerequisite> {
    let service = f.string("Service")?;
    if service.is_empty() {
        return Err(ApiError::bad_request(format!("{} is missing: name a service", f.path("Service"))));
    }
    let condition = PrerequisiteCondition::read(&f.path("Condition"), &f.string("Condition")?)? as i32;
    let optional = f.bool("Optional")?;
    f.refuse_rest(&[])?;
    Ok(Prerequisite { service, condition, optional })
}

/// Adds them to a specification that is shown.
pub fn write(s: &ServiceSpec, out: &mut Value) {
    if let Some(drain) = s.drain_ns {
        out["DrainTime"] = drain.into();
    }
    if let Some(placement) = s.data_placement {
        out["DataPlacement"] = DataPlacement::word(placement).into();
    }
    if let Some(d) = s.depends_on.as_ref().filter(|d| !d.all.is_empty()) {
        let one = |p: &Prerequisite| {
            let mut shown =
                json!({ "Service": p.service, "Condition": PrerequisiteCondition::word(p.condition) });
            if p.optional {
                shown["Optional"] = true.into();
            }
            shown
        };
        out["DependsOn"] = d.all.iter().map(one).collect();
    }
}

/// `DataNodes` of a service: the node that holds the data of each slot.
pub fn data_nodes(homes: &Homes) -> Value {
    let one = |(slot, h): (&u64, &skep_proto::v1::Home)| json!({ "Slot": slot, "NodeID": h.node_id, "Volumes": h.volumes });
    homes.slots.iter().map(one).collect()
}
