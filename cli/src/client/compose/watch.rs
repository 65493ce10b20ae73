//! `compose watch`: files that change are copied into containers, or have services built or started anew, as `develop`
//! says.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use hyper::Method;
use skep_engine::dockerfile::Ignore;
use tokio_util::io::SyncIoBridge;

use super::super::api::{Query, encode, reader};
use super::super::build::ignored;
use super::super::compose_parts::strings;
use super::super::is_not_found;
use super::super::output::text;
use super::changes::{Batch, Changes};
use super::create::{self, Options};
use super::found::{self, Found};
use super::image::{self, Wanted};
use super::project::Project;
use super::{Session, build, start};
use crate::compose::{Node, Problem};

/// Flags of `compose watch`.
#[derive(Args)]
pub struct WatchFlags {
    /// Do not build & start services before watching
    #[arg(long)]
    no_up: bool,
    /// Prune dangling images on rebuild
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    prune: bool,
    /// Hide build output
    #[arg(long)]
    quiet: bool,
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

/// A rule of a service.
struct Rule {
    service: String,
    /// File or directory.
    path: PathBuf,
    sync: bool,
    rebuild: bool,
    restart: bool,
    exec: Option<Node>,
    /// Where in the container `path` is.
    target: String,
    initial: bool,
    ignore: Ignore,
    include: Option<Ignore>,
    /// The build context, and what is left out of it.
    context: Option<(PathBuf, Ignore)>,
}

/// What editors leave for a moment, and what version control has for itself.
const NEVER: &[&str] = &["**/.git", "**/*.swp", "**/*.swx", "**/*~", "**/.#*", "**/4913", "**/.idea"];

impl Rule {
    fn read(name: &str, service: &Node, node: &Node) -> Result<Self> {
        let missing = |what: &str| Problem::new(&node.at, format!("services.{name}.develop.watch: {what}"));
        let action = node.text_of("action").ok_or_else(|| missing("action is missing"))?;
        let path = PathBuf::from(node.text_of("path").ok_or_else(|| missing("path is missing"))?);
        let sync = action.starts_with("sync");
        let target = node.text_of("target").unwrap_or_default().to_owned();
        if sync && !target.starts_with('/') {
            return Err(missing("a sync wants target, a whole path in the container").into());
        }
        let exec = node.get("exec").cloned();
        if action == "sync+exec" && exec.is_none() {
            return Err(missing("exec is missing").into());
        }
        if action == "rebuild" && service.get("build").is_none() {
            return Err(missing("rebuild is of no use to a service without a build section").into());
        }
        let patterns = |key: &str| {
            let at = node.get(key).map_or(&node.at, |n| &n.at);
            let list = strings(node.get(key));
            let one = node.text_of(key);
            Ignore::of(list.into_iter().chain(one)).map_err(|e| Problem::new(at, format!("{key}: {e}")))
        };
        let mut ignore = strings(node.get("ignore"));
        ignore.extend(node.text_of("ignore"));
        let ignore = Ignore::of(NEVER.iter().copied().chain(ignore))
            .map_err(|e| Problem::new(&node.at, format!("ignore: {e}")))?;
        let include = if node.get("include").is_some() { Some(patterns("include")?) } else { None };
        let context = service.path(&["build", "context"]).and_then(Node::text).map(PathBuf::from);
        let context = match context.filter(|c| c.is_dir()) {
            None => None,
            Some(context) => {
                let file =
                    service.path(&["build", "dockerfile"]).and_then(Node::text).unwrap_or("Dockerfile");
                let ignore = ignored(&context, file)?;
                Some((context, ignore))
            }
        };
        Ok(Self {
            service: name.to_owned(),
            path,
            sync,
            rebuild: action == "rebuild",
            restart: action.ends_with("restart"),
            exec: exec.filter(|_| action == "sync+exec"),
            target,
            initial: node.is_set("initial_sync"),
            ignore,
            include,
            context,
        })
    }

