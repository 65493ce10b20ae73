//! What a service does where its specification says nothing: shown by `inspect` when asked to (`insertDefaults`,
//! Engine API, ServiceInspect), and never stored.

use serde_json::{Map, Value, json};
use skep_proto::defaults::{RESTART_DELAY, STOP_GRACE, UPDATE_MONITOR};

/// Fills the gaps of a service as `inspect` shows it.
pub fn insert(service: &mut Value) {
    let Some(spec) = service.get_mut("Spec").and_then(Value::as_object_mut) else { return };
    let update = json!({
        "Parallelism": 1,
        "FailureAction": "pause",
        "Monitor": nanos(UPDATE_MONITOR),
        "MaxFailureRatio": 0,
        "Order": "stop-first",
    });
    let mode = spec.get("Mode");
    let job = mode.is_some_and(|m| m.get("ReplicatedJob").is_some() || m.get("GlobalJob").is_some());
    if !job {
        fill(spec, "UpdateConfig", &update);
        fill(spec, "RollbackConfig", &update);
    }
    fill(spec, "EndpointSpec", &json!({ "Mode": "vip" }));
    let Some(task) = spec.get_mut("TaskTemplate").and_then(Value::as_object_mut) else { return };
    fill(
        task,
        "RestartPolicy",
        &json!({ "Condition": "any", "Delay": nanos(RESTART_DELAY), "MaxAttempts": 0 }),
    );
    fill(task, "Resources", &json!({}));
    let Some(container) = task.get_mut("ContainerSpec").and_then(Value::as_object_mut) else { return };
    fill(container, "StopGracePeriod", &json!(nanos(STOP_GRACE)));
    fill(container, "DNSConfig", &json!({}));
}

fn nanos(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Inserts what is missing; into an object, key by key.
fn fill(map: &mut Map<String, Value>, key: &str, default: &Value) {
    match (map.get_mut(key), default) {
        (None | Some(Value::Null), _) => {
            map.insert(key.to_owned(), default.clone());
        }
        (Some(Value::Object(present)), Value::Object(defaults)) => {
            for (key, value) in defaults {
                present.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_stays_and_what_is_not_is_filled_in() {
        let mut service = json!({"Spec": {
            "UpdateConfig": {"Parallelism": 0, "Order": "start-first"},
            "TaskTemplate": {"ContainerSpec": {"Image": "a"}, "RestartPolicy": {"Condition": "none"}},
        }});
        insert(&mut service);
        let spec = &service["Spec"];
        assert_eq!(spec["UpdateConfig"]["Parallelism"], 0, "as much at a time as there is");
        assert_eq!(spec["UpdateConfig"]["Order"], "start-first");
        assert_eq!(spec["UpdateConfig"]["Monitor"], 5_000_000_000_u64);
        assert_eq!(spec["RollbackConfig"]["Parallelism"], 1);
        assert_eq!(spec["TaskTemplate"]["RestartPolicy"]["Condition"], "none");
        assert_eq!(spec["TaskTemplate"]["ContainerSpec"]["StopGracePeriod"], 10_000_000_000_u64);
        assert_eq!(spec["EndpointSpec"]["Mode"], "vip");
    }
}
