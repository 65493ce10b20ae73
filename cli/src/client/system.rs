//! Commands on the daemon itself: info, version, events.

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tokio::io::AsyncBufReadExt;

use super::api::{Api, Query};
use super::output::{self, say, text};
use super::{containers, human, info};
use crate::origin;

/// Commands that stand by themselves and under `system`.
#[derive(Subcommand)]
pub enum System {
    /// Get real time events from the server
    Events(EventArgs),
    /// Display system-wide information
    Info {
        /// Format output: json or a Go template
        #[arg(short, long, value_name = "string")]
        format: Option<String>,
    },
}

#[derive(Args)]
pub struct EventArgs {
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "filter", value_parser = super::usage::filter)]
    filter: Vec<String>,
    /// Format output: json or a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Show all events created since timestamp
    #[arg(long, value_name = "string")]
    since: Option<String>,
    /// Stream events until this timestamp
    #[arg(long, value_name = "string")]
    until: Option<String>,
}

pub async fn run(api: &Api, command: System) -> Result<()> {
    match command {
        System::Info { format } => {
            let info = api.get("/info", &Query::new()).await;
            match format.as_deref().filter(|f| !f.is_empty()) {
                Some(format) => output::one(&info?, format),
                None => info::show(api, info),
            }
        }
        System::Events(args) => events(api, &args).await,
    }
}

async fn events(api: &Api, args: &EventArgs) -> Result<()> {
    let template = match args.format.as_deref() {
        None | Some("" | "json") => None,
        Some(source) => Some(output::BadTemplate::read(source, "Error parsing format", "")?),
    };
    let mut query = Query::new().filters(&args.filter)?;
    for (name, value) in [("since", &args.since), ("until", &args.until)] {
        if let Some(text) = value {
            query = query.with(name, human::timestamp(text)?);
        }
    }
    let mut lines = containers::reader(api, "/events", &query).await?.lines();
    while let Some(line) = lines.next_line().await? {
        let Ok(event) = serde_json::from_str::<Value>(&line) else {
            bail!("the daemon sent an event that is not JSON")
        };
        match (&template, args.format.as_deref()) {
            (Some(template), _) => say!("{}", template.execute(&event, None)?)?,
            (None, Some("json")) => say!("{event}")?,
            (None, _) => say!("{}", event_line(&event))?,
        }
    }
    Ok(())
}

/// `2026-11-24T01:02:03.000000004Z container start ID (image=busybox, name=web)`.
fn event_line(event: &Value) -> String {
    let nanos = event["timeNano"].as_i64().unwrap_or(0);
    let then = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(nanos));
    let when = then.map_or_else(
        |_| nanos.to_string(),
        |t| {
            let (y, mo, d, h, mi, s) =
                (t.year(), u8::from(t.month()), t.day(), t.hour(), t.minute(), t.second());
            format!("{y:04}-{mo:02}-{d:02}T{h:02}:{mi:02}:{s:02}.{:09}Z", t.nanosecond())
        },
    );
    let attribute = |(k, v): (&String, &Value)| format!("{k}={}", v.as_str().unwrap_or_default());
    let attributes: Vec<_> =
        event["Actor"]["Attributes"].as_object().into_iter().flatten().map(attribute).collect();
    let attributes =
        if attributes.is_empty() { String::new() } else { format!(" ({})", attributes.join(", ")) };
    format!(
        "{when} {} {} {}{attributes}",
        text(event, "Type"),
        text(event, "Action"),
        text(&event["Actor"], "ID")
    )
}

/// `version`: of this client and of the daemon.
pub async fn version(api: &Api, format: Option<&str>) -> Result<()> {
    let own = env!("CARGO_PKG_VERSION");
    let (os, arch) = (std::env::consts::OS, if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" });
    let (commit, built_at) = (origin::commit(), origin::readable(&origin::built_at()));
    let host = json!({
        "Version": own, "ApiVersion": "1.50", "DefaultAPIVersion": "1.50", "GitCommit": commit, "Os": os, "Arch": arch,
        "BuildTime": built_at, "Context": "default",
    });
    if let Some(format) = format.filter(|f| !matches!(*f, "" | "json")) {
        output::BadTemplate::read(format, "template parsing error", "version")?;
    }
    let server = api.get("/version", &Query::new()).await;
    if let Some(format) = format.filter(|f| !f.is_empty()) {
        let held = server.as_ref().map_or(&Value::Null, |s| s);
        // A template that asks for the client only is answered without a daemon. Why there is none comes before what
        // the template could not be filled for.
        let shown = output::one(&json!({ "Client": host, "Server": held }), format);
        return server.map(drop).and(shown);
    }
    say!(
        "Client:\n Version:           {own}\n API version:       1.50\n Git commit:        {commit}\n Built:             {built_at}\n OS/Arch:           {os}/{arch}\n Context:           default"
    )?;
    let server = server?;
    say!("\nServer: {}", text(&server["Platform"], "Name"))?;
    for component in server["Components"].as_array().into_iter().flatten() {
        let details = &component["Details"];
        say!(" {}:\n  Version:          {}", text(component, "Name"), text(component, "Version"))?;
        let api_version = match (text(details, "ApiVersion"), text(details, "MinAPIVersion")) {
            (api, _) if api.is_empty() => api,
            (api, min) => format!("{api} (minimum version {min})"),
        };
        let os_arch = match (text(details, "Os"), text(details, "Arch")) {
            (os, _) if os.is_empty() => os,
            (os, arch) => format!("{os}/{arch}"),
        };
        for (label, value) in [
            ("API version", api_version),
            ("Git commit", text(details, "GitCommit")),
            ("Built", origin::readable(&text(details, "BuildTime"))),
            ("OS/Arch", os_arch),
            ("Kernel", text(details, "KernelVersion")),
        ] {
            if !value.is_empty() {
                say!("  {:<17} {value}", format!("{label}:"))?;
            }
        }
    }
    Ok(())
}

/// `system check`: what of the host's network is not as it should be; an error if there is anything.
pub async fn check(api: &Api, format: Option<&str>) -> Result<()> {
    let report = api.get("/system/check", &Query::new()).await?;
    let found = report["Differences"].as_array().map_or(0, Vec::len);
    match format.filter(|f| !f.is_empty()) {
        Some(format) => output::one(&report, format)?,
        None => {
            for difference in report["Differences"].as_array().into_iter().flatten() {
                say!("{}", difference.as_str().unwrap_or_default())?;
            }
            if found == 0 {
                let networks = report["Networks"].as_object().map_or(0, serde_json::Map::len);
                let containers = &report["Containers"];
                say!(
                    "The network is as it should be: {containers} containers, {networks} networks of the swarm."
                )?;
            }
        }
    }
    anyhow::ensure!(found == 0, "{found} differences: the daemon removes them within 30 seconds");
    Ok(())
}
