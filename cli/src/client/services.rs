//! `service`.

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use serde_json::Value;

use super::api::{Api, Query, encode};
use super::dependencies::Kind;
use super::output::{self, Column, Listing, say, text};
use super::service_create::CreateFlags;
use super::service_image;
use super::service_logs::{self, ServiceLogs};
use super::service_spec::SpecFlags;
use super::service_update::UpdateFlags;
use super::tasks::{self, TaskFlags};
use super::{each, explain, file_references, is_not_found, ports, pretty, progress};

#[derive(Subcommand)]
pub enum Services {
    /// Create a new service
    Create(Box<CreateFlags>),
    /// Tell why the tasks of a service run where they do, or do not run (Skep's own)
    Explain {
        /// Format output: json or a Go template
        #[arg(short, long, value_name = "string")]
        format: Option<String>,
        /// A service, or a task by its ID or as NAME.SLOT
        #[arg(value_name = "SERVICE|TASK")]
        subject: String,
    },
    /// Display detailed information on one or more services
    Inspect {
        /// Format output: json or a Go template
        #[arg(short, long, value_name = "string")]
        format: Option<String>,
        /// Print the information in a human friendly format
        #[arg(long)]
        pretty: bool,
        #[arg(required = true, value_name = "SERVICE")]
        services: Vec<String>,
    },
    /// Fetch the logs of a service or task
    Logs(ServiceLogs),
    /// List services
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
    /// List the tasks of one or more services
    Ps {
        #[command(flatten)]
        show: TaskFlags,
        #[arg(required = true, value_name = "SERVICE")]
        services: Vec<String>,
    },
    /// Move tasks of replicated services until they are spread evenly over the nodes (Skep's own)
    Rebalance {
        /// Show what would be moved, and move nothing
        #[arg(long)]
        dry_run: bool,
        #[arg(required = true, value_name = "SERVICE")]
        services: Vec<String>,
    },
    /// Remove one or more services
    #[command(visible_alias = "remove")]
    Rm {
        #[arg(required = true, value_name = "SERVICE")]
        services: Vec<String>,
    },
    /// Revert changes to a service's configuration
    Rollback {
        /// Exit immediately instead of waiting for the service to converge
        #[arg(short, long)]
        detach: bool,
        /// Suppress progress output
        #[arg(short, long)]
        quiet: bool,
        #[arg(value_name = "SERVICE")]
        service: String,
    },
    /// Scale one or multiple replicated services
    Scale {
        /// Exit immediately instead of waiting for the service to converge
        #[arg(short, long)]
        detach: bool,
        #[arg(required = true, value_name = "SERVICE=REPLICAS")]
        scales: Vec<String>,
    },
    /// Update a service
    Update(Box<UpdateFlags>),
}

pub async fn run(api: &Api, command: Services) -> Result<()> {
    match command {
        Services::Create(flags) if flags.spec.extras.dry_run => {
            let (api, plan) = api.planning();
            create(&api, &flags, false).await?;
            plan.show(&api).await
        }
        Services::Create(flags) => create(api, &flags, true).await,
        Services::Explain { format, subject } => explain::run(api, &subject, format.as_deref()).await,
        Services::Update(flags) if flags.spec.extras.dry_run => {
            let (api, plan) = api.planning();
            update_by_flags(&api, &flags, false).await?;
            plan.show(&api).await
        }
        Services::Update(flags) => update_by_flags(api, &flags, true).await,
        Services::Ls { filter, format, quiet } => list(api, quiet, &filter, format.as_deref()).await,
        Services::Ps { show, services } => ps(api, show, &services).await,
        Services::Inspect { format, pretty: nice, services } => {
            let get = async |name: String| get_verbose(api, &name).await;
            if nice {
                return each(&services, async |name| pretty::service(&get(name).await?)).await;
            }
            output::inspect(&services, format.as_deref(), get).await
        }
        Services::Scale { detach, scales } => scale(api, &scales, detach).await,
        Services::Rollback { detach, quiet, service } => {
            let found = get(api, &service).await?;
            update(api, &found, &found["Spec"], true, "").await?;
            say!("{service}")?;
            if detach { Ok(()) } else { progress::converge(api, &text(&found, "ID"), quiet).await }
        }
        Services::Rebalance { dry_run: true, services } => {
            let (api, plan) = api.planning();
            rebalance(&api, &services, false).await?;
            plan.show(&api).await
        }
        Services::Rebalance { services, .. } => rebalance(api, &services, true).await,
        Services::Rm { services } => {
            each(&services, async |name| {
                api.delete(&format!("/services/{}", encode(&name)), &Query::new()).await?;
                say!("{name}")
            })
            .await
        }
        Services::Logs(args) => service_logs::show(api, &args).await,
    }
}

