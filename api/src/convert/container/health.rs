//! Health checks in Docker's JSON, both ways.

use std::time::Duration;

use serde_json::{Value, json};
use skep_engine::{Health, HealthConfig};

use crate::convert::time;
use crate::error::{ApiError, ApiResult};
use crate::fields::Fields;

/// Reads `Healthcheck`; one that says nothing is none.
pub fn read_health(mut f: Fields) -> ApiResult<Option<HealthConfig>> {
    let retries = f.i64("Retries")?;
    let span = |f: &mut Fields, key: &str| -> ApiResult<Duration> {
        let ns = f.i64(key)?;
        u64::try_from(ns)
            .map(Duration::from_nanos)
            .map_err(|_| ApiError::bad_request(format!("{key} in Healthcheck cannot be less than 1ms")))
    };
    let health = HealthConfig {
        test: f.strings("Test")?,
        interval: span(&mut f, "Interval")?,
        timeout: span(&mut f, "Timeout")?,
        start_period: span(&mut f, "StartPeriod")?,
        start_interval: span(&mut f, "StartInterval")?,
        retries: u32::try_from(retries)
            .map_err(|_| ApiError::bad_request("Retries in Healthcheck cannot be negative"))?,
    };
    f.refuse_rest(&[])?;
    Ok(Some(health).filter(|h| *h != HealthConfig::default()))
}

/// `Config.Healthcheck`.
pub fn config(h: &HealthConfig) -> Value {
    let mut out = json!({});
    if !h.test.is_empty() {
        out["Test"] = json!(h.test);
    }
    for (key, value) in [
        ("Interval", h.interval),
        ("Timeout", h.timeout),
        ("StartPeriod", h.start_period),
        ("StartInterval", h.start_interval),
    ] {
        if !value.is_zero() {
            out[key] = json!(u64::try_from(value.as_nanos()).unwrap_or(u64::MAX));
        }
    }
    if h.retries != 0 {
        out["Retries"] = json!(h.retries);
    }
    out
}

/// `State.Health`.
pub(super) fn state(h: &Health) -> Value {
    let log: Vec<Value> = h
        .log
        .iter()
        .map(|r| {
            json!({
                "Start": time::from_ns(r.start_ns), "End": time::from_ns(r.end_ns),
                "ExitCode": r.exit_code, "Output": r.output,
            })
        })
        .collect();
    json!({ "Status": h.status.as_str(), "FailingStreak": h.failing_streak, "Log": log })
}
