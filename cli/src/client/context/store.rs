//! Docker's own store of contexts, which `docker` and `skep` share: `contexts/meta/<sha256 of the name>/meta.json` and
//! `contexts/tls/<sha256>/<endpoint>/<file>` in the client's directory.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// The context that stands for `-H`, DOCKER_HOST and the default socket; never stored.
pub const DEFAULT: &str = "default";
/// Name of the one endpoint that is used.
const DOCKER: &str = "docker";
const NAMES: &str = "^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$";

/// What is known of a context, in the order Docker writes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Meta {
    #[serde(rename = "Name")]
    pub name: String,
    /// `Description`, and whatever others put there.
    #[serde(rename = "Metadata")]
    pub metadata: Map<String, Value>,
    /// Endpoints by name; that of Docker has `Host` and `SkipTLSVerify`.
    #[serde(rename = "Endpoints")]
    pub endpoints: BTreeMap<String, Value>,
}

impl Meta {
    /// A context with one endpoint.
    pub fn new(name: &str, host: Option<&str>, skip_verify: bool) -> Self {
        let mut meta = Self { name: name.to_owned(), ..Self::default() };
        meta.set_endpoint(host, skip_verify);
        meta
    }

    pub fn set_endpoint(&mut self, host: Option<&str>, skip_verify: bool) {
        let mut endpoint = Map::new();
        if let Some(host) = host.filter(|h| !h.is_empty()) {
            endpoint.insert("Host".into(), host.into());
        }
        endpoint.insert("SkipTLSVerify".into(), skip_verify.into());
        self.endpoints.insert(DOCKER.into(), endpoint.into());
    }

    /// Where the daemon is; empty = where it always is.
    pub fn host(&self) -> &str {
        self.endpoints.get(DOCKER).and_then(|e| e["Host"].as_str()).unwrap_or_default()
    }

    /// Whether the daemon's certificate may be anybody's.
    pub fn skips_verification(&self) -> bool {
        self.endpoints.get(DOCKER).and_then(|e| e["SkipTLSVerify"].as_bool()).unwrap_or_default()
    }

    pub fn description(&self) -> &str {
        self.metadata.get("Description").and_then(Value::as_str).unwrap_or_default()
    }

    pub fn describe(&mut self, description: &str) {
        if description.is_empty() {
            self.metadata.remove("Description");
        } else {
            self.metadata.insert("Description".into(), description.into());
        }
    }
}

/// Files of TLS by endpoint and name.
pub type Material = BTreeMap<String, BTreeMap<String, Vec<u8>>>;

/// The store in a client's directory.
#[derive(Clone, Debug)]
pub struct Contexts {
    dir: PathBuf,
}

impl Contexts {
    /// In the directory of `config.json`.
    pub fn new(config: &Path) -> Self {
        Self { dir: config.join("contexts") }
    }

    /// Directory of what is known of a context.
    pub fn meta_dir(&self, name: &str) -> PathBuf {
        self.dir.join("meta").join(id(name))
    }

    /// Directory of its files of TLS.
    pub fn tls_dir(&self, name: &str) -> PathBuf {
        self.dir.join("tls").join(id(name))
    }

    /// Files of TLS of the endpoint that is used.
    pub fn docker_tls(&self, name: &str) -> PathBuf {
        self.tls_dir(name).join(DOCKER)
    }

