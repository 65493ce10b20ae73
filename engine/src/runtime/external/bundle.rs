//! The bundle's `config.json` (runtime-spec bundle.md).

use std::path::Path;

use oci_spec::runtime::Spec;
use serde_json::json;

use super::super::capabilities::Capabilities;
use super::super::error::{Context, Error};
use super::super::user::User;
use super::config;
use super::ground::{Ground, ROOTFS};
use crate::shim::{Namespace, ShimSpec};

const FILE: &str = "config.json";
/// The version whose fields are used; none of a later one is.
const VERSION: &str = "1.0.2";

/// Writes it. `directory` is the bundle's absolute path.
pub fn write(spec: &ShimSpec, user: &User, ground: &Ground, directory: &Path) -> Result<(), Error> {
    let spec = ShimSpec { argv: config::arguments(spec), ..spec.clone() };
    let json = serde_json::to_vec(&whole(&spec, user, ground, directory)?).map_err(std::io::Error::from);
    std::fs::write(FILE, json.on("encode", FILE)?).on("write", FILE)
}

fn whole(spec: &ShimSpec, user: &User, ground: &Ground, directory: &Path) -> Result<Spec, Error> {
    let capabilities = Capabilities::resolve(&spec.cap_add, &spec.cap_drop, spec.privileged)?.possible();
    let mut out = json!({
        "ociVersion": VERSION,
        "process": config::process(spec, user, capabilities, None)?,
        "root": { "path": ROOTFS, "readonly": spec.read_only },
        "mounts": config::mounts(spec, ground, directory),
        "linux": config::linux(spec, ground, capabilities)?,
    });
    if spec.uts == Namespace::New && !spec.hostname.is_empty() {
        out["hostname"] = spec.hostname.as_str().into();
    }
    if !spec.annotations.is_empty() {
        out["annotations"] = json!(spec.annotations);
    }
    if !spec.hooks.is_empty() {
        out["hooks"] = config::hooks(spec);
    }
    // By way of the specification's own types, which know no other words than it has.
    serde_json::from_value(out).map_err(|e| Error::Refused(format!("{FILE}: {e}")))
}