    /// Whether a change there is of this rule.
    fn wants(&self, path: &Path) -> bool {
        let Ok(inside) = path.strip_prefix(&self.path) else { return false };
        let inside = inside.to_string_lossy();
        if self.ignore.excluded_by(&inside).is_some() {
            return false;
        }
        if let Some((context, ignore)) = &self.context
            && let Ok(inside) = path.strip_prefix(context)
            && ignore.excluded_by(&inside.to_string_lossy()).is_some()
        {
            return false;
        }
        let included = |i: &Ignore| path.is_dir() || i.excluded_by(&inside).is_some();
        self.include.as_ref().is_none_or(included)
    }

    /// Has its directory watched, or the one that its file is in.
    fn watch(
        &self,
        changes: &mut Changes,
        wanted: &dyn Fn(&Path) -> bool,
        seen: &mut dyn FnMut(PathBuf),
    ) -> Result<()> {
        match self.path.is_dir() {
            true => changes.add(&self.path, wanted, seen),
            false => {
                let beside = self.path.parent().unwrap_or(Path::new("/"));
                changes.add(beside, &|p| p == self.path, seen)
            }
        }
    }

    /// Where in the container a path of the host is, without the first slash.
    fn inside(&self, path: &Path) -> String {
        let rest = path.strip_prefix(&self.path).unwrap_or(Path::new(""));
        let whole = match rest.as_os_str().is_empty() {
            true => PathBuf::from(&self.target),
            false => Path::new(&self.target).join(rest),
        };
        whole.to_string_lossy().trim_start_matches('/').to_owned()
    }
}

pub async fn run(s: &Session<'_>, flags: &WatchFlags) -> Result<()> {
    let project = s.files.load(&flags.services)?;
    let how = Rebuild { quiet: flags.quiet, prune: flags.prune };
    let watched = Watched::begin(&project, &project.selected(&flags.services, false)?, how)?;
    if !flags.no_up {
        let services = project.selected(&flags.services, true)?;
        let wanted = Wanted { build: true, quiet_build: flags.quiet, ..Wanted::default() };
        image::ensure(s, &project, &services, wanted).await?;
        create::all(s, &project, &services, &services, &Options::default()).await?;
        start::all(s, &project, &services).await?;
    }
    watched.follow(s, &project).await
}

/// How services are built anew.
#[derive(Clone, Copy, Debug)]
pub struct Rebuild {
    /// Builds say nothing.
    pub quiet: bool,
    /// What an image was before it was built anew is removed.
    pub prune: bool,
}

/// Files that are watched, from before anything is built: no change is missed meanwhile.
pub struct Watched {
    rules: Vec<Rule>,
    changes: Changes,
    /// What is copied in the beginning.
    initial: Batch,
    how: Rebuild,
}

impl Watched {
    /// Has the files of services watched, of which at least one must say what to do.
    pub fn begin(project: &Project, services: &[String], how: Rebuild) -> Result<Self> {
        let mut rules = Vec::new();
        for name in services {
            let service = project.service(name)?;
            for node in service.path(&["develop", "watch"]).map(Node::items).unwrap_or_default() {
                rules.push(Rule::read(name, service, node)?);
            }
        }
        if rules.is_empty() {
            bail!(
                "none of the selected services is configured for watch, consider setting a 'develop' section"
            );
        }
        let wanted = |path: &Path| wanted(&rules, path);
        let mut changes = Changes::new()?;
        let mut initial = Batch::default();
        for rule in &rules {
            if !rule.path.exists() {
                bail!("services.{}.develop.watch: {} is not there", rule.service, rule.path.display());
            }
            let mut seen = |path: PathBuf| {
                if rule.initial {
                    initial.paths.insert(path);
                }
            };
            rule.watch(&mut changes, &wanted, &mut seen)?;
        }
        Ok(Self { rules, changes, initial, how })
    }