    /// A stored context.
    pub fn get(&self, name: &str) -> Result<Meta> {
        let path = self.meta_dir(name).join("meta.json");
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("context {name:?}: parsing {}", path.display())),
            Err(e) if e.kind() == ErrorKind::NotFound => bail!(
                "context {name:?}: context not found: open {}: no such file or directory",
                path.display()
            ),
            Err(e) => Err(e).with_context(|| format!("context {name:?}: open {}", path.display())),
        }
    }

    pub fn exists(&self, name: &str) -> bool {
        self.meta_dir(name).join("meta.json").exists()
    }

    /// All that are stored, by name.
    pub fn list(&self) -> Result<Vec<Meta>> {
        let dir = self.dir.join("meta");
        let entries = match std::fs::read_dir(&dir) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.with_context(|| format!("failed to list contexts: open {}", dir.display()))?,
        };
        let mut all = Vec::new();
        for entry in entries {
            let path = entry?.path().join("meta.json");
            match std::fs::read(&path) {
                Ok(bytes) => all.push(
                    serde_json::from_slice::<Meta>(&bytes)
                        .with_context(|| format!("failed to list contexts: parsing {}", path.display()))?,
                ),
                // A directory without it is none of ours, or on its way out.
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
                Err(e) => {
                    return Err(e).with_context(|| format!("failed to list contexts: {}", path.display()));
                }
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// Writes what is known of a context.
    pub fn put(&self, meta: &Meta) -> Result<()> {
        let dir = self.meta_dir(&meta.name);
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&dir)
            .with_context(|| format!("make {}", dir.display()))?;
        write(&dir.join("meta.json"), &serde_json::to_vec(meta)?, 0o644)
    }

    /// Makes these a context's files of TLS, and no others.
    pub fn put_material(&self, name: &str, material: &Material) -> Result<()> {
        remove_dir(&self.tls_dir(name))?;
        for (endpoint, files) in material {
            let dir = self.tls_dir(name).join(endpoint);
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
            made.with_context(|| format!("make {}", dir.display()))?;
            for (file, bytes) in files {
                write(&dir.join(file), bytes, 0o600)?;
            }
        }
        Ok(())
    }

    /// A context's files of TLS.
    pub fn material(&self, name: &str) -> Result<Material> {
        let mut all = Material::new();
        let list = |dir: &Path| match std::fs::read_dir(dir) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(e),
            Ok(entries) => entries.collect::<Result<Vec<_>, _>>(),
        };
        let tls = self.tls_dir(name);
        let failed = || format!("read the TLS files {}", tls.display());
        for endpoint in list(&tls).with_context(failed)?.iter().filter(|e| e.path().is_dir()) {
            let files = all.entry(endpoint.file_name().to_string_lossy().into_owned()).or_default();
            for file in list(&endpoint.path()).with_context(failed)? {
                let bytes = std::fs::read(file.path()).with_context(failed)?;
                files.insert(file.file_name().to_string_lossy().into_owned(), bytes);
            }
        }
        Ok(all)
    }

    /// Forgets a context.
    pub fn remove(&self, name: &str) -> Result<()> {
        remove_dir(&self.meta_dir(name))?;
        remove_dir(&self.tls_dir(name))
    }
}

fn id(name: &str) -> String {
    crate::client::human::hex(&Sha256::digest(name))
}

/// Refuses what cannot be a stored context's name.
pub fn check_name(name: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || "_.+-".contains(c);
    match name {
        "" => bail!("context name cannot be empty"),
        DEFAULT => bail!("{DEFAULT:?} is a reserved context name"),
        _ if name.len() > 1
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.chars().all(good) =>
        {
            Ok(())
        }
        _ => bail!("context name {name:?} is invalid, names are validated against regexp {NAMES:?}"),
    }
}

fn remove_dir(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            Err(e).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Written beside and renamed.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let failed = || format!("write {}", path.display());
    let beside = path.with_extension(format!("new-{}", std::process::id()));
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&beside);
    let mut file = file.with_context(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).with_context(failed)?;
    std::fs::rename(&beside, path).with_context(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_kept_where_docker_keeps_them() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let store = Contexts::new(dir.path());
        let mut meta = Meta::new("aa", Some("tcp://127.0.0.1:1"), false);
        store.put(&meta).expect("put");
        let path = dir
            .path()
            .join("contexts/meta/961b6dd3ede3cb8ecbaacbd68de040cd78eb2ed5889130cceb4c49268ea4d506/meta.json");
        assert_eq!(
            std::fs::read_to_string(&path).expect("read"),
            r#"{"Name":"aa","Metadata":{},"Endpoints":{"docker":{"Host":"tcp://127.0.0.1:1","SkipTLSVerify":false}}}"#
        );
        // What others put there stays.
        meta.metadata.insert("Other".into(), 1.into());
        meta.describe("d");
        store.put(&meta).expect("put");
        assert_eq!(store.get("aa").expect("get"), meta);
        let material = Material::from([("docker".into(), [("ca.pem".into(), b"x".to_vec())].into())]);
        store.put_material("aa", &material).expect("put");
        assert_eq!(store.material("aa").expect("read"), material);
        store.remove("aa").expect("remove");
        assert!(!store.exists("aa") && store.material("aa").expect("read").is_empty());
        for bad in ["", "a", "default", "-a", "a b", "../x", "a/b"] {
            check_name(bad).expect_err(bad);
        }
        check_name("a.b+c_d-9").expect("a name");
    }
}
