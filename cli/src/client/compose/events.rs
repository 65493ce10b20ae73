//! `compose events`.

use anyhow::Result;
use clap::Args;
use serde_json::{Map, Value, json};
use tokio::io::AsyncBufReadExt;

use super::super::api::Query;
use super::super::output::{say, text};
use super::super::{containers, human};
use super::Session;
use super::found::{ONE_OFF, PROJECT, SERVICE};

/// Flags of `compose events`.
#[derive(Args)]
pub struct EventFlags {
    /// Output events as a stream of json objects
    #[arg(long)]
    json: bool,
    /// Show all events created since timestamp
    #[arg(long, value_name = "string")]
    since: Option<String>,
    /// Stream events until this timestamp
    #[arg(long, value_name = "string")]
    until: Option<String>,
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub async fn run(s: &Session<'_>, flags: &EventFlags) -> Result<()> {
    let subject = s.files.find(&flags.services)?;
    let filters = [format!("label={PROJECT}={}", subject.name), "type=container".to_owned()];
    let mut query = Query::new().filters(&filters)?;
    for (name, value) in [("since", &flags.since), ("until", &flags.until)] {
        if let Some(text) = value {
            query = query.with(name, human::timestamp(text)?);
        }
    }
    let mut lines = containers::reader(s.api, "/events", &query).await?.lines();
    while let Some(line) = lines.next_line().await? {
        let event: Value = serde_json::from_str(&line)?;
        let attributes = &event["Actor"]["Attributes"];
        let (service, action) = (text(attributes, SERVICE), text(&event, "Action"));
        let other = !flags.services.is_empty() && !flags.services.contains(&service);
        // As Docker's: one-offs and execs are no news of a project.
        if other || text(attributes, ONE_OFF) == "True" || action.starts_with("exec_") {
            continue;
        }
        let kept = |k: &str| !k.starts_with("com.docker.compose.");
        let kept: Map<String, Value> = attributes
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(k, _)| kept(k))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        let nanos = i128::from(event["timeNano"].as_i64().unwrap_or(0));
        let then = time::OffsetDateTime::from_unix_timestamp_nanos(nanos)?;
        let id = text(&event["Actor"], "ID");
        if flags.json {
            let when = then.format(&time::format_description::well_known::Rfc3339)?;
            say!(
                "{}",
                json!({ "time": when, "type": "container", "service": service, "id": id, "action": action, "attributes": kept })
            )?;
            continue;
        }
        let said: Vec<String> =
            kept.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
        say!(
            "{:04}-{:02}-{:02} {:02}:{:02}:{:02}.{:06} container {action} {id} ({})",
            then.year(),
            u8::from(then.month()),
            then.day(),
            then.hour(),
            then.minute(),
            then.second(),
            then.microsecond(),
            said.join(", ")
        )?;
    }
    Ok(())
}
