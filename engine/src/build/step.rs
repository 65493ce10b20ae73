//! One step of a stage: a change of the configuration, or a layer, taken from an earlier build where it is the same.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nix::fcntl::OFlag;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::context::Context;
use super::copy::{self, Item, Rules};
use super::layer::{self, Workspace};
use super::mounts::{Source, SourceRoot, Sources};
use super::output::Output;
use super::plan::Plan;
use super::settings::{self, beneath};
use super::stage::{Done, Held, Stage};
use super::{BuildRequest, run};
use crate::dockerfile::{Copy, Instruction, Kind, Run};
use crate::engine::Engine;
use crate::error::{Error, blocking};
use crate::runtime::resolve::Root;

/// What all stages of a build share.
pub(super) struct Shared {
    pub(super) engine: Engine,
    pub(super) request: BuildRequest,
    pub(super) context: Arc<Context>,
    pub(super) plan: Plan,
    /// When the build began, or what SOURCE_DATE_EPOCH says (RFC 3339).
    pub(super) now: String,
    /// What SOURCE_DATE_EPOCH says: no file of a layer is younger.
    pub(super) latest: Option<i64>,
    pub(super) id: String,
    held: Held,
}

impl Shared {
    pub(super) fn new(
        engine: Engine,
        request: BuildRequest,
        context: Arc<Context>,
        plan: Plan,
    ) -> Result<Self, Error> {
        let epoch = request.args.get("SOURCE_DATE_EPOCH").cloned().flatten();
        let latest = epoch.as_deref().map(|t| {
            t.parse::<i64>().map_err(|_| Error::Invalid(format!("invalid SOURCE_DATE_EPOCH: {t:?}")))
        });
        let latest = latest.transpose()?;
        let now = match latest {
            Some(t) => time::OffsetDateTime::from_unix_timestamp(t)
                .map_err(|_| Error::Invalid(format!("invalid SOURCE_DATE_EPOCH: {t}")))?,
            None => time::OffsetDateTime::now_utc(),
        };
        let now = now
            .format(&time::format_description::well_known::Rfc3339)
            .map_err(|e| Error::Invalid(format!("the clock of this host cannot be written down: {e}")))?;
        let id = format!("build-{}", crate::image::unused_name());
        Ok(Self { engine, request, context, plan, now, latest, id, held: Mutex::default() })
    }

    /// Keeps an image as long as the build.
    pub(super) fn hold(&self, image: &str) -> Result<(), Error> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let key = format!("{}-{}", self.id, held.len());
        self.engine.images().hold(image, &key)?;
        held.push(key);
        Ok(())
    }

    /// Lets go of all that was held.
    pub(super) async fn release(&self) {
        let held = std::mem::take(&mut *self.held.lock().unwrap_or_else(PoisonError::into_inner));
        for key in held {
            if let Err(e) = self.engine.images().release(&key).await {
                tracing::warn!(error = %e, "an image that a build used is not let go of");
            }
        }
    }

    /// The layers of a stage, topmost first.
    pub(super) fn lowers(&self, stage: &Stage) -> Result<Vec<PathBuf>, Error> {
        let Some(id) = &stage.image else { return Ok(Vec::new()) };
        let image = self.engine.images().resolve(id)?;
        Ok(image.chain_ids.iter().rev().map(|c| self.engine.images().layer_path(c)).collect())
    }

    /// An error with the step and the line it is of.
    pub(super) fn at(&self, e: Error, step: usize, i: &Instruction) -> Error {
        let place = format!("step {step}/{}, {}:{}", self.plan.steps(), self.request.dockerfile, i.line);
        match e {
            Error::ShuttingDown => Error::ShuttingDown,
            Error::BuildFailed { command, code, reason } => {
                Error::BuildFailed { command, code, reason: format!("{reason} ({place})") }
            }
            e => Error::Invalid(format!("{e} ({place})")),
        }
    }

    /// The files that `from` means: nothing = the context.
    async fn source(
        &self,
        number: usize,
        from: Option<&str>,
        done: &Done,
        out: &Output,
    ) -> Result<Arc<Source>, Error> {
        let Some(from) = from.filter(|f| !f.is_empty()) else {
            let files = self.context.files();
            let root = Root::at(&files).map_err(Error::io("open", &files))?;
            return Ok(Arc::new(Source { view: SourceRoot::Directory(files, root) }));
        };
        let stage = match self.plan.stage_of(number, from) {
            Some(n) => done.get(&n).map(|s| Stage::clone(s)).unwrap_or_default(),
            None => {
                let image = self.base(from, None, out).await?;
                self.stage_of_image(&image).await?
            }
        };
        let (lowers, scratch) = (self.lowers(&stage)?, self.context.scratch()?);
        if lowers.is_empty() {
            let root = Root::at(&scratch).map_err(Error::io("open", &scratch))?;
            return Ok(Arc::new(Source { view: SourceRoot::Directory(scratch, root) }));
        }
        let view = blocking(move || layer::files(lowers, &scratch)).await?;
        Ok(Arc::new(Source { view: SourceRoot::Layers(view) }))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let held = std::mem::take(&mut *self.held.lock().unwrap_or_else(PoisonError::into_inner));
        if held.is_empty() {
            return;
        }
        // The build was dropped before its end.
        let engine = self.engine.clone();
        tokio::spawn(async move {
            for key in held {
                if let Err(e) = engine.images().release(&key).await {
                    tracing::warn!(error = %e, "an image that a build used is not let go of");
                }
            }
        });
    }
}

