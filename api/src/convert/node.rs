//! Nodes: `NodeSpec` read, nodes written, and the filters of `node ls`.

use serde_json::{Value, json};
use skep_proto::v1::{Annotations, Node, NodeAvailability, NodeRole, NodeSpec, NodeState};

use super::names::Named;
use super::{created, generic, tls_info, updated, version};
use crate::error::ApiResult;
use crate::fields::Fields;
use crate::filters::Filters;

/// The names `node ls --filter` knows.
pub const FILTERS: &[&str] = &["id", "label", "membership", "name", "node.label", "role"];

/// Body of `POST /nodes/{id}/update`.
pub fn read_spec(body: &[u8]) -> ApiResult<NodeSpec> {
    let mut f = Fields::parse(body)?;
    let spec = NodeSpec {
        annotations: Some(Annotations { name: f.string("Name")?, labels: f.string_map("Labels")? }),
        role: NodeRole::read("Role", &f.string("Role")?)? as i32,
        availability: NodeAvailability::read("Availability", &f.string("Availability")?)? as i32,
    };
    f.refuse_rest(&[])?;
    Ok(spec)
}

/// A node as `inspect` and `ls` show it.
pub fn node(n: &Node) -> Value {
    let spec = n.spec.clone().unwrap_or_default();
    let annotations = spec.annotations.unwrap_or_default();
    let d = n.description.clone().unwrap_or_default();
    let platform = d.platform.unwrap_or_default();
    let resources = d.resources.unwrap_or_default();
    let mut out = json!({
        "ID": n.id,
        "Version": version(n.meta.as_ref()),
        "CreatedAt": created(n.meta.as_ref()),
        "UpdatedAt": updated(n.meta.as_ref()),
        "Spec": {
            "Labels": annotations.labels,
            "Role": NodeRole::word(spec.role),
            "Availability": NodeAvailability::word(spec.availability),
        },
        "Description": {
            "Hostname": d.hostname,
            "Platform": { "Architecture": platform.architecture, "OS": platform.os },
            "Resources": { "NanoCPUs": resources.nano_cpus, "MemoryBytes": resources.memory_bytes },
            "Engine": { "EngineVersion": d.engine_version, "Labels": d.engine_labels, "Plugins": [] },
            "TLSInfo": tls_info(d.tls.as_ref()),
        },
        "Status": { "State": NodeState::word(n.state), "Message": n.message, "Addr": n.addr },
    });
    if !d.generic.is_empty() {
        out["Description"]["Resources"]["GenericResources"] = generic::write(&d.generic);
    }
    // Skep's own: Docker's clients pass over it.
    if !d.allows.is_empty() {
        out["Description"]["Allows"] = json!(d.allows);
    }
    if !d.knows.is_empty() {
        out["Description"]["Knows"] = json!(d.knows);
    }
    if !d.default_runtime.is_empty() {
        out["Description"]["DefaultRuntime"] = json!(d.default_runtime);
    }
    if !annotations.name.is_empty() {
        out["Spec"]["Name"] = annotations.name.into();
    }
    if let Some(m) = &n.manager {
        let reachability = match (m.learner, m.reachable) {
            (true, _) => "unknown",
            (false, true) => "reachable",
            (false, false) => "unreachable",
        };
        out["ManagerStatus"] = json!({ "Reachability": reachability, "Addr": m.addr });
        if m.leader {
            out["ManagerStatus"]["Leader"] = true.into();
        }
    }
    out
}

/// Checks the values of the filters.
pub fn check(filters: &Filters) -> ApiResult<()> {
    filters.check("role", &["manager", "worker"])?;
    filters.check("membership", &["accepted", "pending"])
}

/// Whether `node ls` shows it.
pub fn matches(filters: &Filters, n: &Node) -> bool {
    let spec = n.spec.clone().unwrap_or_default();
    let annotations = spec.annotations.unwrap_or_default();
    let d = n.description.clone().unwrap_or_default();
    let name = if annotations.name.is_empty() { &d.hostname } else { &annotations.name };
    filters.any("id", |v| n.id.starts_with(v))
        && filters.any("name", |v| name.starts_with(v))
        && filters.any("role", |v| v == NodeRole::word(spec.role))
        && filters.any("membership", |v| v == "accepted")
        && filters.labels("label", |k| d.engine_labels.get(k).map(String::as_str))
        && filters.labels("node.label", |k| annotations.labels.get(k).map(String::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_shows_its_role_and_reads_back() {
        let spec =
            read_spec(br#"{"Labels":{"zone":"a"},"Role":"manager","Availability":"drain"}"#).expect("valid");
        let shown = node(&Node { id: "n".into(), spec: Some(spec.clone()), ..Node::default() });
        assert_eq!(shown["Spec"]["Availability"], "drain");
        assert_eq!(shown.get("ManagerStatus"), None);
        assert_eq!(read_spec(shown["Spec"].to_string().as_bytes()), Ok(spec));
        assert!(read_spec(br#"{"Role":"king"}"#).is_err());
    }
}
