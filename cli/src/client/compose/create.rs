//! Bringing the containers there are to what the files say: as many as wanted, each made of what is said now.

use std::cell::RefCell;
use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::super::api::{Query, encode};
use super::super::is_not_found;
use super::super::output::text;
use super::container::{self, Made};
use super::found::{self, Found, HASH};
use super::project::{Project, is_yes};
use super::{Session, endpoints, graph, image, injected, mounts, networks, service, volumes};
use crate::compose::{Node, Problem, depends};

/// When a container is made anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recreate {
    /// It is not what the file says, or its image is another.
    #[default]
    Diverged,
    Always,
    Never,
}

/// What is asked for beside the files.
#[derive(Default)]
pub struct Options {
    /// Of services that were named, or of all.
    pub recreate: Recreate,
    /// Of those that come along because others need them.
    pub recreate_needed: Recreate,
    /// `--scale`
    pub scale: BTreeMap<String, usize>,
    /// Seconds that a container that is replaced has to stop.
    pub timeout: Option<i64>,
    /// Volumes without a name are made anew too.
    pub renew: bool,
    pub remove_orphans: bool,
    /// A volume that is not what the files say is made anew, without its data.
    pub yes: bool,
}

struct Work<'a> {
    s: &'a Session<'a>,
    project: &'a Project,
    options: &'a Options,
    targets: &'a [String],
    networks: BTreeMap<String, String>,
    /// Containers as they were at the beginning.
    before: Vec<Found>,
    /// The first container of each service that is done.
    first: RefCell<BTreeMap<String, String>>,
}

/// Makes networks, volumes and the containers of services; those are not started. `targets` were named by the user.
pub async fn all(
    s: &Session<'_>,
    project: &Project,
    services: &[String],
    targets: &[String],
    options: &Options,
) -> Result<()> {
    // What is wrong in the files is told before anything is changed.
    for name in services {
        let service = project.service(name)?;
        wanted(name, service, options)?;
        container::hash(project, name, service, &Made::default())?;
    }
    let networks = networks::ensure(s, project).await?;
    volumes::ensure(s, project, options).await?;
    let before = found::all(s.api, &project.name).await?;
    orphans(s, project, &before, options.remove_orphans).await?;
    let mut first = BTreeMap::new();
    for container in before.iter().rev().filter(|c| !c.one_off) {
        first.insert(container.service.clone(), container.id.clone());
    }
    let work = Work { s, project, options, targets, networks, before, first: RefCell::new(first) };
    let edges = graph::of_files(project.services());
    graph::walk(services, &edges, false, async |name| {
        work.service(&name).await.with_context(|| format!("service {name:?}"))
    })
    .await
}

/// How many containers a service is to have.
fn wanted(name: &str, service: &Node, options: &Options) -> Result<usize> {
    let wanted = options.scale.get(name).copied().unwrap_or_else(|| service::replicas(service));
    if let Some(node) = service.get("container_name").filter(|_| wanted > 1) {
        let what = format!(
            "services.{name}: can't set container_name and have {wanted} containers: a container name must be unique"
        );
        return Err(Problem::new(&node.at, what).into());
    }
    Ok(wanted)
}

/// Tells of containers of services that the files do not have, or removes them.
async fn orphans(s: &Session<'_>, project: &Project, all: &[Found], remove: bool) -> Result<()> {
    let known = |c: &Found| project.service(&c.service).is_ok() || project.inactive.contains(&c.service);
    let orphans: Vec<&Found> = all.iter().filter(|c| !c.one_off && !known(c)).collect();
    if remove {
        for container in &orphans {
            remove_container(s, container, None).await?;
        }
    } else if !orphans.is_empty()
        && !project.variables.get("COMPOSE_IGNORE_ORPHANS").is_some_and(|v| is_yes(v))
    {
        let names: Vec<&str> = orphans.iter().map(|c| c.name.as_str()).collect();
        s.report.note(&format!(
            "Found orphan containers ([{}]) for this project. If you removed or renamed this service in your compose file, you can run this command with the --remove-orphans flag to clean it up.",
            names.join(" ")
        ));
    }
    Ok(())
}

/// Stops a container if it runs, and removes it.
pub async fn remove_container(s: &Session<'_>, container: &Found, timeout: Option<i64>) -> Result<()> {
    if container.running() {
        stop_container(s, container, timeout).await?;
    }
    delete_container(s, container, false).await
}

