//! `skep service`.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use serde_json::Value;

use super::api::{Api, Query, encode};
use super::output::{self, Table};
use super::service_spec::{CreateArgs, UpdateArgs};
use super::{containers, each, progress};

#[derive(Subcommand)]
pub enum Services {
    /// Create a service
    Create(Box<CreateArgs>),
    /// Change a service
    Update(Box<UpdateArgs>),
    /// List services
    #[command(alias = "list")]
    Ls {
        /// Only IDs
        #[arg(short, long)]
        quiet: bool,
        /// Filter, name=value
        #[arg(short, long)]
        filter: Vec<String>,
        /// Template for each line
        #[arg(long)]
        format: Option<String>,
    },
    /// List the tasks of services
    Ps {
        /// Only IDs
        #[arg(short, long)]
        quiet: bool,
        /// Whole IDs and reasons
        #[arg(long)]
        no_trunc: bool,
        /// Filter, name=value
        #[arg(short, long)]
        filter: Vec<String>,
        /// Template for each line
        #[arg(long)]
        format: Option<String>,
        /// Names or IDs
        #[arg(required = true)]
        services: Vec<String>,
    },
    /// Show all there is to know of services
    Inspect {
        /// Template
        #[arg(short, long)]
        format: Option<String>,
        /// Names or IDs
        #[arg(required = true)]
        services: Vec<String>,
    },
    /// Set the number of tasks of services
    Scale {
        /// Do not wait until the tasks run
        #[arg(short, long)]
        detach: bool,
        /// service=replicas
        #[arg(required = true)]
        scales: Vec<String>,
    },
    /// Go back to the spec before the last update
    Rollback {
        /// Do not wait until the tasks run
        #[arg(short, long)]
        detach: bool,
        /// Name or ID
        service: String,
    },
    /// Remove services
    Rm {
        /// Names or IDs
        #[arg(required = true)]
        services: Vec<String>,
    },
    /// Show what the tasks of a service wrote
    Logs {
        /// Go on with what they write
        #[arg(short, long)]
        follow: bool,
        /// Show times
        #[arg(short, long)]
        timestamps: bool,
        /// Last lines of each task only
        #[arg(short = 'n', long, default_value = "all")]
        tail: String,
        /// Name or ID
        service: String,
    },
}

pub async fn run(api: &Api, command: Services) -> Result<u8> {
    match command {
        Services::Create(args) => {
            let created = api.post("/services/create", &Query::new(), Some(&args.to_spec()?)).await?;
            warn(&created);
            let id = created["ID"].as_str().context("the daemon answered without an ID")?;
            println!("{id}");
            if !args.detach {
                progress::converge(api, id, args.quiet).await?;
            }
        }
        Services::Update(args) => {
            let service = get(api, &args.service).await?;
            let mut spec = service["Spec"].clone();
            if !args.rollback {
                args.apply(&mut spec)?;
            }
            update(api, &service, &spec, args.rollback).await?;
            println!("{}", args.service);
            if !args.detach {
                progress::converge(api, &id_of(&service)?, args.quiet).await?;
            }
        }
        Services::Ls { quiet, filter, format } => list(api, quiet, &filter, format.as_deref()).await?,
        Services::Ps { quiet, no_trunc, filter, format, services } => {
            let mut filters = filter;
            for name in &services {
                filters.push(format!("service={}", id_of(&get(api, name).await?)?));
            }
            tasks(api, &filters, TaskFormat { quiet, whole: no_trunc, format }).await?;
        }
        Services::Inspect { format, services } => {
            let mut found = Vec::new();
            for name in &services {
                found.push(get(api, name).await?);
            }
            output::inspect(found, format.as_deref())?;
        }
        Services::Scale { detach, scales } => scale(api, &scales, detach).await?,
        Services::Rollback { detach, service } => {
            let found = get(api, &service).await?;
            update(api, &found, &found["Spec"], true).await?;
            println!("{service}");
            if !detach {
                progress::converge(api, &id_of(&found)?, false).await?;
            }
        }
        Services::Rm { services } => {
            each(&services, async |name| {
                api.delete(&format!("/services/{}", encode(&name)), &Query::new()).await?;
                println!("{name}");
                Ok(())
            })
            .await?;
        }
        Services::Logs { follow, timestamps, tail, service } => {
            let found = get(api, &service).await?;
            let tty = found["Spec"]["TaskTemplate"]["ContainerSpec"]["TTY"] == Value::Bool(true);
            let query = Query::new().flag("stdout", true).flag("stderr", true).flag("follow", follow);
            let query = query.flag("timestamps", timestamps).with("tail", tail);
            containers::copy(api, &format!("/services/{}/logs", id_of(&found)?), &query, tty).await?;
        }
    }
    Ok(0)
}

fn warn(answer: &Value) {
    for warning in answer["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        eprintln!("WARNING: {warning}");
    }
}

fn id_of(service: &Value) -> Result<String> {
    Ok(service["ID"].as_str().context("the daemon sent a service without an ID")?.to_owned())
}

async fn get(api: &Api, name: &str) -> Result<Value> {
    api.get(&format!("/services/{}", encode(name)), &Query::new()).await
}

async fn update(api: &Api, service: &Value, spec: &Value, rollback: bool) -> Result<()> {
    let version = service["Version"]["Index"].as_u64().context("the service has no version")?;
    let mut query = Query::new().with("version", version.to_string());
    if rollback {
        query = query.with("rollback", "previous");
    }
    let path = format!("/services/{}/update", id_of(service)?);
    warn(&api.post(&path, &query, Some(spec)).await?);
    Ok(())
}

