//! The containers of a project as the daemon has them, known by their labels.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::super::api::{Api, Query, encode};
use super::super::output::text;

pub const PROJECT: &str = "com.docker.compose.project";
pub const SERVICE: &str = "com.docker.compose.service";
pub const NUMBER: &str = "com.docker.compose.container-number";
pub const ONE_OFF: &str = "com.docker.compose.oneoff";
pub const HASH: &str = "com.docker.compose.config-hash";
pub const IMAGE: &str = "com.docker.compose.image";
pub const NEEDS: &str = "com.docker.compose.depends_on";
pub const FILES: &str = "com.docker.compose.project.config_files";
pub const DIRECTORY: &str = "com.docker.compose.project.working_dir";
pub const VERSION: &str = "com.docker.compose.version";

/// A container of a project.
#[derive(Clone, Debug)]
pub struct Found {
    pub id: String,
    /// Without the slash.
    pub name: String,
    pub service: String,
    pub number: u32,
    pub one_off: bool,
    /// `running`, `exited` and so on.
    pub state: String,
    /// As the list of containers has it.
    pub raw: Value,
}

impl Found {
    fn read(raw: Value) -> Self {
        let labels = &raw["Labels"];
        let names = raw["Names"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let name = names.map(|n| n.trim_start_matches('/')).find(|n| !n.contains('/')).unwrap_or_default();
        Self {
            id: text(&raw, "Id"),
            name: name.to_owned(),
            service: text(labels, SERVICE),
            number: text(labels, NUMBER).parse().unwrap_or(0),
            one_off: text(labels, ONE_OFF) == "True",
            state: text(&raw, "State"),
            raw,
        }
    }

    pub fn running(&self) -> bool {
        matches!(self.state.as_str(), "running" | "paused" | "restarting")
    }

    pub fn label(&self, name: &str) -> String {
        text(&self.raw["Labels"], name)
    }

    /// `web-1`, or the name it was given.
    pub fn shown(&self, project: &str) -> String {
        let own = self.name.strip_prefix(project).and_then(|n| n.strip_prefix(['-', '_']));
        own.map_or_else(|| self.name.clone(), str::to_owned)
    }

    /// Its path in the API.
    pub fn path(&self) -> String {
        format!("/containers/{}", encode(&self.id))
    }

    /// Services that it was made to wait for.
    pub fn needs(&self) -> Vec<String> {
        let said = self.label(NEEDS);
        let names = said.split(',').map(|n| n.split(':').next().unwrap_or_default());
        names.filter(|n| !n.is_empty()).map(str::to_owned).collect()
    }
}

/// All containers of a project, by service and number; one-offs last.
pub async fn all(api: &Api, project: &str) -> Result<Vec<Found>> {
    let query = Query::new().flag("all", true).filters(&[format!("label={PROJECT}={project}")])?;
    let list = api.get("/containers/json", &query).await?;
    let mut out: Vec<Found> =
        list.as_array().cloned().unwrap_or_default().into_iter().map(Found::read).collect();
    out.sort_by(|a, b| {
        (a.one_off, &a.service, a.number, &a.name).cmp(&(b.one_off, &b.service, b.number, &b.name))
    });
    Ok(out)
}

/// All containers that mount a volume, whosever they are.
pub async fn with_volume(api: &Api, volume: &str) -> Result<Vec<Found>> {
    let query = Query::new().flag("all", true).filters(&[format!("volume={volume}")])?;
    let list = api.get("/containers/json", &query).await?;
    Ok(list.as_array().cloned().unwrap_or_default().into_iter().map(Found::read).collect())
}

/// Those of named services, or of all if none is named; without one-offs.
pub async fn of(api: &Api, project: &str, services: &[String]) -> Result<Vec<Found>> {
    let mut out = all(api, project).await?;
    out.retain(|c| !c.one_off && (services.is_empty() || services.contains(&c.service)));
    Ok(out)
}

/// One running container of a service; with `index`, the one of that number.
pub async fn one(api: &Api, project: &str, service: &str, index: Option<u32>) -> Result<Found> {
    let found = of(api, project, &[service.to_owned()]).await?;
    let found = found.into_iter().filter(|c| c.running()).find(|c| index.is_none_or(|i| c.number == i));
    match (found, index) {
        (Some(found), _) => Ok(found),
        (None, Some(index)) => bail!("service {service:?} is not running container #{index}"),
        (None, None) => bail!("service {service:?} is not running"),
    }
}

/// One container of a service among those found, running or not; with `index`, the one of that number.
pub fn any(found: Vec<Found>, service: &str, index: Option<u32>) -> Result<Found> {
    let mut own = found.into_iter().filter(|c| c.service == service);
    match (own.find(|c| index.is_none_or(|i| c.number == i)), index) {
        (Some(found), _) => Ok(found),
        (None, Some(index)) => bail!("service {service:?} has no container #{index}"),
        (None, None) => bail!("service {service:?} has no container"),
    }
}

/// Starts to tell of what happens to a project's containers; lines of JSON.
pub async fn events(api: &Api, project: &str) -> Result<impl tokio::io::AsyncBufRead + Unpin + use<>> {
    let filters = [format!("label={PROJECT}={project}"), "type=container".to_owned()];
    super::super::containers::reader(api, "/events", &Query::new().filters(&filters)?)
        .await
        .context("follow the daemon's events")
}
