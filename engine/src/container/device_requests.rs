//! Devices asked for by what they are (`--gpus`, `--device vendor.com/class=name`): which devices of CDI those are.

use crate::cdi::{self, Registry, Resolved};
use crate::config::DeviceRequest;
use crate::engine::Engine;
use crate::error::Error;

/// The driver of devices named one by one.
const CDI: &str = "cdi";
/// Whose GPUs are preferred where the request names nobody's: driver and vendor.
const VENDORS: [(&str, &str); 2] = [("nvidia", "nvidia.com"), ("amd", "amd.com")];
/// What a GPU of CDI can be asked to be capable of: its specification gives all that the vendor has, so each is there.
const CAPABILITIES: [&str; 9] =
    ["gpu", "nvidia", "compute", "compat32", "graphics", "utility", "video", "display", "amd"];

/// Refuses what can be known to be wrong without looking at the host.
pub(super) fn check(requests: &[DeviceRequest]) -> Result<(), Error> {
    let bad = |why: &str| Err(Error::Invalid(why.to_owned()));
    for r in requests {
        if r.driver == CDI {
            if r.count != 0 {
                return bad("unexpected count in CDI device request");
            }
            if !r.options.is_empty() {
                return bad("unexpected options in CDI device request");
            }
            for id in &r.ids {
                cdi::check_name(id).map_err(Error::Invalid)?;
            }
        } else if r.count != 0 && !r.ids.is_empty() {
            return bad("cannot set both Count and DeviceIDs on device request");
        } else if let Some(option) = r.options.keys().next() {
            return bad(&format!("device request option {option:?} is not supported: CDI has none"));
        }
    }
    Ok(())
}

impl Engine {
    /// What the host's specifications offer now, and what is wrong with them.
    pub fn cdi_devices(&self) -> Registry {
        Registry::read(self.cdi_spec_dirs())
    }

    /// Qualified names of the GPUs that the host's specifications have, each once. None where they are of several
    /// vendors that a request without a name could not choose among.
    pub fn gpus(&self) -> Vec<String> {
        let registry = self.cdi_devices();
        let kind = any_vendor(&registry).ok().flatten();
        kind.map(|kind| units(&kind, &registry)).unwrap_or_default()
    }

    /// What the container gets of the devices it asked for. Reads the specifications.
    pub(super) fn resolve_devices(&self, requests: &[DeviceRequest]) -> Result<Resolved, Error> {
        if requests.is_empty() {
            return Ok(Resolved::default());
        }
        let registry = self.cdi_devices();
        let mut names = Vec::new();
        for request in requests {
            let more = match request.driver == CDI {
                true => request.ids.clone(),
                false => gpus(request, &registry)?,
            };
            names.extend(more);
        }
        registry.resolve(&names).map_err(|why| {
            for e in &registry.errors {
                tracing::warn!("CDI: {e}");
            }
            Error::Devices(why)
        })
    }
}

/// Qualified names of the GPUs that a request means: of the vendor that it names by its driver; else NVIDIA's, else AMD's,
/// else those of the only vendor whose class is `gpu`.
fn gpus(request: &DeviceRequest, registry: &Registry) -> Result<Vec<String>, Error> {
    let able = |set: &Vec<String>| {
        set.iter().any(|c| c == "gpu" || c == "nvidia")
            && set.iter().all(|c| CAPABILITIES.contains(&c.as_str()))
    };
    let sets: Vec<String> = request.capabilities.iter().map(|set| format!("[{}]", set.join(" "))).collect();
    let none = || {
        Error::Devices(format!(
            "could not select device driver {:?} with capabilities: [{}]",
            request.driver,
            sets.join(" ")
        ))
    };
    if !request.capabilities.iter().any(able) {
        return Err(none());
    }
    let kind = match request.driver.as_str() {
        "" => any_vendor(registry)?,
        driver => VENDORS.iter().find(|(d, _)| *d == driver).map(|(_, vendor)| format!("{vendor}/gpu")),
    };
    let kind = kind.ok_or_else(none)?;
    let there = registry.of_kind(&kind);
    if there.is_empty() {
        return Err(none());
    }
    let full = |name: &str| format!("{kind}={name}");
    if !request.ids.is_empty() {
        return Ok(request
            .ids
            .iter()
            .map(|id| if id.contains('=') { id.clone() } else { full(id) })
            .collect());
    }
    if request.count < 0 && there.contains(&"all") {
        return Ok(vec![full("all")]);
    }
    let mut units = units(&kind, registry);
    let wanted = usize::try_from(request.count).unwrap_or(units.len());
    if wanted > units.len() {
        return Err(Error::Devices(format!(
            "could not select {wanted} devices of {kind}: the CDI specifications have {}",
            units.len()
        )));
    }
    units.truncate(wanted);
    Ok(units)
}

