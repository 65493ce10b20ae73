//! Credentials of registries, kept where Docker's client keeps them: `config.json`, or a helper program
//! (`docker-credential-NAME`) that it names.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use skep_registry::Credentials;

/// How Docker Hub is called in `config.json`.
pub const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// The client's configuration file, of which all that is not credentials is left as it is.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    content: Map<String, Value>,
}

/// The directory of the client's configuration: the one of `--config`, else DOCKER_CONFIG, else `~/.docker`.
pub fn directory(asked: Option<&Path>) -> PathBuf {
    match (asked, std::env::var_os("DOCKER_CONFIG").filter(|d| !d.is_empty())) {
        (Some(dir), _) => dir.to_owned(),
        (None, Some(dir)) => dir.into(),
        (None, None) => PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/".into())).join(".docker"),
    }
}

/// Where a registry's credentials are kept.
enum Place {
    File,
    Helper(String),
}

impl Store {
    /// Reads `config.json` of a directory; none there is an empty one.
    pub fn open(dir: Option<&Path>) -> Result<Self> {
        let path = directory(dir).join("config.json");
        let content = match std::fs::read(&path) {
            Ok(bytes) if bytes.trim_ascii().is_empty() => Map::new(),
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("read the client's configuration {}", path.display()))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Map::new(),
            Err(e) => {
                return Err(e).with_context(|| format!("read the client's configuration {}", path.display()));
            }
        };
        Ok(Self { path, content })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn place(&self, key: &str) -> Place {
        let text = |v: &Value| v.as_str().filter(|s| !s.is_empty()).map(str::to_owned);
        let helpers = self.content.get("credHelpers");
        let own = helpers.and_then(|h| text(&h[key]).or_else(|| text(&h[host(key)])));
        match own.or_else(|| self.content.get("credsStore").and_then(text)) {
            Some(name) => Place::Helper(name),
            None => Place::File,
        }
    }

    /// Whether a registry's credentials lie in the file as they are.
    pub fn is_plain(&self, key: &str) -> bool {
        matches!(self.place(key), Place::File)
    }

    /// Credentials for a registry (`docker.io`, `host:port`), if there are any.
    pub fn get(&self, registry: &str) -> Result<Option<Credentials>> {
        let key = key_of(registry);
        let mut found = match self.place(&key) {
            Place::Helper(name) => match ask(&name, "get", &key)? {
                None => return Ok(None),
                Some(answer) => {
                    let read: Value = serde_json::from_str(&answer)
                        .with_context(|| format!("read what docker-credential-{name} answered"))?;
                    let text = |field: &str| read[field].as_str().unwrap_or_default().to_owned();
                    match text("Username").as_str() {
                        "<token>" => Credentials { identity_token: text("Secret"), ..Default::default() },
                        user => Credentials {
                            username: user.to_owned(),
                            password: text("Secret"),
                            ..Default::default()
                        },
                    }
                }
            },
            Place::File => {
                let Some(auths) = self.content.get("auths").and_then(Value::as_object) else {
                    return Ok(None);
                };
                let entry = auths
                    .get(&key)
                    .or_else(|| auths.iter().find(|(k, _)| host(k) == host(&key)).map(|(_, entry)| entry));
                let Some(entry) = entry else { return Ok(None) };
                Credentials::from_json(&serde_json::to_vec(entry)?)?
            }
        };
        found.server_address = key;
        Ok(Some(found).filter(|c| !c.is_empty()))
    }

    /// The same for what may be had without any: a helper that cannot be asked is told of, and done without, as by
    /// Docker's client.
    pub fn get_if_possible(&self, registry: &str) -> Option<Credentials> {
        self.get(registry).unwrap_or_else(|e| {
            without(&e);
            None
        })
    }

    /// Credentials for every registry that some are kept for, by their keys.
    pub fn all(&self) -> BTreeMap<String, Credentials> {
        let keys = |name: &str| {
            let map = self.content.get(name).and_then(Value::as_object);
            map.into_iter().flat_map(|m| m.keys().cloned()).collect::<Vec<_>>()
        };
        let mut wanted = [keys("auths"), keys("credHelpers")].concat();
        if let Some(store) = self.content.get("credsStore").and_then(Value::as_str).filter(|s| !s.is_empty())
        {
            let listed = ask(store, "list", "").unwrap_or_else(|e| {
                without(&e);
                None
            });
            let listed = listed.unwrap_or_default();
            let listed: BTreeMap<String, String> = serde_json::from_str(&listed).unwrap_or_default();
            wanted.extend(listed.into_keys());
        }
        let mut out = BTreeMap::new();
        for key in wanted {
            if let Some(found) = self.get_if_possible(&key) {
                out.insert(key_of(&key), found);
            }
        }
        out
    }

    /// Keeps a registry's credentials.
    pub fn put(&mut self, credentials: &Credentials) -> Result<()> {
        let key = key_of(&credentials.server_address);
        match self.place(&key) {
            Place::Helper(name) => {
                let (user, secret) = if credentials.identity_token.is_empty() {
                    (credentials.username.as_str(), &credentials.password)
                } else {
                    ("<token>", &credentials.identity_token)
                };
                let json = json!({ "ServerURL": key, "Username": user, "Secret": secret });
                ask(&name, "store", &json.to_string()).map(drop)
            }
            Place::File => {
                use base64::Engine;
                let pair = format!("{}:{}", credentials.username, credentials.password);
                let mut entry = json!({ "auth": base64::engine::general_purpose::STANDARD.encode(pair) });
                if !credentials.identity_token.is_empty() {
                    let user = format!("{}:", credentials.username);
                    entry = json!({
                        "auth": base64::engine::general_purpose::STANDARD.encode(user),
                        "identitytoken": credentials.identity_token,
                    });
                }
                let auths = self.content.entry("auths").or_insert_with(|| json!({}));
                auths[&key] = entry;
                self.save()
            }
        }
    }

