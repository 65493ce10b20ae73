//! Volumes as Docker's JSON.

use serde_json::{Value, json};
use skep_engine::{NewVolume, Volume};

use super::time;
use crate::error::{ApiError, ApiResult};
use crate::fields::Fields;
use crate::filters::{Filters, Patterns};

/// The names `volume ls --filter` knows.
pub const FILTERS: &[&str] = &["dangling", "driver", "label", "name"];

/// The names `volume prune --filter` knows.
pub const PRUNE_FILTERS: &[&str] = &["all", "label", "label!"];

/// Reads the body of `POST /volumes/create`.
pub fn read(body: &[u8]) -> ApiResult<NewVolume> {
    let mut f = Fields::parse(body)?;
    let new = NewVolume {
        name: f.string("Name")?,
        driver: f.string("Driver")?,
        options: f.string_map("DriverOpts")?,
        labels: f.string_map("Labels")?,
    };
    f.refuse_rest(&[("ClusterVolumeSpec", "there are no cluster volumes (CSI); use a volume of each node")])?;
    Ok(new)
}

/// A volume as `inspect` and `ls` show it.
pub fn shown(v: &Volume) -> Value {
    // As Go prints a map that was never made.
    let map = |m: &std::collections::BTreeMap<String, String>| match m.is_empty() {
        true => Value::Null,
        false => json!(m),
    };
    json!({
        "CreatedAt": time::from_ns(v.created_at_ns / 1_000_000_000 * 1_000_000_000),
        "Driver": v.driver,
        "Labels": map(&v.labels),
        "Mountpoint": v.mountpoint,
        "Name": v.name,
        "Options": map(&v.options),
        "Scope": "local",
    })
}

/// Whether a listing shows it; `names` are the patterns of the filter `name`.
pub fn matches(filters: &Filters, names: &Patterns, v: &Volume) -> ApiResult<bool> {
    let dangling = filters.flag("dangling")?;
    Ok(dangling.is_none_or(|want| (v.users == 0) == want)
        && filters.any("driver", |d| d == v.driver)
        && names.match_any(&v.name)
        && filters.labels("label", |k| v.labels.get(k).map(String::as_str)))
}

/// What a prune removes of the volumes nobody uses: anonymous ones, or all.
pub fn prunable(filters: &Filters) -> ApiResult<impl Fn(&Volume) -> bool + use<>> {
    let all = match filters.values("all").collect::<Vec<_>>()[..] {
        [] => false,
        ["1" | "true" | "True" | "TRUE" | "t" | "T"] => true,
        ["0" | "false" | "False" | "FALSE" | "f" | "F"] => false,
        ref other => {
            return Err(ApiError::bad_request(format!("invalid filter 'all={}'", other.join(","))));
        }
    };
    let filters = filters.clone();
    Ok(move |v: &Volume| {
        let label = |k: &str| v.labels.get(k).map(String::as_str);
        (all || v.is_anonymous()) && filters.prunes(label)
    })
}