/// Qualified names of the devices of a kind, each device once: "all" stands for the others, and so does a UUID for a
/// number.
fn units(kind: &str, registry: &Registry) -> Vec<String> {
    let number = |name: &str| name.parse::<u64>().ok();
    let mut there = registry.of_kind(kind);
    if there.iter().any(|n| number(n).is_some()) {
        there.retain(|n| number(n).is_some());
    }
    there.retain(|n| *n != "all");
    there.sort_by_key(|n| number(n));
    there.iter().map(|n| format!("{kind}={n}")).collect()
}

fn any_vendor(registry: &Registry) -> Result<Option<String>, Error> {
    let kinds = registry.names().filter_map(|n| n.split_once('=')).map(|(kind, _)| kind);
    let mut kinds: Vec<&str> = kinds.filter(|k| k.ends_with("/gpu")).collect();
    kinds.dedup();
    let known = VENDORS.iter().map(|(_, vendor)| format!("{vendor}/gpu"));
    match (known.into_iter().find(|k| kinds.contains(&k.as_str())), kinds.as_slice()) {
        (Some(kind), _) => Ok(Some(kind)),
        (None, []) => Ok(None),
        (None, [only]) => Ok(Some((*only).to_owned())),
        (None, several) => Err(Error::Devices(format!(
            "GPUs of several vendors are installed ({}): name the devices, like --device {}=all",
            several.join(", "),
            several[0]
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_those_of_the_vendor_or_refused_in_dockers_words() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let offer = |kind: &str, names: &[&str]| {
            let devices: Vec<_> = names
                .iter()
                .map(|n| serde_json::json!({ "name": n, "containerEdits": { "env": ["A=1"] } }))
                .collect();
            let spec = serde_json::json!({ "cdiVersion": "0.6.0", "kind": kind, "devices": devices });
            let file = format!("{}.json", kind.replace('/', "-"));
            std::fs::write(dir.path().join(file), spec.to_string()).expect("written");
        };
        let ask = |driver: &str, count, ids: &[&str], capabilities: &[&str]| {
            let strings = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
            let request = DeviceRequest {
                driver: driver.into(),
                count,
                ids: strings(ids),
                capabilities: vec![strings(capabilities)],
                options: Default::default(),
            };
            gpus(&request, &Registry::read(&[dir.path().into()])).map_err(|e| e.to_string())
        };
        let none = "could not select device driver \"\" with capabilities: [[gpu]]";
        assert_eq!(ask("", -1, &[], &["gpu"]), Err(none.into()));
        offer("b.com/gpu", &["x"]);
        assert_eq!(ask("", -1, &[], &["gpu"]), Ok(vec!["b.com/gpu=x".into()]));
        offer("a.com/gpu", &["x"]);
        assert!(ask("", -1, &[], &["gpu"]).expect_err("which").contains("a.com/gpu, b.com/gpu"));
        offer("nvidia.com/gpu", &["10", "2", "GPU-1", "all"]);
        let n = |names: &[&str]| Ok(names.iter().map(|n| format!("nvidia.com/gpu={n}")).collect::<Vec<_>>());
        assert_eq!(ask("", -1, &[], &["gpu"]), n(&["all"]));
        assert_eq!(ask("nvidia", 2, &[], &["utility", "gpu"]), n(&["2", "10"]));
        assert_eq!(ask("", 0, &["GPU-1", "2"], &["gpu"]), n(&["GPU-1", "2"]));
        assert!(ask("", 3, &[], &["gpu"]).is_err());
        for (driver, capability) in [("amd", "gpu"), ("", "tpu"), ("other", "gpu")] {
            let said =
                format!("could not select device driver {driver:?} with capabilities: [[{capability}]]");
            assert_eq!(ask(driver, -1, &[], &[capability]), Err(said));
        }
    }
}
