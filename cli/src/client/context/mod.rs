//! `context`: daemons by name. The store is Docker's own, so that both clients have the same contexts.

mod archive;
mod endpoint;
mod store;

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use serde_json::{Value, json};

pub use endpoint::{Endpoint, Selection};
use store::{Contexts, DEFAULT, Material, Meta, check_name};

use super::credentials::{self, Store};
use super::human;
use super::output::{self, Column, Listing, say};

/// How the default context is described.
const DEFAULT_DESCRIPTION: &str = "Current DOCKER_HOST based configuration";
/// Longest error in a list.
const LONGEST_ERROR: usize = 45;

const INVALID: &str = "invalid docker endpoint options";

#[derive(Subcommand)]
pub enum ContextCommand {
    /// Create a context
    Create {
        /// Description of the context
        #[arg(long, value_name = "string", default_value = "")]
        description: String,
        /// Endpoint: from=, host=, ca=, cert=, key=, skip-tls-verify=, with commas between them
        #[arg(long, value_name = "stringToString", value_parser = pairs)]
        docker: Option<Pairs>,
        /// Create context from a named context
        #[arg(long, value_name = "string", default_value = "")]
        from: String,
        #[arg(value_name = "CONTEXT")]
        name: String,
    },
    /// Export a context to a tar archive FILE or a tar stream on STDOUT.
    Export {
        #[arg(value_name = "CONTEXT")]
        name: String,
        #[arg(value_name = "FILE|-")]
        file: Option<String>,
    },
    /// Import a context from a tar file
    Import {
        #[arg(value_name = "CONTEXT")]
        name: String,
        #[arg(value_name = "FILE|-")]
        file: String,
    },
    /// Display detailed information on one or more contexts
    Inspect {
        /// Format output: json or a Go template
        #[arg(short, long, value_name = "string")]
        format: Option<String>,
        #[arg(value_name = "CONTEXT")]
        names: Vec<String>,
    },
    /// List contexts
    #[command(visible_alias = "list")]
    Ls {
        /// Format output: table, json or a Go template
        #[arg(long, value_name = "string")]
        format: Option<String>,
        /// Only show context names
        #[arg(short, long)]
        quiet: bool,
    },
    /// Remove one or more contexts
    #[command(visible_alias = "remove")]
    Rm {
        /// Force the removal of a context in use
        #[arg(short, long)]
        force: bool,
        #[arg(required = true, value_name = "CONTEXT")]
        names: Vec<String>,
    },
    /// Print the name of the current context
    Show,
    /// Update a context
    Update {
        /// Description of the context
        #[arg(long, value_name = "string", default_value = "")]
        description: String,
        /// Endpoint: from=, host=, ca=, cert=, key=, skip-tls-verify=, with commas between them
        #[arg(long, value_name = "stringToString", value_parser = pairs)]
        docker: Option<Pairs>,
        #[arg(value_name = "CONTEXT")]
        name: String,
    },
    /// Set the current context
    Use {
        #[arg(value_name = "CONTEXT")]
        name: String,
    },
}

/// `key=value,key=value`.
#[derive(Clone, Debug)]
pub struct Pairs(Vec<(String, String)>);

fn pairs(text: &str) -> Result<Pairs, String> {
    let pair = |p: &str| {
        let (key, value) = p.split_once('=').ok_or_else(|| format!("{p} must be formatted as key=value"))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    text.split(',').map(pair).collect::<Result<_, String>>().map(Pairs)
}

/// Runs a command on contexts; none of them asks a daemon.
pub async fn run(selection: &Selection, config: Option<&Path>, command: ContextCommand) -> Result<()> {
    let at = At {
        selection,
        contexts: Contexts::new(&credentials::directory(config)),
        store: Store::open(config)?,
    };
    match command {
        ContextCommand::Create { description, docker, from, name } => {
            at.create(&name, &description, docker, &from)
        }
        ContextCommand::Export { name, file } => at.export(&name, file.as_deref()),
        ContextCommand::Import { name, file } => at.import(&name, &file),
        ContextCommand::Inspect { format, names } => at.inspect(names, format.as_deref()).await,
        ContextCommand::Ls { format, quiet } => at.list(quiet, format.as_deref()),
        ContextCommand::Rm { force, names } => at.remove(&names, force),
        ContextCommand::Show => say!("{}", at.current()),
        ContextCommand::Update { description, docker, name } => at.update(&name, &description, docker),
        ContextCommand::Use { name } => at.select(&name),
    }
}

struct At<'a> {
    selection: &'a Selection,
    contexts: Contexts,
    store: Store,
}