/// Removes a container, and if asked its volumes without names; one that has gone meanwhile is fine.
pub async fn delete_container(s: &Session<'_>, container: &Found, volumes: bool) -> Result<()> {
    s.report.container(&container.name, "Removing");
    let query = Query::new().flag("force", true).flag("v", volumes);
    match s.api.delete(&container.path(), &query).await {
        Err(e) if !is_not_found(&e) => return Err(e),
        _ => s.report.container(&container.name, "Removed"),
    }
    Ok(())
}

/// Stops a container.
pub async fn stop_container(s: &Session<'_>, container: &Found, timeout: Option<i64>) -> Result<()> {
    s.report.container(&container.name, "Stopping");
    let query = timeout.map_or_else(Query::new, |t| Query::new().with("t", t.to_string()));
    match s.api.post(&format!("{}/stop", container.path()), &query, None).await {
        Err(e) if !is_not_found(&e) => return Err(e),
        _ => s.report.container(&container.name, "Stopped"),
    }
    Ok(())
}

impl Work<'_> {
    async fn service(&self, name: &str) -> Result<()> {
        let service = self.project.service(name)?;
        let wanted = wanted(name, service, self.options)?;
        let image = service::image(self.project, name, service);
        let Some(image) = image::id(self.s.api, &image).await? else { bail!("No such image: {image}") };
        let made = Made { image, others: self.others(name, service)?, ..Made::default() };
        let hash = container::hash(self.project, name, service, &made)?;
        let own = self.before.iter().filter(|c| c.service == name && !c.one_off);
        let mut held: Vec<(Found, bool)> =
            own.map(|c| (c.clone(), self.diverged(c, service, &made, &hash))).collect();
        // What is of no use any more goes first, then the newest.
        held.sort_by_key(|(c, diverged)| (*diverged, c.number));
        for (excess, _) in held.split_off(wanted.min(held.len())) {
            remove_container(self.s, &excess, self.options.timeout).await?;
        }
        let next = held.iter().map(|(c, _)| c.number).max().unwrap_or(0) + 1;
        let missing = wanted - held.len();
        let policy = match self.targets.iter().any(|t| t == name) {
            true => self.options.recreate,
            false => self.options.recreate_needed,
        };
        let kept = held.iter().map(|(container, diverged)| async {
            let anew = match policy {
                Recreate::Always => true,
                Recreate::Never => false,
                Recreate::Diverged => *diverged,
            };
            match anew {
                true => self.replace(name, service, container, &made).await.map(|id| (container.number, id)),
                false => {
                    if container.running() {
                        self.s.report.container(&container.name, "Running");
                    }
                    Ok((container.number, container.id.clone()))
                }
            }
        });
        let kept = futures::future::try_join_all(kept);
        let new = (0..missing).map(|i| {
            let number = next + u32::try_from(i).unwrap_or(u32::MAX - next);
            let named = service::container_name(self.project, name, service, number);
            let made = Made { number, named: named.clone(), ..made.clone() };
            async move {
                self.s.report.container(&named, "Creating");
                let id = self.make(name, service, &named, &made).await?;
                self.s.report.container(&named, "Created");
                Ok::<_, anyhow::Error>((number, id))
            }
        });
        let (kept, new) = futures::future::try_join(kept, futures::future::try_join_all(new)).await?;
        let first = kept.into_iter().chain(new).min();
        match first {
            Some((_, id)) => self.first.borrow_mut().insert(name.to_owned(), id),
            None => self.first.borrow_mut().remove(name),
        };
        Ok(())
    }

    /// IDs of the containers whose namespaces or volumes this one shares.
    fn others(&self, name: &str, service: &Node) -> Result<BTreeMap<String, String>> {
        let mut out = BTreeMap::new();
        for need in depends::of(service) {
            let said = service.path(&["depends_on", &need.service]).is_some();
            match self.first.borrow().get(&need.service) {
                Some(id) => {
                    out.insert(need.service.clone(), id.clone());
                }
                None if said => {}
                None => {
                    bail!("service {name:?} shares something of {:?}, which has no container", need.service)
                }
            }
        }
        // Only what goes into the container may be in its hash.
        let shared = |other: &str| {
            let of_mode = ["network_mode", "ipc", "pid"]
                .iter()
                .any(|k| service.text_of(k).and_then(|m| m.strip_prefix("service:")) == Some(other));
            let listed = ["volumes_from", "links"].iter().any(|k| {
                let items = service.get(k).map(Node::items).unwrap_or_default().iter().filter_map(Node::text);
                items.into_iter().any(|t| t.split(':').next() == Some(other))
            });
            of_mode || listed
        };
        out.retain(|other, _| shared(other));
        Ok(out)
    }

    /// Whether a container is not what the file says.
    fn diverged(&self, container: &Found, service: &Node, made: &Made, hash: &str) -> bool {
        if container.label(HASH) != hash || container.label(found::IMAGE) != made.image {
            return true;
        }
        let held = &container.raw["NetworkSettings"]["Networks"];
        let gone = |name: &String| {
            let id = held[name]["NetworkID"].as_str().unwrap_or_default();
            self.networks.get(name).is_some_and(|now| now != id && !(id.is_empty() && held[name].is_object()))
        };
        endpoints::networks(self.project, service).iter().any(gone)
    }

    /// Makes another container in the place of one; its ID.
    async fn replace(&self, name: &str, service: &Node, old: &Found, made: &Made) -> Result<String> {
        let named = service::container_name(self.project, name, service, old.number);
        self.s.report.container(&named, "Recreate");
        let inherited = match self.options.renew {
            true => BTreeMap::new(),
            false => {
                mounts::anonymous(&self.s.api.get(&format!("{}/json", old.path()), &Query::new()).await?)
            }
        };
        let replaces = Some(format!("{name}{}{}", self.project.separator, old.number));
        let made = Made { number: old.number, named: named.clone(), inherited, replaces, ..made.clone() };
        let meanwhile = format!("{}_{named}", old.id.get(..12).unwrap_or(&old.id));
        let id = self.make(name, service, &meanwhile, &made).await?;
        let path = format!("/containers/{}", encode(&id));
        if let Err(e) = self.retire(old).await {
            // The old one stays in its place, and nothing beside it.
            let _ = self.s.api.delete(&path, &Query::new().flag("force", true)).await;
            return Err(e.context(format!("replace {}", old.name)));
        }
        let rename = Query::new().with("name", &named);
        if let Err(e) = self.s.api.post(&format!("{path}/rename"), &rename, None).await {
            // The old one is gone. What stays is made anew with the next `up`, by a name that is the project's.
            let _ = self.s.api.delete(&path, &Query::new().flag("force", true)).await;
            return Err(e.context(format!("name the container that replaces {}", old.name)));
        }
        self.s.report.container(&named, "Recreated");
        Ok(id)
    }

    /// Stops and removes a container in whose place another comes; one that has gone meanwhile is fine.
    async fn retire(&self, old: &Found) -> Result<()> {
        let query = self.options.timeout.map_or_else(Query::new, |t| Query::new().with("t", t.to_string()));
        if old.running()
            && let Err(e) = self.s.api.post(&format!("{}/stop", old.path()), &query, None).await
            && !is_not_found(&e)
        {
            return Err(e);
        }
        match self.s.api.delete(&old.path(), &Query::new().flag("force", true)).await {
            Err(e) if !is_not_found(&e) => Err(e),
            _ => Ok(()),
        }
    }

    /// Creates one container; its ID.
    async fn make(&self, name: &str, service: &Node, named: &str, made: &Made) -> Result<String> {
        let body = container::body(self.project, name, service, made)?;
        from(self.s, self.project, service, named, &body).await
    }
}

/// Creates a container of a body; its ID.
pub async fn from(
    s: &Session<'_>,
    project: &Project,
    service: &Node,
    named: &str,
    body: &Value,
) -> Result<String> {
    let mut query = Query::new().with("name", named);
    if let Some(platform) = service.text_of("platform") {
        query = query.with("platform", platform);
    }
    let files = injected::of(project, service)?;
    let created = s.api.post("/containers/create", &query, Some(body)).await?;
    for warning in created["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        s.report.note(&format!("{named}: {warning}"));
    }
    let id = text(&created, "Id");
    let path = format!("/containers/{}", encode(&id));
    if s.rehearsal.is_none()
        && let Err(e) = injected::write(s.api, &path, &files).await
    {
        // Without its files it is not what was asked for.
        let _ = s.api.delete(&path, &Query::new().flag("force", true)).await;
        return Err(e.context(format!("write secrets and configs into {named}")));
    }
    Ok(id)
}