impl Stage {
    /// Does one step.
    pub(super) async fn step(
        &mut self,
        shared: &Shared,
        number: usize,
        i: &Instruction,
        done: &Done,
        out: &Output,
    ) -> Result<(), Error> {
        match &i.kind {
            Kind::Run(r) => self.run(shared, number, r, done, out).await,
            Kind::Copy(c) => self.copy(shared, number, "COPY", c, i, done, out).await,
            Kind::Add(c) => self.copy(shared, number, "ADD", c, i, done, out).await,
            Kind::Workdir(_) => self.workdir(shared, i, out).await,
            Kind::Arg(list) => {
                for (name, default) in list {
                    let default = default.as_deref();
                    let default = self.expand(shared.plan.escape, |x| default.map(|d| x.word(d)).transpose());
                    let default = default.map_err(Error::Invalid)?;
                    self.args.declare(name, default, &shared.request, &shared.plan.global_args);
                    self.asked.push(name.clone());
                }
                self.tell(&shared.now, i.text.clone(), true);
                Ok(())
            }
            Kind::Maintainer(author) => {
                self.author.clone_from(author);
                self.tell(&shared.now, i.text.clone(), true);
                Ok(())
            }
            kind => {
                let (mut config, mut cmd_set) = (self.config.clone(), self.cmd_set);
                self.expand(shared.plan.escape, |x| settings::apply(&mut config, kind, x, &mut cmd_set))
                    .map_err(Error::Invalid)?;
                (self.config, self.cmd_set) = (config, cmd_set);
                self.tell(&shared.now, i.text.clone(), true);
                Ok(())
            }
        }
    }

    /// A layer from an earlier build, or from `make`.
    async fn layer(
        &mut self,
        shared: &Shared,
        what: serde_json::Value,
        created_by: String,
        out: &Output,
        make: impl Future<Output = Result<Option<String>, Error>>,
    ) -> Result<(), Error> {
        let key = json!({ "below": self.chain, "what": what, "latest": shared.latest });
        let key = hex::encode(Sha256::digest(key.to_string()));
        let cache = shared.engine.build_cache();
        let images = shared.engine.images();
        let kept = if shared.request.no_cache { None } else { cache.find(&key, images) };
        let (made, created) = match kept {
            Some(entry) => {
                out.line(" ---> Using cache");
                (entry.image, entry.created)
            }
            None => {
                let made = make.await?;
                // Held before it is kept: from here on a prune could take it.
                if let Some(id) = &made {
                    shared.hold(id)?;
                }
                cache.keep(&key, made.clone(), &shared.now, &created_by);
                (made, shared.now.clone())
            }
        };
        if let Some(id) = &made {
            shared.hold(id)?;
            let image = images.resolve(id)?;
            self.chain = image.chain_ids.last().cloned().unwrap_or_default();
            self.image = made.clone();
        }
        self.tell(&created, created_by, made.is_none());
        Ok(())
    }

