//! One step of a stage: a change of the configuration, or a layer, taken from an earlier build where it is the same.

use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::copy::{self, Item, Rules};
use super::layer::{Workspace, make_directories};
use super::mounts::{Source, Sources};
use super::output::Output;
use super::settings::{self, beneath};
use super::shared::Shared;
use super::stage::{Done, Stage};
use super::{fetch, mounts, run};
use crate::dockerfile::{Copy, Ignore, Instruction, Kind, Run};
use crate::error::{Error, blocking};
use crate::image::Held;
use crate::runtime::resolve::Root;

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
                let known = self
                    .expand(shared.plan.escape, |x| settings::apply(&mut config, kind, x, &mut cmd_set))
                    .map_err(Error::Invalid)?;
                if !known {
                    // A base image's configuration may have it.
                    return Err(Error::Invalid(format!("{:?} is not allowed as an ONBUILD trigger", i.text)));
                }
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
        make: impl Future<Output = Result<Option<Held>, Error>>,
    ) -> Result<(), Error> {
        let key = json!({ "below": self.chain, "what": what, "latest": shared.latest });
        let key = hex::encode(Sha256::digest(key.to_string()));
        let cache = shared.engine.build_cache();
        let images = shared.engine.images();
        let kept = if shared.request.no_cache { None } else { cache.find(&key, images) };
        let (made, created) = match kept {
            Some((entry, held)) => {
                out.line(" ---> Using cache".to_owned()).await;
                (held, entry.created)
            }
            None => {
                let made = make.await?;
                let image = made.as_ref().map(|held| held.image().to_owned());
                cache.keep(&key, image, &shared.now, &created_by);
                (made, shared.now.clone())
            }
        };
        self.tell(&created, created_by, made.is_none());
        if let Some(held) = made {
            let image = images.resolve(held.image())?;
            self.chain = image.chain_ids.last().cloned().unwrap_or_default();
            self.image = Some(image.id);
            shared.hold(held);
        }
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
            for text in [&mut c.chown, &mut c.chmod, &mut c.from, &mut c.checksum].into_iter().flatten() {
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
        let (urls, paths): (Vec<_>, Vec<_>) =
            std::mem::take(&mut c.sources).into_iter().partition(|s| keyword == "ADD" && fetch::is_url(s));
        let rules = Rules {
            left_out: if c.from.is_none() { shared.context.ignore().clone() } else { Ignore::default() },
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
        if urls.len() + paths.len() + c.heredocs.len() > 1 && !directory {
            return Err(not_a_directory(keyword));
        }
        let files = shared.source(number, c.from.as_deref(), done, out).await?;
        let mut groups = vec![(files, paths, c.heredocs.clone(), rules.clone())];
        if !urls.is_empty() {
            // What is fetched lies in a directory of its own; archives are unpacked only where that is asked for.
            let dir = shared.context.scratch().await?;
            let mut names = Vec::new();
            for url in &urls {
                names.push(fetch::fetch(&shared.engine, url, c.checksum.as_deref(), &dir).await?);
            }
            let fetched = Source::directory(dir).await?;
            let rules = Rules { unpack: c.unpack == Some(true), ..rules.clone() };
            groups.push((fetched, names, Vec::new(), rules));
        }
        let (found, digest) = blocking(move || {
            let (mut found, mut digests) = (Vec::new(), Vec::new());
            for (source, paths, documents, rules) in groups {
                let mut items = copy::find(source.root(), &paths, &rules)?;
                items.extend(
                    documents
                        .into_iter()
                        .map(|d| Item::Written { name: PathBuf::from(d.name), text: d.content }),
                );
                if items.len() > 1 && !directory {
                    return Err(not_a_directory(keyword));
                }
                digests.push(copy::digest(source.root(), &items, &rules)?);
                found.push((source, items, rules));
            }
            Ok((found, digests))
        })
        .await?;
        let what = json!({
            "copy": digest, "to": destination, "directory": directory, "chown": rules.chown, "mode": rules.mode,
            "parents": rules.parents, "link": c.link, "owners": rules.keep_owner, "unpack": rules.unpack,
        });
        // What is linked does not depend on what is below.
        let lowers = if c.link { Vec::new() } else { shared.lowers(self)? };
        let (scratch, images) = (shared.context.scratch().await?, shared.engine.images().clone());
        let (base, latest) = (self.image.clone(), shared.latest);
        let make = blocking(move || {
            let space = Workspace::open(scratch, lowers)?;
            for (source, items, rules) in &found {
                copy::copy(source.root(), space.root()?, items, &destination, directory, rules)?;
            }
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
            (shared.context.scratch().await?, shared.engine.images().clone(), self.image.clone());
        let (what, latest) = (json!({ "workdir": path }), shared.latest);
        let make = blocking(move || {
            let space = Workspace::open(scratch, lowers)?;
            if is_directory(space.root()?, &path) {
                return Ok(None);
            }
            make_directories(space.root()?, &path, (0, 0)).map_err(|e| {
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
    if keyword == "ADD"
        && let Some(source) = c.sources.iter().find(|s| fetch::is_repository(s))
    {
        return Err(Error::Invalid(format!(
            "ADD of {source}: repositories are not fetched by this version of Skep yet: do it in a RUN"
        )));
    }
    let urls = c.sources.iter().filter(|s| fetch::is_url(s)).count();
    if c.checksum.is_some() && (keyword != "ADD" || urls != 1 || c.sources.len() != 1) {
        return Err(Error::Invalid("--checksum is for one URL".into()));
    }
    if c.keep_git_dir {
        return Err(Error::Invalid("--keep-git-dir is for repositories".into()));
    }
    Ok(())
}

fn not_a_directory(keyword: &str) -> Error {
    Error::Invalid(format!(
        "When using {keyword} with more than one source file, the destination must be a directory and end with a /"
    ))
}

/// What is known of the files of a bind.
fn digest_of_bind(source: &Source, path: &str) -> Result<String, Error> {
    copy::digest(source.root(), &[mounts::bound(source, path)?], &Rules::of_bind())
}
