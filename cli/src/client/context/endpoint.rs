//! Which context a command is for, and what the daemon of it is reached by.

use std::path::Path;

use anyhow::{Context, Result, bail};
use tokio_rustls::TlsConnector;

use super::store::{Contexts, DEFAULT};
use crate::client::credentials::{self, Store};
use crate::client::tls::TlsFlags;

/// The socket of a daemon that nobody told otherwise.
const SOCKET: &str = "unix:///run/skep/skep.sock";

/// What the flags before the command and the environment say of the daemon.
#[derive(Clone, Debug)]
pub struct Selection {
    host: Option<String>,
    context: Option<String>,
    tls: TlsFlags,
}

/// A daemon to connect to.
pub struct Endpoint {
    /// Its address.
    pub host: String,
    /// What TCP connections are made with.
    pub tls: Option<TlsConnector>,
}

impl Selection {
    /// From the flags; both a host and a context is an error.
    pub fn new(host: Option<String>, context: Option<String>, tls: TlsFlags) -> Result<Self> {
        let context = context.filter(|c| !c.is_empty());
        if host.is_some() && context.is_some() {
            bail!("conflicting options: cannot specify both --host and --context");
        }
        Ok(Self { host, context, tls })
    }

    /// Name of the context, as Docker decides it: flags, then DOCKER_HOST, then DOCKER_CONTEXT, then `context use`.
    pub fn name(&self, store: &Store) -> String {
        let set = |name| std::env::var(name).ok().filter(|v: &String| !v.is_empty());
        if let Some(context) = &self.context {
            return context.clone();
        }
        if self.host.is_some() || host_from_env().is_some() {
            return DEFAULT.into();
        }
        set("DOCKER_CONTEXT").or_else(|| store.current_context()).unwrap_or_else(|| DEFAULT.into())
    }

    /// Address of the default context.
    pub fn default_host(&self) -> String {
        self.host.clone().or_else(host_from_env).unwrap_or_else(|| SOCKET.into())
    }

    /// What to connect to. `config` is the directory of `--config`.
    pub fn resolve(&self, config: Option<&Path>) -> Result<Endpoint> {
        let name = self.name(&Store::open(config)?);
        if name == DEFAULT {
            return Ok(Endpoint { host: self.default_host(), tls: self.tls.connector(config)? });
        }
        let contexts = Contexts::new(&credentials::directory(config));
        let unresolved = "Failed to initialize: unable to resolve docker endpoint";
        let meta = contexts.get(&name).context(unresolved)?;
        let host = Some(meta.host()).filter(|h| !h.is_empty()).unwrap_or(SOCKET).to_owned();
        let files = contexts.docker_tls(&name);
        let tls = match meta.skips_verification() || files.is_dir() {
            true => {
                Some(crate::client::tls::of_files(&files, meta.skips_verification()).context(unresolved)?)
            }
            false => None,
        };
        Ok(Endpoint { host, tls })
    }
}

/// SKEP_HOST, else DOCKER_HOST.
pub fn host_from_env() -> Option<String> {
    let set = |name| std::env::var(name).ok().filter(|v: &String| !v.is_empty());
    set("SKEP_HOST").or_else(|| set("DOCKER_HOST"))
}