    /// Forgets a registry's credentials.
    pub fn remove(&mut self, registry: &str) -> Result<()> {
        let key = key_of(registry);
        if let Place::Helper(name) = self.place(&key) {
            return ask(&name, "erase", &key).map(drop);
        }
        if let Some(auths) = self.content.get_mut("auths").and_then(Value::as_object_mut) {
            auths.retain(|k, _| *k != key && host(k) != host(&key));
            return self.save();
        }
        Ok(())
    }

    /// Name of the context in use; none = the default one.
    pub fn current_context(&self) -> Option<String> {
        let name = self.content.get("currentContext")?.as_str()?;
        Some(name.to_owned()).filter(|n| !n.is_empty())
    }

    /// Has another context in use.
    pub fn use_context(&mut self, name: Option<&str>) -> Result<()> {
        if self.current_context().as_deref() == name {
            return Ok(());
        }
        match name {
            Some(name) => self.content.insert("currentContext".into(), name.into()),
            None => self.content.remove("currentContext"),
        };
        self.content.entry("auths").or_insert_with(|| json!({}));
        self.save()
    }

    /// Written beside and renamed; for nobody else to read.
    fn save(&self) -> Result<()> {
        use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
        let failed = || format!("write the client's configuration {}", self.path.display());
        if let Some(dir) = self.path.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).with_context(failed)?;
        }
        let beside = self.path.with_extension(format!("json-{}", std::process::id()));
        let mut options = std::fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside);
        let mut file = file.with_context(failed)?;
        let mut json = Vec::new();
        let tabs = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        serde::Serialize::serialize(
            &self.content,
            &mut serde_json::Serializer::with_formatter(&mut json, tabs),
        )?;
        file.write_all(&json).and_then(|()| file.sync_all()).with_context(failed)?;
        std::fs::rename(&beside, &self.path).with_context(failed)
    }
}

/// A registry's key in the file.
pub fn key_of(registry: &str) -> String {
    match registry {
        "" | "docker.io" | "index.docker.io" | "registry-1.docker.io" | DOCKER_HUB_KEY => {
            DOCKER_HUB_KEY.into()
        }
        other => host(other).to_owned(),
    }
}

fn host(key: &str) -> &str {
    if key == DOCKER_HUB_KEY {
        return key;
    }
    let host = key.split_once("://").map_or(key, |(_, rest)| rest);
    host.split('/').next().unwrap_or(host)
}

fn without(e: &anyhow::Error) {
    eprintln!("WARNING: {e:#}: going on without credentials");
}

/// Runs a helper; none if it says that it knows nothing of the registry.
fn ask(name: &str, verb: &str, input: &str) -> Result<Option<String>> {
    let program = format!("docker-credential-{name}");
    let mut child = Command::new(&program)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .with_context(|| format!("error getting credentials: run {program} (named by config.json)"))?;
    if let Some(mut to) = child.stdin.take() {
        // A helper that reads nothing has its reasons, which it tells.
        let _ = to.write_all(input.as_bytes());
    }
    let out = child.wait_with_output().with_context(|| format!("run {program}"))?;
    let said = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    if out.status.success() {
        return Ok(Some(said));
    }
    if said.contains("credentials not found") {
        return Ok(None);
    }
    bail!("error getting credentials - err: {}, out: `{said}`", out.status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_kept_as_docker_keeps_them() {
        let dir = tempfile::tempdir().expect("temporary directory");
        std::fs::write(dir.path().join("config.json"), r#"{"proxies":{"a":1}}"#).expect("writes");
        let mut store = Store::open(Some(dir.path())).expect("opens");
        let me = Credentials {
            username: "me".into(),
            password: "p:w".into(),
            server_address: "r.example:5000".into(),
            ..Default::default()
        };
        store.put(&me).expect("puts");
        let hub = Credentials { server_address: String::new(), ..me.clone() };
        store.put(&hub).expect("puts");
        let store = Store::open(Some(dir.path())).expect("opens again");
        assert_eq!(store.get("r.example:5000").expect("reads"), Some(me));
        assert_eq!(store.get("docker.io").expect("reads").map(|c| c.username), Some("me".into()));
        assert_eq!(store.get("other.example").expect("reads"), None);
        assert_eq!(store.content["proxies"], json!({ "a": 1 }));
        let mut store = store;
        store.remove("r.example:5000").expect("removes");
        assert_eq!(store.get("r.example:5000").expect("reads"), None);
    }

    #[test]
    fn a_helper_that_is_not_there_keeps_nobody_from_what_is_public() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let text = r#"{"credsStore":"skep-no-such","credHelpers":{"r.example":"skep-nor-such"}}"#;
        std::fs::write(dir.path().join("config.json"), text).expect("writes");
        let mut store = Store::open(Some(dir.path())).expect("opens");
        for registry in ["docker.io", "r.example"] {
            assert!(store.get(registry).is_err() && store.get_if_possible(registry).is_none(), "{registry}");
        }
        assert!(store.all().is_empty());
        assert!(store.put(&Credentials::default()).is_err(), "nothing is kept elsewhere instead");
    }
}
