//! What `--autoscale` and `x-autoscale` say: words with values, as `Autoscale` of a service's specification.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::compose::units;

/// What there is to say, for a person.
pub const WORDS: &str = "min, max, cpu (like 70%), memory (like 80% or 512M), metric, metric-port, metric-path, \
                         metric-target, cooldown and window (like 60s)";

/// `min=2,max=10,cpu=70%`: sets what is named in `out`; nothing at all turns it off.
pub fn flag(out: &mut Value, text: &str) -> Result<()> {
    if text.is_empty() {
        *out = json!({ "Min": 0, "Max": 0 });
        return Ok(());
    }
    if out.is_null() || out["Max"] == 0 {
        *out = json!({});
    }
    for word in text.split(',') {
        let wrong = || format!("invalid --autoscale {word:?}: want NAME=VALUE of {WORDS}");
        let (name, value) = word.split_once('=').with_context(wrong)?;
        set(out, name.trim(), value.trim()).with_context(wrong)?;
    }
    Ok(())
}

/// Sets one thing; none where that cannot be.
pub fn set(out: &mut Value, name: &str, value: &str) -> Option<()> {
    let percent = |text: &str| text.strip_suffix('%')?.trim().parse::<f64>().ok();
    match name {
        "min" => out["Min"] = value.parse::<u64>().ok()?.into(),
        "max" => out["Max"] = value.parse::<u64>().ok()?.into(),
        "cpu" => out["CPUPercent"] = percent(value)?.into(),
        "memory" => {
            let other = match percent(value) {
                Some(share) => {
                    out["MemoryPercent"] = share.into();
                    "MemoryBytes"
                }
                None => {
                    out["MemoryBytes"] = units::size(value)?.into();
                    "MemoryPercent"
                }
            };
            out.as_object_mut()?.remove(other);
        }
        "metric" => out["Metric"]["Name"] = value.into(),
        "metric-port" => out["Metric"]["Port"] = value.parse::<u16>().ok()?.into(),
        "metric-path" => out["Metric"]["Path"] = value.into(),
        "metric-target" => out["Metric"]["Target"] = value.parse::<f64>().ok()?.into(),
        "cooldown" => out["Cooldown"] = units::duration(value)?.into(),
        "window" => out["Window"] = units::duration(value)?.into(),
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_and_added_to_what_is_there() {
        let mut out = Value::Null;
        flag(&mut out, "min=2,max=10,cpu=70%,memory=512M,cooldown=1m").expect("it can be read");
        let wanted = json!({ "Min": 2, "Max": 10, "CPUPercent": 70.0,
                             "MemoryBytes": 512 << 20, "Cooldown": 60_000_000_000_i64 });
        assert_eq!(out, wanted);
        flag(&mut out, "memory=80%, metric=queue,metric-port=9090,metric-target=12.5")
            .expect("it can be read");
        assert_eq!((&out["MemoryPercent"], &out["MemoryBytes"]), (&json!(80.0), &Value::Null));
        assert_eq!(out["Metric"], json!({ "Name": "queue", "Port": 9090, "Target": 12.5 }));
        assert_eq!(out["Min"], 2);
        for wrong in ["min", "min=x", "cpu=70", "memory=lots", "speed=1", "metric-port=70000"] {
            assert!(flag(&mut Value::Null, wrong).is_err(), "{wrong}");
        }
        flag(&mut out, "").expect("off");
        assert_eq!(out, json!({ "Min": 0, "Max": 0 }));
    }
}