    async fn run(
        &mut self,
        shared: &Shared,
        number: usize,
        r: &Run,
        done: &Done,
        out: &Output,
    ) -> Result<(), Error> {
        let mut r = r.clone();
        self.expand(shared.plan.escape, |x| {
            for m in &mut r.mounts {
                for field in [&mut m.target, &mut m.source, &mut m.from, &mut m.id] {
                    *field = x.word(field)?;
                }
            }
            r.network = r.network.as_deref().map(|n| x.word(n)).transpose()?;
            Ok(())
        })
        .map_err(Error::Invalid)?;
        let (argv, script) = run::command(&self.config, &r);
        let told = self.args.told(&self.config.env);
        let mut sources = Sources::new();
        let mut mounted = Vec::new();
        for m in &r.mounts {
            if m.kind != crate::dockerfile::MountKind::Bind {
                continue;
            }
            if !sources.contains_key(&m.from) {
                let source = shared.source(number, Some(&m.from), done, out).await?;
                sources.insert(m.from.clone(), source);
            }
            let (source, path) = (sources[&m.from].clone(), m.source.clone());
            mounted.push(blocking(move || digest_of_bind(&source, &path)).await?);
        }
        let what = json!({
            "run": argv, "script": script, "args": told, "env": self.config.env, "user": self.config.user,
            "dir": self.config.working_dir, "network": r.network, "insecure": format!("{:?}", r.security),
            "mounts": r.mounts.iter().map(|m| format!("{m:?}")).collect::<Vec<_>>(), "bound": mounted,
        });
        let counted =
            if told.is_empty() { String::new() } else { format!("|{} {} ", told.len(), told.join(" ")) };
        let created_by = format!("RUN {counted}{}", argv.join(" "));
        let stage = self.clone();
        self.layer(shared, what, created_by, out, run::run(shared, &stage, &r, &sources, out)).await
    }

    #[allow(clippy::too_many_arguments, reason = "one step over the whole context of a build")]
    async fn copy(
        &mut self,
        shared: &Shared,
        number: usize,
        keyword: &'static str,
        c: &Copy,
        i: &Instruction,
        done: &Done,
        out: &Output,
    ) -> Result<(), Error> {
        let mut c = c.clone();
        self.expand(shared.plan.escape, |x| {
            for text in c.sources.iter_mut().chain([&mut c.destination]).chain(&mut c.exclude) {
                *text = x.word(text)?;
            }
            for text in [&mut c.chown, &mut c.chmod, &mut c.from].into_iter().flatten() {
                *text = x.word(text)?;
            }
            for doc in c.heredocs.iter_mut() {
                let text = doc.text();
                doc.content = if doc.expand { x.heredoc(&text)? } else { text };
                doc.strip_tabs = false;
            }
            Ok(())
        })
        .map_err(Error::Invalid)?;
        refuse_what_is_not_there(keyword, &c)?;
        let rules = Rules {
            keyword,
            chown: c.chown.clone(),
            mode: c.chmod.as_deref().map(copy::mode).transpose().map_err(Error::Invalid)?,
            keep_owner: c.from.is_some(),
            parents: c.parents,
            unpack: keyword == "ADD" && c.unpack.unwrap_or(true),
            exclude: c.exclude.clone(),
            latest: shared.latest,
        };
        let directory = c.destination.ends_with('/') || c.destination == "." || c.destination.ends_with("/.");
        let destination = beneath(&self.config.working_dir, &c.destination);
        let source = shared.source(number, c.from.as_deref(), done, out).await?;
        let (items, digest) = {
            let (source, rules, c) = (source.clone(), rules.clone(), c.clone());
            blocking(move || {
                let mut items = copy::find(source.root(), &c.sources, &rules)?;
                let written = c.heredocs.iter().map(|d| Item::Written {
                    name: PathBuf::from(&d.name),
                    text: d.content.clone(),
                });
                items.extend(written);
                if copy::several(&items, &c.sources) && !directory {
                    return Err(Error::Invalid(format!(
                        "When using {keyword} with more than one source file, the destination must be a directory and end with a /"
                    )));
                }
                let digest = copy::digest(source.root(), &items, &rules)?;
                Ok((items, digest))
            })
            .await?
        };
        let what = json!({
            "copy": digest, "to": destination, "directory": directory, "chown": rules.chown, "mode": rules.mode,
            "parents": rules.parents, "link": c.link, "owners": rules.keep_owner, "unpack": rules.unpack,
        });
        // What is linked does not depend on what is below.
        let lowers = if c.link { Vec::new() } else { shared.lowers(self)? };
        let (scratch, images) = (shared.context.scratch()?, shared.engine.images().clone());
        let (base, latest) = (self.image.clone(), shared.latest);
        let make = blocking(move || {
            let space = Workspace::open(scratch, lowers)?;
            copy::copy(source.root(), space.root()?, &items, &destination, directory, &rules)?;
            space.into_layer(&images, base.as_deref(), latest)
        });
        self.layer(shared, what, i.text.clone(), out, make).await
    }

