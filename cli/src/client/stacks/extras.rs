//! What a service of a Compose file asks that is Skep's own: keys `x-...` of the service, which Docker's client
//! passes over. (Not within `deploy`, where it takes nothing unknown.)

use anyhow::Result;
use serde_json::Value;

use crate::compose::{Node, Problem, units};

/// Adds it to the spec of the service called `name`.
pub fn add(name: &str, service: &Node, spec: &mut Value) -> Result<()> {
    let wrong = |node: &Node, key: &str, want: &str| {
        Problem::new(&node.at, format!("services.{name}.{key}: want {want}"))
    };
    if let Some(node) = service.get("x-drain-time") {
        let drain = node.text().and_then(units::duration);
        spec["DrainTime"] = drain.ok_or_else(|| wrong(node, "x-drain-time", "a duration like 1m30s"))?.into();
    }
    if let Some(node) = service.get("x-data-placement") {
        let word = node.text().filter(|w| ["stay", "prefer", "ignore"].contains(w));
        let word = word.ok_or_else(|| wrong(node, "x-data-placement", "stay, prefer or ignore"))?;
        spec["DataPlacement"] = word.into();
    }
    Ok(())
}