async fn create(api: &Api, flags: &CreateFlags, tell: bool) -> Result<()> {
    let mut spec = flags.to_spec()?;
    for (kind, files) in [(Kind::Secret, &flags.secret), (Kind::Config, &flags.config)] {
        let added = file_references::resolve(api, kind, files).await?;
        file_references::change(&mut spec["TaskTemplate"]["ContainerSpec"], kind, &[], added);
    }
    let unpinned = service_image::pin(api, &mut spec, &flags.spec).await?;
    let auth = auth_for(api, &spec, &flags.spec)?;
    let created = api.post_as("/services/create", &Query::new(), &spec, &auth).await?;
    unpinned.iter().for_each(|w| eprintln!("{w}"));
    warn(&created);
    let id = text(&created, "ID");
    if !tell {
        return Ok(());
    }
    say!("{id}")?;
    if flags.spec.detach { Ok(()) } else { progress::converge(api, &id, flags.spec.quiet).await }
}

fn auth_for(api: &Api, spec: &Value, flags: &SpecFlags) -> Result<String> {
    let image = text(&spec["TaskTemplate"]["ContainerSpec"], "Image");
    service_image::header(api, &image, flags)
}

fn warn(answer: &Value) {
    for warning in answer["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        eprintln!("{warning}");
    }
}

/// A service by name or ID.
pub async fn get(api: &Api, name: &str) -> Result<Value> {
    api.get(&format!("/services/{}", encode(name)), &Query::new()).await
}

/// The same with the values that were left to their defaults.
async fn get_verbose(api: &Api, name: &str) -> Result<Value> {
    let found = get_with_defaults(api, name).await;
    found.map_err(|e| if is_not_found(&e) { anyhow::anyhow!("Error: no such service: {name}") } else { e })
}

async fn get_with_defaults(api: &Api, name: &str) -> Result<Value> {
    api.get(&format!("/services/{}", encode(name)), &Query::new().with("insertDefaults", "true")).await
}

/// Updates a service, as it was found, to a spec.
pub async fn update(api: &Api, service: &Value, spec: &Value, rollback: bool, auth: &str) -> Result<()> {
    let version = service["Version"]["Index"].as_u64().context("the service has no version")?;
    let mut query = Query::new().with("version", version.to_string());
    if rollback {
        query = query.with("rollback", "previous");
    }
    let path = format!("/services/{}/update", text(service, "ID"));
    warn(&api.post_as(&path, &query, spec, auth).await?);
    Ok(())
}

async fn update_by_flags(api: &Api, flags: &UpdateFlags, tell: bool) -> Result<()> {
    let service = get(api, &flags.service).await?;
    let mut spec = service["Spec"].clone();
    let mut unpinned = None;
    if !flags.rollback {
        let mut network_ids = Vec::new();
        for name in flags.network_names() {
            network_ids
                .push(text(&api.get(&format!("/networks/{}", encode(name)), &Query::new()).await?, "Id"));
        }
        flags.apply(&mut spec, &network_ids)?;
        for (kind, removed, files) in [
            (Kind::Secret, &flags.secret_rm, &flags.secret_add),
            (Kind::Config, &flags.config_rm, &flags.config_add),
        ] {
            let added = file_references::resolve(api, kind, files).await?;
            file_references::change(&mut spec["TaskTemplate"]["ContainerSpec"], kind, removed, added);
        }
        if flags.image.is_some() {
            unpinned = service_image::pin(api, &mut spec, &flags.spec).await?;
        }
    }
    let auth = auth_for(api, &spec, &flags.spec)?;
    update(api, &service, &spec, flags.rollback, &auth).await?;
    unpinned.iter().for_each(|w| eprintln!("{w}"));
    if !tell {
        return Ok(());
    }
    say!("{}", flags.service)?;
    if flags.spec.detach {
        Ok(())
    } else {
        progress::converge(api, &text(&service, "ID"), flags.spec.quiet).await
    }
}

async fn ps(api: &Api, mut show: TaskFlags, services: &[String]) -> Result<()> {
    // As Docker's: IDs alone are whole ones.
    show.no_trunc |= show.quiet;
    let (mut filters, mut missing) = (show.filter.clone(), Vec::new());
    for name in services {
        match get(api, name).await {
            Ok(service) => filters.push(format!("service={}", text(&service, "ID"))),
            Err(e) if is_not_found(&e) => missing.push(format!("no such service: {name}")),
            Err(e) => return Err(e),
        }
    }
    if missing.len() < services.len() {
        tasks::list(api, &filters, &show).await?;
    }
    if missing.is_empty() { Ok(()) } else { bail!(missing.join("\n")) }
}