    /// The working directory, made where the image does not have it.
    async fn workdir(&mut self, shared: &Shared, i: &Instruction, out: &Output) -> Result<(), Error> {
        let (mut config, mut cmd_set) = (self.config.clone(), self.cmd_set);
        self.expand(shared.plan.escape, |x| settings::apply(&mut config, &i.kind, x, &mut cmd_set))
            .map_err(Error::Invalid)?;
        self.config = config;
        let (path, lowers) = (PathBuf::from(&self.config.working_dir), shared.lowers(self)?);
        let (scratch, images, base) =
            (shared.context.scratch()?, shared.engine.images().clone(), self.image.clone());
        let (what, latest) = (json!({ "workdir": path }), shared.latest);
        let make = blocking(move || {
            let space = Workspace::open(scratch, lowers)?;
            if is_directory(space.root()?, &path) {
                return Ok(None);
            }
            copy::make_directories(space.root()?, &path, (0, 0)).map_err(|e| {
                Error::Invalid(format!("cannot make the working directory {}: {e}", path.display()))
            })?;
            space.into_layer(&images, base.as_deref(), latest)
        });
        self.layer(shared, what, i.text.clone(), out, make).await
    }
}

fn is_directory(root: &Root, path: &Path) -> bool {
    root.open(path, OFlag::O_PATH | OFlag::O_DIRECTORY, 0).is_ok()
}

/// What of `ADD` and `COPY` this version cannot do yet, by name.
fn refuse_what_is_not_there(keyword: &str, c: &Copy) -> Result<(), Error> {
    let remote =
        |s: &&String| ["http://", "https://", "git@", "git://", "ssh://"].iter().any(|p| s.starts_with(p));
    if keyword == "ADD"
        && let Some(url) = c.sources.iter().find(remote)
    {
        return Err(Error::Invalid(format!(
            "ADD of {url}: URLs and repositories are not fetched by this version of Skep yet: fetch it in a RUN"
        )));
    }
    if c.checksum.is_some() || c.keep_git_dir {
        return Err(Error::Invalid(
            "--checksum and --keep-git-dir are for remote sources of ADD only".into(),
        ));
    }
    Ok(())
}

/// What is known of the files of a bind.
fn digest_of_bind(source: &Source, path: &str) -> Result<String, Error> {
    let rules = Rules {
        keyword: "--mount=type=bind",
        chown: None,
        mode: None,
        keep_owner: true,
        parents: false,
        unpack: false,
        exclude: Vec::new(),
        latest: Some(0),
    };
    let items = copy::find(source.root(), &[path.to_owned()], &rules)?;
    copy::digest(source.root(), &items, &rules)
}
