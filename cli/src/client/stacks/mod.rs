//! `stack`: the services, networks, secrets and configs of a Compose file as one.
//!
//! As with Docker's client, a stack is nothing but a label on each of its things, so both clients see each other's.

mod deploy;
mod extras;
mod mounts;
mod objects;
mod prerequisites;
mod remove;
mod run;
mod service;
mod supported;

use std::ffi::OsString;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use super::api::{Api, Query};
use super::output::{Column, Listing, text, write};
use super::services;
use super::tasks::{self, TaskFlags};
use crate::compose::{self, Dialect, Node, Project, Variables};

/// The label that says which stack a thing is of.
const NAMESPACE: &str = "com.docker.stack.namespace";

/// The label that says which image a service was given, before it was pinned.
const IMAGE: &str = "com.docker.stack.image";

#[derive(Subcommand)]
pub enum Stacks {
    /// Outputs the final config file, after doing merges and interpolations
    Config {
        #[command(flatten)]
        files: FileFlags,
        /// Skip interpolation and output only merged config
        #[arg(long)]
        skip_interpolation: bool,
    },
    /// Deploy a new stack or update an existing stack
    #[command(visible_alias = "up")]
    Deploy(deploy::DeployFlags),
    /// List stacks
    #[command(visible_alias = "list")]
    Ls {
        /// Format output: table, table TEMPLATE, json or a Go template
        #[arg(long, value_name = "string")]
        format: Option<String>,
    },
    /// List the tasks in the stack
    Ps {
        #[command(flatten)]
        show: TaskFlags,
        #[arg(value_name = "STACK", value_parser = name)]
        stack: String,
    },
    /// Remove one or more stacks
    #[command(visible_alias = "remove", visible_alias = "down")]
    Rm {
        /// Do not wait for stack removal
        #[arg(
            short, long, num_args = 0..=1, require_equals = true, default_value_t = true,
            default_missing_value = "true", action = clap::ArgAction::Set, value_name = "bool"
        )]
        detach: bool,
        #[arg(required = true, value_name = "STACK", value_parser = name)]
        stacks: Vec<String>,
    },
    /// List the services in the stack
    Services {
        /// Filter output based on conditions provided
        #[arg(short, long, value_name = "filter", value_parser = super::usage::filter)]
        filter: Vec<String>,
        /// Format output: table, table TEMPLATE, json or a Go template
        #[arg(long, value_name = "string")]
        format: Option<String>,
        /// Only display IDs
        #[arg(short, long)]
        quiet: bool,
        #[arg(value_name = "STACK", value_parser = name)]
        stack: String,
    },
}

/// Which files a stack is made of.
#[derive(Args)]
pub struct FileFlags {
    /// Path to a Compose file, or "-" to read from stdin
    #[arg(short, long, value_name = "strings", value_delimiter = ',')]
    compose_file: Vec<String>,
    /// Also take services of this profile; "*" takes all (default COMPOSE_PROFILES)
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    profile: Vec<String>,
}

impl FileFlags {
    /// Loads them; what should be known of them is told.
    fn load(&self, interpolate: bool) -> Result<Project> {
        // A variable that is not text cannot stand in a file either.
        let text = |(k, v): (OsString, OsString)| Some((k.into_string().ok()?, v.into_string().ok()?));
        let variables: Variables = std::env::vars_os().filter_map(text).collect();
        let mut profiles = self.profile.clone();
        if profiles.is_empty()
            && let Some(named) = variables.get("COMPOSE_PROFILES")
        {
            profiles.extend(named.split(',').filter(|p| !p.is_empty()).map(str::to_owned));
        }
        let options = compose::Options {
            files: &self.compose_file,
            variables,
            profiles,
            services: Vec::new(),
            interpolate,
            env_files: true,
            whole_paths: true,
            consistent: true,
            dialect: Dialect::Stack,
            directory: None,
        };
        let project = compose::load(&options)?;
        project.warnings.iter().for_each(|w| eprintln!("{w}"));
        Ok(project)
    }
}

/// Reads a stack's name.
fn name(text: &str) -> Result<String, String> {
    let good = |c: char| !c.is_whitespace() && c != '"' && c != '\'';
    match !text.is_empty() && text.chars().all(good) {
        true => Ok(text.to_owned()),
        false => Err(format!("invalid stack name: {text:?}")),
    }
}

pub async fn run(api: &Api, command: Stacks) -> Result<()> {
    match command {
        Stacks::Config { files, skip_interpolation } => {
            let project = files.load(!skip_interpolation)?;
            supported::warn(&project.root);
            write(format_args!("{}", compose::to_yaml(&project.root)))
        }
        Stacks::Deploy(flags) => deploy::run(api, &flags).await,
        Stacks::Rm { detach, stacks } => remove::run(api, &stacks, detach).await,
        Stacks::Ls { format } => list(api, format.as_deref()).await,
        Stacks::Ps { mut show, stack } => {
            let mut filters = show.filter.clone();
            filters.push(of(&stack));
            show.no_trunc |= show.quiet;
            if is_empty(api, "/tasks", &filters).await? {
                bail!("nothing found in stack: {stack}");
            }
            tasks::list(api, &filters, &show).await
        }
        Stacks::Services { mut filter, format, quiet, stack } => {
            filter.push(of(&stack));
            if is_empty(api, "/services", &filter).await? {
                eprintln!("Nothing found in stack: {stack}");
                return Ok(());
            }
            services::list(api, quiet, &filter, format.as_deref()).await
        }
    }
}

/// The filter for what is of a stack.
fn of(stack: &str) -> String {
    format!("label={NAMESPACE}={stack}")
}

/// The name in the swarm of what the file calls `name`.
fn scope(stack: &str, name: &str) -> String {
    format!("{stack}_{name}")
}

/// Labels of the file, and the stack's.
fn stack_labels(stack: &str, given: Option<&Node>) -> Map<String, Value> {
    let mut labels = super::compose_parts::pairs(given);
    labels.insert(NAMESPACE.into(), stack.into());
    labels
}

/// What there is of a stack below a path of the API.
async fn all(api: &Api, path: &str, stack: &str) -> Result<Vec<Value>> {
    let found = api.get(path, &Query::new().filters(&[of(stack)])?).await?;
    Ok(found.as_array().cloned().unwrap_or_default())
}

async fn is_empty(api: &Api, path: &str, filters: &[String]) -> Result<bool> {
    let found = api.get(path, &Query::new().filters(filters)?).await?;
    Ok(found.as_array().is_none_or(Vec::is_empty))
}

const COLUMNS: &[Column] = &[("Name", "NAME"), ("Services", "SERVICES")];
const TABLE: &str = "{{.Name}}\t{{.Services}}";

async fn list(api: &Api, format: Option<&str>) -> Result<()> {
    let found = api.get("/services", &Query::new().filters(&[format!("label={NAMESPACE}")])?).await?;
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    for service in found.as_array().context("the daemon's answer is not a list")? {
        *counts.entry(text(&service["Spec"]["Labels"], NAMESPACE)).or_default() += 1;
    }
    let mut listing = Listing::new(COLUMNS, TABLE);
    for (name, count) in counts {
        listing.row(vec![name.into(), count.to_string().into()], &Value::Null);
    }
    listing.print(false, format)
}