async fn scale(api: &Api, scales: &[String], detach: bool) -> Result<()> {
    let mut asked = Vec::new();
    for text in scales {
        let parsed = text.split_once('=').and_then(|(name, n)| Some((name, n.parse::<u64>().ok()?)));
        asked.push(
            parsed.with_context(|| format!("invalid scale specifier {text:?}: want service=replicas"))?,
        );
    }
    let mut ids = Vec::new();
    for (name, replicas) in asked {
        let service = get(api, name).await?;
        let mut spec = service["Spec"].clone();
        if spec["Mode"]["Replicated"].is_null() {
            bail!("{name}: scale can only be used with replicated services");
        }
        spec["Mode"]["Replicated"]["Replicas"] = replicas.into();
        update(api, &service, &spec, false).await?;
        println!("{name} scaled to {replicas}");
        ids.push(id_of(&service)?);
    }
    if !detach {
        for id in ids {
            progress::converge(api, &id, false).await?;
        }
    }
    Ok(())
}

async fn list(api: &Api, quiet: bool, filter: &[String], format: Option<&str>) -> Result<()> {
    let found = api.get("/services", &Query::new().flag("status", true).filters(filter)?).await?;
    let mut table = Table::new(&["ID", "NAME", "MODE", "REPLICAS", "IMAGE", "PORTS"]);
    for s in found.as_array().into_iter().flatten() {
        let id = s["ID"].as_str().unwrap_or_default();
        if quiet {
            println!("{id}");
            continue;
        }
        let spec = &s["Spec"];
        let mode = spec["Mode"].as_object().and_then(|m| m.keys().next().cloned()).unwrap_or_default();
        let number = |name: &str| s["ServiceStatus"][name].as_u64().unwrap_or(0);
        let port = |p: &Value| {
            format!(
                "*:{}->{}/{}",
                p["PublishedPort"],
                p["TargetPort"],
                p["Protocol"].as_str().unwrap_or("tcp")
            )
        };
        let ports: Vec<_> = s["Endpoint"]["Ports"].as_array().into_iter().flatten().map(port).collect();
        table.row(vec![
            id.chars().take(12).collect(),
            spec["Name"].as_str().unwrap_or_default().into(),
            mode.to_lowercase(),
            format!("{}/{}", number("RunningTasks"), number("DesiredTasks")),
            spec["TaskTemplate"]["ContainerSpec"]["Image"].as_str().unwrap_or_default().into(),
            ports.join(", "),
        ]);
    }
    if quiet { Ok(()) } else { table.print(format) }
}

/// How `ps` shows tasks.
#[derive(Default)]
pub struct TaskFormat {
    quiet: bool,
    whole: bool,
    format: Option<String>,
}

/// Lists tasks by filters, newest of each slot first.
pub async fn tasks(api: &Api, filters: &[String], show: TaskFormat) -> Result<()> {
    let found = api.get("/tasks", &Query::new().filters(filters)?).await?;
    let mut nodes = BTreeMap::new();
    for n in api.get("/nodes", &Query::new()).await?.as_array().into_iter().flatten() {
        nodes.insert(
            n["ID"].to_string(),
            n["Description"]["Hostname"].as_str().unwrap_or_default().to_owned(),
        );
    }
    let mut services = BTreeMap::new();
    for s in api.get("/services", &Query::new()).await?.as_array().into_iter().flatten() {
        services.insert(s["ID"].to_string(), s["Spec"]["Name"].as_str().unwrap_or_default().to_owned());
    }
    let mut tasks: Vec<_> = found.as_array().cloned().unwrap_or_default();
    let created = |t: &Value| t["CreatedAt"].as_str().unwrap_or_default().to_owned();
    tasks.sort_by_key(|t| (t["ServiceID"].to_string(), t["Slot"].as_u64(), std::cmp::Reverse(created(t))));
    let mut table = Table::new(&["ID", "NAME", "IMAGE", "NODE", "DESIRED STATE", "CURRENT STATE", "ERROR"]);
    let mut before = None;
    for t in &tasks {
        let id = t["ID"].as_str().unwrap_or_default();
        let shown: String = if show.whole { id.into() } else { id.chars().take(12).collect() };
        if show.quiet {
            println!("{shown}");
            continue;
        }
        let service = services.get(&t["ServiceID"].to_string()).cloned().unwrap_or_default();
        let name = match t["Slot"].as_u64() {
            Some(slot) if slot > 0 => format!("{service}.{slot}"),
            _ => format!("{service}.{}", t["NodeID"].as_str().unwrap_or_default()),
        };
        let again = before.replace(name.clone()) == Some(name.clone());
        let capital = |v: &Value| {
            let s = v.as_str().unwrap_or_default();
            s.chars().take(1).flat_map(char::to_uppercase).chain(s.chars().skip(1)).collect::<String>()
        };
        let status = &t["Status"];
        let age = output::duration(output::since(status["Timestamp"].as_str().unwrap_or_default()));
        let mut error = status["Err"].as_str().unwrap_or_default().to_owned();
        if !show.whole && error.chars().count() > 60 {
            error = format!("{}…", error.chars().take(59).collect::<String>());
        }
        table.row(vec![
            shown,
            if again { format!(" \\_ {name}") } else { name },
            t["Spec"]["ContainerSpec"]["Image"].as_str().unwrap_or_default().into(),
            nodes.get(&t["NodeID"].to_string()).cloned().unwrap_or_default(),
            capital(&t["DesiredState"]),
            format!("{} {} ago", capital(&status["State"]), age.to_lowercase()),
            error,
        ]);
    }
    if show.quiet { Ok(()) } else { table.print(show.format.as_deref()) }
}
