//! Devices of the Container Device Interface: found by name in specification files of the host, which are read anew for
//! each use, and turned into what a container gets.

mod name;
mod resolved;
mod spec;
mod yaml;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use resolved::{DeviceNode, NodeKind, Resolved};
use spec::Spec;
pub use spec::{Hook, Stage};

/// Where specifications lie unless the daemon is told otherwise. What a later directory says of a device counts.
pub const CDI_SPEC_DIRS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// A device with the file that describes it.
#[derive(Clone)]
struct Entry {
    spec: Arc<Spec>,
    index: usize,
    priority: usize,
    file: PathBuf,
}

/// All that the directories offered when they were read.
#[derive(Default)]
pub struct Registry {
    devices: BTreeMap<String, Entry>,
    /// Files that were left out, and devices that two files of one directory have: each with the reason.
    pub errors: Vec<String>,
}

impl Registry {
    /// Reads the directories, and no further ones below. One that is not there offers nothing.
    pub fn read(directories: &[PathBuf]) -> Self {
        let mut registry = Self { devices: BTreeMap::new(), errors: Vec::new() };
        let mut conflicts = Vec::new();
        for (priority, directory) in directories.iter().enumerate() {
            for file in registry.files(directory) {
                match Spec::read(&file) {
                    Ok(spec) => registry.add(spec, priority, file, &mut conflicts),
                    Err(e) => registry.errors.push(format!("{}: {e}", file.display())),
                }
            }
        }
        for (device, priority) in conflicts {
            // A later directory may have settled it.
            if registry.devices.get(&device).is_some_and(|e| e.priority == priority) {
                registry.devices.remove(&device);
            }
        }
        registry
    }

    fn files(&mut self, directory: &Path) -> Vec<PathBuf> {
        let entries = match std::fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
            Err(e) => {
                self.errors.push(format!("{}: {e}", directory.display()));
                return Vec::new();
            }
        };
        let ending = |p: &PathBuf| p.extension().is_some_and(|e| e == "json" || e == "yaml");
        let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(ending).collect();
        files.sort();
        files
    }

    fn add(&mut self, spec: Spec, priority: usize, file: PathBuf, conflicts: &mut Vec<(String, usize)>) {
        let spec = Arc::new(spec);
        for (index, device) in spec.devices.iter().enumerate() {
            let name = format!("{}={}", spec.kind, device.name);
            if let Some(other) = self.devices.get(&name).filter(|e| e.priority == priority) {
                let (a, b) = (other.file.display(), file.display());
                self.errors.push(format!("conflicting device {name:?} (specs {a}, {b})"));
                conflicts.push((name, priority));
                continue;
            }
            let entry = Entry { spec: spec.clone(), index, priority, file: file.clone() };
            self.devices.insert(name, entry);
        }
    }

    /// Qualified names of all devices.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.devices.keys().map(String::as_str)
    }

    /// Names of the devices of a kind (`vendor.com/class`), without it.
    pub fn of_kind(&self, kind: &str) -> Vec<&str> {
        self.names().filter_map(|n| n.strip_prefix(kind)?.strip_prefix('=')).collect()
    }

    /// What a container with these devices gets: of each file once what is for any of its devices, then what is for each.
    /// The error is in Docker's words.
    pub fn resolve(&self, names: &[String]) -> Result<Resolved, String> {
        let failed = |why: String| format!("CDI device injection failed: {why}");
        let unknown: Vec<&str> =
            names.iter().map(String::as_str).filter(|n| !self.devices.contains_key(*n)).collect();
        if !unknown.is_empty() {
            return Err(failed(format!("unresolvable CDI devices {}", unknown.join(", "))));
        }
        let (mut resolved, mut seen) = (Resolved::default(), Vec::new());
        for entry in names.iter().filter_map(|n| self.devices.get(n)) {
            if !seen.contains(&&entry.file) {
                seen.push(&entry.file);
                resolved.add(&entry.spec.container_edits).map_err(failed)?;
            }
            resolved.add(&entry.spec.devices[entry.index].container_edits).map_err(failed)?;
        }
        Ok(resolved)
    }
}

/// Refuses what is no qualified name.
pub fn check_name(text: &str) -> Result<(), String> {
    name::parse(text).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str, text: &str) {
        std::fs::create_dir_all(dir).expect("made");
        std::fs::write(dir.join(name), text).expect("written");
    }

    #[test]
    fn later_directories_win_and_conflicts_are_nobodys() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let dirs = [dir.path().join("etc"), dir.path().join("run"), dir.path().join("none")];
        let spec = |kind: &str, device: &str, env: &str| {
            format!(
                "cdiVersion: 0.6.0\nkind: {kind}\ndevices:\n- name: {device}\n  containerEdits:\n    env: [{env}]\ncontainerEdits:\n  env: [ALL=1]\n"
            )
        };
        write(&dirs[0], "a.yaml", &spec("v.com/c", "x", "A=etc"));
        write(&dirs[0], "b.yaml", &spec("v.com/c", "twice", "A=1"));
        write(&dirs[0], "c.yaml", &spec("v.com/c", "twice", "A=2"));
        write(&dirs[1], "a.yaml", &spec("v.com/c", "x", "A=run"));
        write(&dirs[1], "bad.json", "{\"cdiVersion\": \"0.6.0\", \"kind\": \"v.com/c\", \"colour\": 1}");
        write(&dirs[1], "new.yaml", &spec("v.com/c", "y", "A=1").replace("0.6.0", "1.1.0"));
        write(&dirs[1], "other.txt", "not a specification");
        let registry = Registry::read(&dirs);
        assert_eq!(registry.names().collect::<Vec<_>>(), ["v.com/c=x"]);
        assert_eq!(registry.of_kind("v.com/c"), ["x"]);
        let errors = registry.errors.join("\n");
        for said in ["conflicting device \"v.com/c=twice\"", "colour", "1.1.0"] {
            assert!(errors.contains(said), "{errors}");
        }
        let found = registry.resolve(&["v.com/c=x".into()]).expect("resolves");
        assert_eq!(found.env, ["ALL=1", "A=run"]);
        let unknown = registry.resolve(&["v.com/c=x".into(), "v.com/c=y".into(), "a/b=c".into()]);
        assert_eq!(
            unknown.expect_err("not there"),
            "CDI device injection failed: unresolvable CDI devices v.com/c=y, a/b=c"
        );
    }
}