    /// Does what changes ask for, until it is dropped or cannot watch any more. The services run.
    pub async fn follow(self, s: &Session<'_>, project: &Project) -> Result<()> {
        let Self { rules, mut changes, initial, how } = self;
        let wanted = |path: &Path| wanted(&rules, path);
        let firsts: Vec<&Rule> = rules.iter().filter(|r| r.initial && r.sync).collect();
        if !initial.paths.is_empty() {
            act(s, project, &firsts, &initial, how).await?;
        }
        s.report.note("Watch enabled");
        let all: Vec<&Rule> = rules.iter().collect();
        let mut todo = Batch::default();
        loop {
            let batch = changes.next(&wanted).await?;
            if batch.lost {
                // Directories that came meanwhile are not watched yet.
                for rule in &rules {
                    rule.watch(&mut changes, &wanted, &mut |_| {})?;
                }
            }
            todo.paths.extend(batch.paths);
            todo.lost |= batch.lost;
            // What could not be done this time is done with the next change.
            match act(s, project, &all, &todo, how).await {
                Ok(()) => todo = Batch::default(),
                Err(e) => s.report.note(&format!("{e:#}")),
            }
        }
    }
}

/// Whether something is of a rule, or on the way to what one watches.
fn wanted(rules: &[Rule], path: &Path) -> bool {
    rules.iter().any(|r| r.wants(path) || r.path.starts_with(path))
}

/// Does what rules say of changes; a service that fails keeps the others from nothing.
async fn act(s: &Session<'_>, project: &Project, rules: &[&Rule], batch: &Batch, how: Rebuild) -> Result<()> {
    let mut services: Vec<&str> = rules.iter().map(|r| r.service.as_str()).collect();
    services.sort_unstable();
    services.dedup();
    let mut outcomes = Vec::new();
    for name in services {
        outcomes.push(act_on(s, project, name, rules, batch, how).await);
    }
    super::output::gathered(outcomes)
}

/// The same for one service.
async fn act_on(
    s: &Session<'_>,
    project: &Project,
    name: &str,
    rules: &[&Rule],
    batch: &Batch,
    how: Rebuild,
) -> Result<()> {
    let own = rules.iter().filter(|r| r.service == name);
    let hit: Vec<(&Rule, Vec<&PathBuf>)> = own
        .map(|r| (*r, batch.paths.iter().filter(|p| r.wants(p)).collect::<Vec<_>>()))
        .filter(|(_, paths)| !paths.is_empty() || batch.lost)
        .collect();
    if hit.is_empty() {
        return Ok(());
    }
    if hit.iter().any(|(r, _)| r.rebuild) {
        s.report.note(&format!("Rebuilding service {name:?} after changes were detected..."));
        let options = build::Options { quiet: how.quiet, to_stderr: true, ..Default::default() };
        let one = &[name.to_owned()];
        build::all(s, project, one, &options).await?;
        create::all(s, project, one, one, &Options::default()).await?;
        start::all(s, project, one).await?;
        s.report.note(&format!("service {name:?} successfully built"));
        // What is left over is no reason to build the same again.
        if how.prune
            && let Err(e) = prune(s, project).await
        {
            s.report.note(&format!("images of earlier builds are left: {e:#}"));
        }
        // What is built has all that would be copied.
        return Ok(());
    }
    let containers = found::of(s.api, &project.name, &[name.to_owned()]).await?;
    let running: Vec<&Found> = containers.iter().filter(|c| c.running()).collect();
    for (rule, paths) in hit.iter().filter(|(r, _)| r.sync) {
        s.report.note(&format!("Syncing service {name:?} after {} changes were detected", paths.len()));
        for container in &running {
            sync(s, container, rule, paths, batch.lost)
                .await
                .with_context(|| format!("sync {}", container.name))?;
        }
    }
    if hit.iter().any(|(r, _)| r.restart) {
        for container in &containers {
            s.report.container(&container.name, "Restarting");
            s.api.post(&format!("{}/restart", container.path()), &Query::new(), None).await?;
            s.report.container(&container.name, "Started");
        }
    }
    for hook in hit.iter().filter_map(|(r, _)| r.exec.as_ref()) {
        for container in &running {
            start::hook(s, container, hook).await?;
        }
    }
    Ok(())
}

/// Removes images of the project that have no name any more; what is in use stays.
async fn prune(s: &Session<'_>, project: &Project) -> Result<()> {
    let filters = ["dangling=true".to_owned(), format!("label={}={}", found::PROJECT, project.name)];
    let images = s.api.get("/images/json", &Query::new().filters(&filters)?).await?;
    for image in images.as_array().into_iter().flatten() {
        match s.api.delete(&format!("/images/{}", encode(&text(image, "Id"))), &Query::new()).await {
            Err(e) if !is_not_found(&e) && !e.to_string().contains("being used") => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// Writes files and directories by the names they are to have.
fn pack(to: impl Write, files: &[(PathBuf, String)]) -> Result<()> {
    let mut archive = tar::Builder::new(to);
    archive.follow_symlinks(false);
    for (path, inside) in files {
        match archive.append_path_with_name(path, inside) {
            // Gone again: that is a change of its own.
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            other => other.with_context(|| format!("read {}", path.display()))?,
        }
    }
    archive.into_inner()?.flush()?;
    Ok(())
}

/// Copies what has changed into a container, and removes from it what is gone.
async fn sync(s: &Session<'_>, container: &Found, rule: &Rule, paths: &[&PathBuf], all: bool) -> Result<()> {
    let (mut gone, mut there) = (Vec::new(), Vec::new());
    let mut everything = Vec::new();
    if all {
        let mut todo = vec![rule.path.clone()];
        while let Some(dir) = todo.pop() {
            for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
                let path = entry.path();
                if rule.wants(&path) {
                    everything.push(path.clone());
                    if path.is_dir() && !path.is_symlink() {
                        todo.push(path);
                    }
                }
            }
        }
    }
    for path in paths.iter().copied().chain(&everything) {
        let inside = rule.inside(path);
        match std::fs::symlink_metadata(path) {
            // The root of the container is neither made nor removed.
            _ if inside.is_empty() => {}
            Ok(_) => there.push((path.clone(), inside)),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                gone.push(format!("/{inside}"));
            }
            Err(e) => return Err(e).with_context(|| format!("read {}", path.display())),
        }
    }
    if !there.is_empty() {
        // Read while it is sent: nobody holds all of it.
        let (near, far) = tokio::io::duplex(256 << 10);
        let bridge = SyncIoBridge::new(near);
        let packing = tokio::task::spawn_blocking(move || pack(bridge, &there));
        let headers = [("Content-Type", "application/x-tar")];
        let query = Query::new().with("path", "/");
        let path = format!("{}/archive", container.path());
        let sent = s.api.send(Method::PUT, &path, &query, reader(far), &headers).await;
        // What could not be read is why the daemon got half of it.
        packing.await?.or_else(|e| match e.downcast_ref::<std::io::Error>() {
            Some(io) if io.kind() == ErrorKind::BrokenPipe && sent.is_err() => Ok(()),
            _ => Err(e),
        })?;
        sent?;
    }
    if !gone.is_empty() {
        // As Docker's does it: the API has no way to remove a file.
        let mut words = vec!["rm".to_owned(), "-rf".to_owned()];
        words.extend(gone);
        let at = crate::compose::At { file: "compose watch".into(), line: 1, column: 1 };
        let mut hook = Node::map(&at);
        let words = words.into_iter().map(|w| Node::string(&at, w)).collect();
        hook.set("command", Node::list(&at, words));
        start::hook(s, container, &hook).await?;
    }
    Ok(())
}
