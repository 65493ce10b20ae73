//! `secret` and `config`.

use std::io::Read;

use anyhow::{Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Subcommand;
use serde_json::{Value, json};

use super::api::{Api, Query, encode};
use super::create_body::pairs;
use super::output::{self, Column, Listing, say, text};
use super::{each, human, pretty};

/// The two kinds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Secret,
    Config,
}

impl Kind {
    /// What users call it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::Config => "config",
        }
    }
}

#[derive(Subcommand)]
pub enum Secrets {
    /// Create a secret from a file or STDIN as content
    Create {
        /// Secret driver
        #[arg(short, long, value_name = "string")]
        driver: Option<String>,
        /// Secret labels
        #[arg(short, long, value_name = "list")]
        label: Vec<String>,
        /// Template driver
        #[arg(long, value_name = "string")]
        template_driver: Option<String>,
        #[arg(value_name = "SECRET")]
        name: String,
        #[arg(value_name = "file|-")]
        file: Option<String>,
    },
    #[command(flatten)]
    Other(Same),
}

#[derive(Subcommand)]
pub enum Configs {
    /// Create a config from a file or STDIN
    Create {
        /// Config labels
        #[arg(short, long, value_name = "list")]
        label: Vec<String>,
        /// Template driver
        #[arg(long, value_name = "string")]
        template_driver: Option<String>,
        #[arg(value_name = "CONFIG")]
        name: String,
        #[arg(value_name = "file|-")]
        file: String,
    },
    #[command(flatten)]
    Other(Same),
}

/// What is the same for both.
#[derive(Subcommand)]
pub enum Same {
    /// Display detailed information on one or more of them
    Inspect {
        /// Format output: json or a Go template
        #[arg(short, long, value_name = "string")]
        format: Option<String>,
        /// Print the information in a human friendly format
        #[arg(long)]
        pretty: bool,
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// List them
    #[command(visible_alias = "list")]
    Ls {
        /// Filter output based on conditions provided
        #[arg(short, long, value_name = "filter", value_parser = super::usage::filter)]
        filter: Vec<String>,
        /// Format output: table, table TEMPLATE, json or a Go template
        #[arg(long, value_name = "string")]
        format: Option<String>,
        /// Only display IDs
        #[arg(short, long)]
        quiet: bool,
    },
    /// Remove one or more of them
    #[command(visible_alias = "remove")]
    Rm {
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

pub async fn secrets(api: &Api, command: Secrets) -> Result<()> {
    let (driver, label, template, name, file) = match command {
        Secrets::Create { driver, label, template_driver, name, file } => {
            (driver, label, template_driver, name, file)
        }
        Secrets::Other(command) => return same(api, Kind::Secret, command).await,
    };
    if driver.is_some() && file.is_some() {
        bail!("When using secret driver secret data must be empty");
    }
    let mut spec = json!({ "Name": name, "Labels": pairs(&label) });
    if let Some(file) = file {
        spec["Data"] = STANDARD.encode(content(&file)?).into();
    }
    if let Some(driver) = driver {
        spec["Driver"] = json!({ "Name": driver });
    }
    create(api, Kind::Secret, spec, template).await
}

pub async fn configs(api: &Api, command: Configs) -> Result<()> {
    match command {
        Configs::Create { label, template_driver, name, file } => {
            let data = content(&file)
                .map_err(|e| anyhow::anyhow!("Error reading content from {file:?}: {e}"))
                .map(|d| STANDARD.encode(d))?;
            let spec = json!({ "Name": name, "Labels": pairs(&label), "Data": data });
            create(api, Kind::Config, spec, template_driver).await
        }
        Configs::Other(command) => same(api, Kind::Config, command).await,
    }
}

/// A file's bytes, or those of standard input (`-`).
fn content(file: &str) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    let read = match file {
        "-" => std::io::stdin().read_to_end(&mut data),
        path => std::fs::File::open(path).and_then(|mut f| f.read_to_end(&mut data)),
    };
    let named = if file == "-" { "STDIN" } else { file };
    match read {
        Ok(0) => bail!("error reading from {named}: data is empty"),
        Ok(_) => Ok(data),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            bail!("error reading from {file}: open {file}: no such file or directory")
        }
        Err(e) => bail!("error reading from {named}: {e}"),
    }
}

async fn create(api: &Api, kind: Kind, mut spec: Value, template: Option<String>) -> Result<()> {
    if let Some(driver) = template {
        spec["Templating"] = json!({ "Name": driver });
    }
    let path = format!("/{}s/create", kind.word());
    let created = api.post(&path, &Query::new(), Some(&spec)).await?;
    say!("{}", text(&created, "ID"))
}

async fn same(api: &Api, kind: Kind, command: Same) -> Result<()> {
    let at = |name: &str| format!("/{}s/{}", kind.word(), encode(name));
    match command {
        Same::Inspect { format, pretty: nice, names } => {
            let get = async |name: String| api.get(&at(&name), &Query::new()).await;
            if nice {
                return each(&names, async |name| pretty::dependency(&get(name).await?, kind)).await;
            }
            output::inspect(&names, format.as_deref(), get).await
        }
        Same::Ls { filter, format, quiet } => list(api, kind, quiet, &filter, format.as_deref()).await,
        Same::Rm { names } => {
            each(&names, async |name| {
                api.delete(&at(&name), &Query::new()).await?;
                say!("{name}")
            })
            .await
        }
    }
}

const COLUMNS: &[Column] = &[
    ("ID", "ID"),
    ("Name", "NAME"),
    ("Driver", "DRIVER"),
    ("CreatedAt", "CREATED"),
    ("UpdatedAt", "UPDATED"),
    ("Labels", "LABELS"),
];
const SECRETS: &str = "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.CreatedAt}}\t{{.UpdatedAt}}";
const CONFIG_COLUMNS: &[Column] = &[
    ("ID", "ID"),
    ("Name", "NAME"),
    ("CreatedAt", "CREATED"),
    ("UpdatedAt", "UPDATED"),
    ("Labels", "LABELS"),
];
const CONFIGS: &str = "{{.ID}}\t{{.Name}}\t{{.CreatedAt}}\t{{.UpdatedAt}}";

async fn list(api: &Api, kind: Kind, quiet: bool, filter: &[String], format: Option<&str>) -> Result<()> {
    let path = format!("/{}s", kind.word());
    let found = api.get(&path, &Query::new().filters(filter)?).await?;
    let mut all = found.as_array().cloned().unwrap_or_default();
    all.sort_by_key(|d| text(&d["Spec"], "Name"));
    let mut listing = match kind {
        Kind::Secret => Listing::new(COLUMNS, SECRETS),
        Kind::Config => Listing::new(CONFIG_COLUMNS, CONFIGS),
    };
    let ago = |d: &Value, at: &str| format!("{} ago", human::duration(human::since(&text(d, at))));
    for d in &all {
        let mut row = vec![text(d, "ID").into(), text(&d["Spec"], "Name").into()];
        if kind == Kind::Secret {
            row.push(text(&d["Spec"]["Driver"], "Name").into());
        }
        row.extend([
            ago(d, "CreatedAt").into(),
            ago(d, "UpdatedAt").into(),
            output::labels(&d["Spec"]["Labels"]).into(),
        ]);
        listing.row(row, &d["Spec"]["Labels"]);
    }
    listing.print(quiet, format)
}
