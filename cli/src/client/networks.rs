//! `skep network`.

use anyhow::{Context, Result};
use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::api::{Api, Query, encode};
use super::each;
use super::output::{self, Table, short_id};

#[derive(Subcommand)]
pub enum Networks {
    /// Make a network
    Create {
        /// bridge or overlay
        #[arg(short, long, default_value = "bridge")]
        driver: String,
        /// Address range, like 10.10.0.0/24
        #[arg(long)]
        subnet: Option<String>,
        /// Gateway
        #[arg(long, requires = "subnet")]
        gateway: Option<String>,
        /// No way out of it
        #[arg(long)]
        internal: bool,
        /// Let containers outside services join an overlay
        #[arg(long)]
        attachable: bool,
        /// Driver option, name=value
        #[arg(short, long)]
        opt: Vec<String>,
        /// Label, name=value
        #[arg(long)]
        label: Vec<String>,
        /// Name
        name: String,
    },
    /// List networks
    #[command(alias = "list")]
    Ls {
        /// Only IDs
        #[arg(short, long)]
        quiet: bool,
        /// Whole IDs
        #[arg(long)]
        no_trunc: bool,
        /// Filter, name=value
        #[arg(short, long)]
        filter: Vec<String>,
        /// Template for each line
        #[arg(long)]
        format: Option<String>,
    },
    /// Show all there is to know of networks
    Inspect {
        /// Template
        #[arg(short, long)]
        format: Option<String>,
        /// Names or IDs
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Remove networks
    #[command(alias = "remove")]
    Rm {
        /// Names or IDs
        #[arg(required = true)]
        names: Vec<String>,
    },
}

pub async fn run(api: &Api, command: Networks) -> Result<()> {
    match command {
        Networks::Create { driver, subnet, gateway, internal, attachable, opt, label, name } => {
            let ipam = subnet.map(|s| match gateway {
                Some(g) => json!([{ "Subnet": s, "Gateway": g }]),
                None => json!([{ "Subnet": s }]),
            });
            let body = json!({
                "Name": name, "Driver": driver, "Internal": internal, "Attachable": attachable,
                "Options": pairs(&opt)?, "Labels": pairs(&label)?,
                "IPAM": { "Driver": "default", "Config": ipam.unwrap_or(json!([])) },
            });
            let created = api.post("/networks/create", &Query::new(), Some(&body)).await?;
            println!("{}", created["Id"].as_str().unwrap_or_default());
            Ok(())
        }
        Networks::Ls { quiet, no_trunc, filter, format } => {
            let found = api.get("/networks", &Query::new().filters(&filter)?).await?;
            let mut table = Table::new(&["NETWORK ID", "NAME", "DRIVER", "SCOPE"]);
            for n in found.as_array().into_iter().flatten() {
                let text = |name: &str| n[name].as_str().unwrap_or_default().to_owned();
                let id = short_id(&text("Id"), no_trunc);
                if quiet {
                    println!("{id}");
                } else {
                    table.row(vec![id, text("Name"), text("Driver"), text("Scope")]);
                }
            }
            if quiet { Ok(()) } else { table.print(format.as_deref()) }
        }
        Networks::Inspect { format, names } => {
            let mut found = Vec::new();
            for name in &names {
                found.push(api.get(&format!("/networks/{}", encode(name)), &Query::new()).await?);
            }
            output::inspect(found, format.as_deref())
        }
        Networks::Rm { names } => {
            each(&names, async |name| {
                api.delete(&format!("/networks/{}", encode(&name)), &Query::new()).await?;
                println!("{name}");
                Ok(())
            })
            .await
        }
    }
}

/// `name=value` words as a JSON object.
pub fn pairs(words: &[String]) -> Result<Map<String, Value>> {
    words
        .iter()
        .map(|w| {
            let (k, v) = w.split_once('=').with_context(|| format!("{w:?}: want name=value"))?;
            Ok((k.to_owned(), v.into()))
        })
        .collect()
}
