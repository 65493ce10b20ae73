//! OCI runtimes beside ours, as the daemon's flags and file name them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use skep_engine::{ExternalRuntime, OWN, Runtimes};

/// A runtime in the configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Entry {
    path: String,
    /// Docker writes it in this way; the kebab is this file's own.
    #[serde(default, alias = "runtimeArgs")]
    runtime_args: Vec<String>,
}

/// Names that Docker always has for `runc`: its own, and that of containerd's shim for it.
const RUNC: [&str; 2] = ["runc", "io.containerd.runc.v2"];

/// All of them, found; and which is the default. Where `runc` is on `PATH`, it need not be named.
pub fn decide(
    flags: Vec<String>,
    file: BTreeMap<String, Entry>,
    default: Option<String>,
) -> Result<Runtimes> {
    let mut out = Runtimes::default();
    let file = file.into_iter().map(|(name, entry)| (name, entry.path, entry.runtime_args));
    let mut all: Vec<_> = file.collect();
    for flag in flags {
        let Some((name, path)) = flag.split_once('=') else {
            bail!("runtime {flag:?}: want name=path, like crun=/usr/bin/crun");
        };
        if all.iter().any(|(other, ..)| other == name) {
            bail!("runtime {name:?} is named twice: by --add-runtime and before");
        }
        all.push((name.trim().to_owned(), path.trim().to_owned(), Vec::new()));
    }
    for (name, path, args) in all {
        if name == OWN {
            bail!("runtime name {OWN:?} is reserved: it is the runtime that is built in");
        }
        if name.is_empty() || path.is_empty() {
            bail!("runtime {name:?}: a runtime needs a name and a path");
        }
        let path = find(&path).with_context(|| format!("runtime {name:?}"))?;
        out.external.insert(name, ExternalRuntime { path, args });
    }
    if let Ok(path) = find("runc") {
        for name in RUNC {
            let found = ExternalRuntime { path: path.clone(), args: Vec::new() };
            out.external.entry(name.to_owned()).or_insert(found);
        }
    }
    if let Some(default) = default.filter(|d| !d.is_empty()) {
        if out.find(&default).is_err() {
            bail!("specified default runtime '{default}' does not exist: name it with --add-runtime");
        }
        out.default = default;
    }
    Ok(out)
}

/// A path as it is, a bare name by way of `PATH`.
fn find(path: &str) -> Result<PathBuf> {
    if path.contains('/') {
        let found = Path::new(path).canonicalize().with_context(|| format!("find {path}"))?;
        return Ok(found);
    }
    let all = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&all).map(|dir| dir.join(path)).find(|p| p.is_file());
    found.with_context(|| format!("{path:?} is in no directory of $PATH"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_are_found_or_refused_by_name() {
        let flag =
            |text: &str| decide(vec![text.into()], BTreeMap::new(), None).map_err(|e| format!("{e:#}"));
        let found = flag("x=sh").expect("in PATH");
        assert!(found.external["x"].path.is_absolute() && found.default == OWN);
        for (bad, why) in
            [("x", "name=path"), ("skep=/bin/sh", "reserved"), ("x=/nope", "/nope"), ("x=nope-nope", "$PATH")]
        {
            let error = flag(bad).expect_err(bad);
            assert!(error.contains(why), "{error}");
        }
        let default = |name: &str| decide(vec!["x=/bin/sh".into()], BTreeMap::new(), Some(name.into()));
        assert_eq!(default("x").expect("there").default, "x");
        assert!(default("y").is_err());
    }

    #[test]
    fn runc_is_known_where_it_is_on_the_path_and_may_be_another() {
        let all = |flags: &[&str]| {
            decide(flags.iter().map(|f| (*f).to_owned()).collect(), BTreeMap::new(), None)
                .expect("decided")
                .external
        };
        let found = find("runc").ok();
        let path = |flags: &[&str], name: &str| all(flags).remove(name).map(|r| r.path);
        for name in RUNC {
            assert_eq!(path(&[], name), found, "{name}");
            let sh = Path::new("/bin/sh").canonicalize().ok();
            assert_eq!(path(&[&format!("{name}=/bin/sh")], name), sh, "{name}");
        }
    }
}