impl At<'_> {
    fn current(&self) -> String {
        self.selection.name(&self.store)
    }

    /// A context with its files of TLS, the default one too.
    fn whole(&self, name: &str) -> Result<(Meta, Material)> {
        if name == DEFAULT {
            let (host, skip) = (self.selection.default_host(), false);
            return Ok((Meta::new(DEFAULT, Some(&host), skip), Material::new()));
        }
        Ok((self.contexts.get(name)?, self.contexts.material(name)?))
    }

    fn create(&self, name: &str, description: &str, docker: Option<Pairs>, from: &str) -> Result<()> {
        check_name(name)?;
        if self.contexts.exists(name) {
            bail!("context {name:?} already exists");
        }
        let (mut meta, material) = match docker {
            Some(_) if !from.is_empty() => bail!("cannot use --docker flag when --from is set"),
            Some(pairs) => self.endpoint(Meta { name: name.to_owned(), ..Meta::default() }, pairs)?,
            None => {
                let from = if from.is_empty() { self.current() } else { from.to_owned() };
                let (mut meta, material) = self.whole(&from)?;
                if from == DEFAULT {
                    meta.describe(DEFAULT_DESCRIPTION);
                }
                (Meta { name: name.to_owned(), ..meta }, material)
            }
        };
        if !description.is_empty() {
            meta.describe(description);
        }
        // The files first: a context that is seen has them.
        self.contexts.put_material(name, &material)?;
        self.contexts.put(&meta)?;
        say!("{name}")?;
        eprintln!("Successfully created context {name:?}");
        Ok(())
    }

    fn update(&self, name: &str, description: &str, docker: Option<Pairs>) -> Result<()> {
        check_name(name)?;
        let mut meta = self.contexts.get(name)?;
        if !description.is_empty() {
            meta.describe(description);
        }
        if let Some(pairs) = docker {
            let (changed, material) = self.endpoint(meta, pairs)?;
            meta = changed;
            self.contexts.put_material(name, &material)?;
        }
        self.contexts.put(&meta)?;
        say!("{name}")?;
        eprintln!("Successfully updated context {name:?}");
        Ok(())
    }

    /// A context with the endpoint that `--docker` says.
    fn endpoint(&self, mut meta: Meta, Pairs(pairs): Pairs) -> Result<(Meta, Material)> {
        let failed = "unable to create docker endpoint config";
        let keys = ["from", "host", "ca", "cert", "key", "skip-tls-verify"];
        if let Some((key, _)) = pairs.iter().find(|(key, _)| !keys.contains(&key.as_str())) {
            bail!("{failed}: unrecognized config key: {key}");
        }
        let of = |key: &str| {
            pairs.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.as_str()).filter(|v| !v.is_empty())
        };
        if let Some(from) = of("from") {
            let (other, material) = self.whole(from).context(failed)?;
            meta.set_endpoint(Some(other.host()), other.skips_verification());
            return Ok((meta, material));
        }
        let skip = match of("skip-tls-verify") {
            None => false,
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => true,
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => false,
            Some(other) => bail!("{failed}: skip-tls-verify: parsing {other:?}: invalid syntax"),
        };
        let mut files = BTreeMap::new();
        for key in ["ca", "cert", "key"] {
            let Some(path) = of(key) else { continue };
            let bytes = std::fs::read(path).map_err(|e| output::os("open", path, &e)).context(failed)?;
            files.insert(format!("{key}.pem"), bytes);
        }
        let host = of("host").unwrap_or_default();
        if host.starts_with("ssh://") {
            super::ssh::check(host).context(INVALID).context(failed)?;
        } else {
            super::tls::check(&files).context(INVALID).context(failed)?;
            if !host.is_empty() && !host.contains("://") {
                bail!(
                    "{failed}: unable to apply docker endpoint options: unable to parse docker host `{host}`"
                );
            }
        }
        meta.set_endpoint(Some(host), skip);
        let material = Some(("docker".to_owned(), files)).filter(|(_, files)| !files.is_empty());
        Ok((meta, material.into_iter().collect()))
    }

    fn export(&self, name: &str, file: Option<&str>) -> Result<()> {
        let (meta, material) = self.whole(name)?;
        if file == Some("-") {
            use std::io::IsTerminal;
            if std::io::stdout().is_terminal() {
                bail!("cowardly refusing to export to a terminal, specify a file path");
            }
            let mut bytes = Vec::new();
            archive::write(&meta, &material, &mut bytes)?;
            return output::bytes(&mut std::io::stdout(), &bytes);
        }
        let path = file.map_or_else(|| format!("{name}.dockercontext"), str::to_owned);
        let opened = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let mut to = opened.map_err(|e| output::os("open", &path, &e))?;
        archive::write(&meta, &material, &mut to)?;
        to.flush()?;
        eprintln!("Written file {path:?}");
        Ok(())
    }

    fn import(&self, name: &str, file: &str) -> Result<()> {
        check_name(name)?;
        if self.contexts.exists(name) {
            bail!("context {name:?} already exists");
        }
        let (meta, material) = match file {
            "-" => archive::read(std::io::stdin().lock())?,
            path => archive::read(std::fs::File::open(path).map_err(|e| output::os("open", path, &e))?)?,
        };
        self.contexts.put_material(name, &material)?;
        self.contexts.put(&Meta { name: name.to_owned(), ..meta })?;
        say!("{name}")?;
        eprintln!("Successfully imported context {name:?}");
        Ok(())
    }

    async fn inspect(&self, names: Vec<String>, format: Option<&str>) -> Result<()> {
        let names = if names.is_empty() { vec![self.current()] } else { names };
        output::inspect(&names, format, async |name: String| {
            let (meta, material) = self.whole(&name)?;
            let files: serde_json::Map<String, Value> = material
                .iter()
                .map(|(e, files)| (e.clone(), json!(files.keys().collect::<Vec<_>>())))
                .collect();
            let (at, tls) = match name.as_str() {
                DEFAULT => ("<IN MEMORY>".into(), "<IN MEMORY>".into()),
                name => (self.contexts.meta_dir(name), self.contexts.tls_dir(name)),
            };
            Ok(json!({
                "Name": meta.name,
                "Metadata": meta.metadata,
                "Endpoints": meta.endpoints,
                "TLSMaterial": files,
                "Storage": { "MetadataPath": at as PathBuf, "TLSPath": tls as PathBuf },
            }))
        })
        .await
    }

    fn list(&self, quiet: bool, format: Option<&str>) -> Result<()> {
        const COLUMNS: &[Column] = &[
            ("Name", "NAME"),
            ("Current", ""),
            ("Description", "DESCRIPTION"),
            ("DockerEndpoint", "DOCKER ENDPOINT"),
            ("Error", "ERROR"),
        ];
        const TABLE: &str =
            "{{.Name}}{{if .Current}} *{{end}}\t{{.Description}}\t{{.DockerEndpoint}}\t{{.Error}}";
        let current = self.current();
        let mut rows: Vec<(String, String, String, String)> =
            vec![(DEFAULT.into(), DEFAULT_DESCRIPTION.into(), self.selection.default_host(), String::new())];
        for meta in self.contexts.list()? {
            rows.push((meta.name.clone(), meta.description().into(), meta.host().into(), String::new()));
        }
        if !rows.iter().any(|(name, ..)| *name == current) {
            let error = self.contexts.get(&current).err().map(|e| format!("{e:#}")).unwrap_or_default();
            rows.push((
                current.clone(),
                String::new(),
                String::new(),
                human::ellipsis(&error, LONGEST_ERROR),
            ));
        }
        rows.sort_by_cached_key(|(name, ..)| human::natural(name));
        let mut listing = Listing::new(COLUMNS, TABLE);
        for (name, description, endpoint, error) in rows {
            let is_current = name == current;
            let cells =
                vec![name.into(), is_current.into(), description.into(), endpoint.into(), error.into()];
            listing.row(cells, &Value::Null);
        }
        listing.print(quiet, format)?;
        if endpoint::host_from_env().is_some() {
            eprintln!(
                "Warning: DOCKER_HOST environment variable overrides the active context. To use a context, either set the global --context flag, or unset DOCKER_HOST environment variable."
            );
        }
        Ok(())
    }

    fn remove(mut self, names: &[String], force: bool) -> Result<()> {
        let current = self.current();
        let mut errors = Vec::new();
        for name in names {
            if name == DEFAULT {
                errors.push(format!("context {name:?} cannot be removed"));
            } else if *name == current && !force {
                errors.push(format!("context {name:?} is in use, set -f flag to force remove"));
            } else if !force && !self.contexts.exists(name) {
                errors.push(format!("context {name:?} does not exist"));
            } else {
                if *name == current {
                    self.store.use_context(None)?;
                }
                match self.contexts.remove(name) {
                    Ok(()) => say!("{name}")?,
                    Err(e) => errors.push(format!("{e:#}")),
                }
            }
        }
        if errors.is_empty() { Ok(()) } else { bail!(errors.join("\n")) }
    }

    fn select(mut self, name: &str) -> Result<()> {
        if name != DEFAULT {
            check_name(name)?;
            self.contexts.get(name)?;
        }
        self.store.use_context(Some(name).filter(|n| *n != DEFAULT))?;
        say!("{name}")?;
        eprintln!("Current context is now {name:?}");
        if name != DEFAULT && endpoint::host_from_env().is_some() {
            eprintln!(
                "Warning: DOCKER_HOST environment variable overrides the active context. To use {name:?}, either set the global --context flag, or unset DOCKER_HOST environment variable."
            );
        }
        Ok(())
    }
}