/// Asks for it, and does not wait for the moves: the services' `RebalanceStatus` tells of them.
async fn rebalance(api: &Api, services: &[String], tell: bool) -> Result<()> {
    each(services, async |name| {
        let path = format!("/services/{}/rebalance", encode(&name));
        warn(&api.post_as(&path, &Query::new(), &Value::Null, "").await?);
        if tell { say!("{name}") } else { Ok(()) }
    })
    .await
}

async fn scale(api: &Api, scales: &[String], detach: bool) -> Result<()> {
    let mut asked = Vec::new();
    for spec in scales {
        let Some((name, count)) = spec.split_once('=') else {
            bail!("invalid scale specifier '{spec}'.\nUsage: skep service scale SERVICE=REPLICAS");
        };
        let count: u64 = count.parse().map_err(|_| {
            anyhow::anyhow!("{name}: invalid replicas value {count}: want a whole number from zero")
        })?;
        asked.push((name, count));
    }
    let (mut ids, mut errors) = (Vec::new(), Vec::new());
    for (name, replicas) in asked {
        match scale_one(api, name, replicas).await {
            Ok(id) => ids.push(id),
            Err(e) => errors.push(format!("{name}: {e:#}")),
        }
    }
    if !detach {
        for id in ids {
            if let Err(e) = progress::converge(api, &id, false).await {
                errors.push(format!("{id}: {e:#}"));
            }
        }
    }
    if errors.is_empty() { Ok(()) } else { bail!(errors.join("\n")) }
}

async fn scale_one(api: &Api, name: &str, replicas: u64) -> Result<String> {
    let service = get(api, name).await?;
    let mut spec = service["Spec"].clone();
    let mode = &mut spec["Mode"];
    if !mode["Replicated"].is_null() {
        mode["Replicated"]["Replicas"] = replicas.into();
    } else if !mode["ReplicatedJob"].is_null() {
        mode["ReplicatedJob"]["TotalCompletions"] = replicas.into();
    } else {
        bail!("scale can only be used with replicated or replicated-job mode");
    }
    update(api, &service, &spec, false, "").await?;
    say!("{name} scaled to {replicas}")?;
    Ok(text(&service, "ID"))
}

const COLUMNS: &[Column] = &[
    ("ID", "ID"),
    ("Name", "NAME"),
    ("Mode", "MODE"),
    ("Replicas", "REPLICAS"),
    ("Image", "IMAGE"),
    ("Ports", "PORTS"),
];
const TABLE: &str = "{{.ID}}\t{{.Name}}\t{{.Mode}}\t{{.Replicas}}\t{{.Image}}\t{{.Ports}}";

/// Lists services by filters.
pub async fn list(api: &Api, quiet: bool, filter: &[String], format: Option<&str>) -> Result<()> {
    let found = api.get("/services", &Query::new().with("status", "true").filters(filter)?).await?;
    let mut services = found.as_array().cloned().unwrap_or_default();
    services.sort_by_key(|s| text(&s["Spec"], "Name"));
    let mut listing = Listing::new(COLUMNS, TABLE);
    for s in &services {
        let spec = &s["Spec"];
        let mode = spec["Mode"].as_object().and_then(|m| m.keys().next().cloned()).unwrap_or_default();
        let mode = match mode.as_str() {
            "ReplicatedJob" => "replicated job".into(),
            "GlobalJob" => "global job".into(),
            other => other.to_lowercase(),
        };
        let number = |name: &str| s["ServiceStatus"][name].as_u64().unwrap_or(0);
        let (desired, completed) = (number("DesiredTasks"), number("CompletedTasks"));
        let most = spec["TaskTemplate"]["Placement"]["MaxReplicas"].as_u64();
        let more = match (mode.as_str(), most) {
            ("replicated", Some(n @ 1..)) => format!(" (max {n} per node)"),
            ("replicated job", _) => {
                let total = spec["Mode"]["ReplicatedJob"]["TotalCompletions"].as_u64().unwrap_or(0);
                format!(" ({completed}/{total} completed)")
            }
            ("global job", _) => format!(" ({completed}/{} completed)", desired + completed),
            _ => String::new(),
        };
        let image = text(&spec["TaskTemplate"]["ContainerSpec"], "Image");
        let row = vec![
            text(s, "ID").chars().take(12).collect::<String>().into(),
            text(spec, "Name").into(),
            mode.into(),
            format!("{}/{desired}{more}", number("RunningTasks")).into(),
            image.split('@').next().unwrap_or_default().into(),
            ports::of_service(&s["Endpoint"]["Ports"], "ingress").into(),
        ];
        listing.row(row, &spec["Labels"]);
    }
    listing.print(quiet, format)
}
