//! One step of a stage: a change of the configuration, or a layer, taken from an earlier build where it is the same.

use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::copy::{self, Item, Rules};
use super::debug::At;
use super::git::{Access, Repository};
use super::layer::{Workspace, make_directories};
use super::mounts::{Source, Sources};
use super::output::Output;
use super::settings::{self, beneath};
use super::shared::Shared;
use super::stage::{Done, Stage};
use super::{fetch, mounts, run};
use crate::dockerfile::{Copy, Glob, Instruction, Kind, MountKind, Run};
use crate::error::{Error, blocking};
use crate::image::{Held, InlineStep};
use crate::permissions::Permissions;
use crate::runtime::resolve::Root;

impl Stage {
    /// Does one step.
    pub(super) async fn step(
        &mut self,
        shared: &Shared,
        number: usize,
        at: &At<'_>,
        done: &Done,
        out: &Output,
    ) -> Result<(), Error> {
        let i = at.instruction;
        match &i.kind {
            Kind::Run(r) => self.run(shared, number, r, at, done, out).await,
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
                let recorded = settings::recorded(i, &config);
                (self.config, self.cmd_set) = (config, cmd_set);
                self.tell(&shared.now, recorded, true);
                Ok(())
            }
        }
    }

    /// A layer from an earlier build, or from `make`.
    pub(super) async fn layer(
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
        let kept = match shared.request.no_cache {
            true => None,
            false => match cache.find(&key, images) {
                Some((entry, held)) => Some((held, entry.created)),
                None => self.taken(shared, &key, &created_by).await,
            },
        };
        let (made, created) = match kept {
            Some(kept) => {
                out.line(" ---> Using cache".to_owned()).await;
                kept
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
            self.layers = image.chain_ids.len();
            shared.hold(held);
        }
        self.inline_cache.push(InlineStep { key, layers: self.layers, history: self.history.len() - 1 });
        Ok(())
    }

    /// A layer from an image that the build names for that; it is kept for builds that name none.
    async fn taken(&self, shared: &Shared, key: &str, created_by: &str) -> Option<(Option<Held>, String)> {
        let taken = shared.cache_from.find(shared, key, &self.chain).await?;
        let image = taken.image.as_ref().map(|held| held.image().to_owned());
        shared.engine.build_cache().keep(key, image, &taken.created, created_by);
        Some((taken.image, taken.created))
    }

    async fn run(
        &mut self,
        shared: &Shared,
        number: usize,
        r: &Run,
        at: &At<'_>,
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
        // What an earlier build was allowed is not taken from the cache by one that is not.
        run::allowed(&r, &shared.request)?;
        let (argv, script) = run::command(&self.config, &r);
        let told = self.args.told(&self.config.env);
        let mut sources = Sources::default();
        let mut mounted = Vec::new();
        for (n, m) in r.mounts.iter().enumerate() {
            let seeded = m.kind == MountKind::Cache && !m.from.is_empty();
            if m.kind != MountKind::Bind && !seeded {
                continue;
            }
            if !sources.files.contains_key(&m.from) {
                let source = shared.source(number, Some(&m.from), done, out).await?;
                sources.files.insert(m.from.clone(), source);
            }
            let (source, path) = (sources.files[&m.from].clone(), m.source.clone());
            let digest = blocking(move || digest_of_bind(&source, &path)).await?;
            if seeded {
                sources.seeds.insert(n, digest.clone());
            }
            mounted.push(digest);
        }
        let what = json!({
            "run": argv, "script": script, "args": told, "env": self.config.env, "user": self.config.user,
            "dir": self.config.working_dir, "network": r.network, "hosts": shared.request.extra_hosts,
            "within": shared.request.network, "insecure": format!("{:?}", r.security),
            "mounts": r.mounts.iter().map(|m| format!("{m:?}")).collect::<Vec<_>>(), "bound": mounted,
        });
        let counted =
            if told.is_empty() { String::new() } else { format!("|{} {} ", told.len(), told.join(" ")) };
        let created_by = format!("RUN {counted}{}", argv.join(" "));
        let stage = self.clone();
        self.layer(shared, what, created_by, out, run::run(shared, &stage, &r, &sources, at, out)).await
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
                doc.content = if doc.expand { x.heredoc(&text).map_err(|(_, e)| e)? } else { text };
                doc.strip_tabs = false;
            }
            Ok(())
        })
        .map_err(Error::Invalid)?;
        let (mut repositories, mut urls, mut paths) = (Vec::new(), Vec::new(), Vec::new());
        for source in std::mem::take(&mut c.sources) {
            // What may be a directory of the context is one.
            let fetched = keyword == "ADD" && !source.starts_with("github.com/");
            match Repository::named(&source).filter(|_| fetched) {
                Some(repository) => repositories.push(repository),
                None if fetched && fetch::is_url(&source) => urls.push(source),
                None => paths.push(source),
            }
        }
        refuse_flags(&c, (repositories.len(), urls.len(), paths.len()))?;
        let rules = Rules {
            keyword,
            chown: c.chown.clone(),
            mode: c.chmod.as_deref().map(Permissions::parse).transpose().map_err(Error::Invalid)?,
            // What is of no image is root's.
            keep_owner: c.from.as_deref().is_some_and(|from| !shared.is_of_files(from)),
            parents: c.parents,
            linked: c.link,
            unpack: keyword == "ADD" && c.unpack.unwrap_or(true),
            exclude: c.exclude.clone(),
            latest: shared.latest,
            ..Rules::of_bind()
        };
        let directory = c.destination.ends_with('/') || c.destination == "." || c.destination.ends_with("/.");
        let destination = beneath(&self.config.working_dir, &c.destination);
        if repositories.len() + urls.len() + paths.len() + c.heredocs.len() > 1 && !directory {
            return Err(not_a_directory(keyword));
        }
        // In an image the root is the top; a context has something above it, which is nobody's to have.
        if let Some(path) = paths.iter().find(|p| !rules.keep_owner && copy::leads_out(p)) {
            return Err(Error::Invalid(format!(
                "{keyword} failed: forbidden path outside the build context: {path} (copy what is above from a context of its own, `--build-context`)"
            )));
        }
        let files = shared.source(number, c.from.as_deref(), done, out).await?;
        let of_files = Rules { left_out: files.left_out(), ..rules.clone() };
        let mut groups = vec![(files, paths, c.heredocs.clone(), of_files)];
        for repository in &repositories {
            let dir = shared.context.scratch().await?;
            let agent = shared.agent(&dir)?;
            let (work, checksum) = (dir.join("work"), c.checksum.as_deref());
            let proxies = &shared.engine.images().registries().options().proxies.clone();
            let access = Access { agent: agent.as_ref(), proxies, secrets: &shared.request.secrets };
            let files = repository.fetch(&work, c.keep_git_dir, checksum, access).await?;
            let files = Source::directory(files).await?;
            groups.push((files, vec!["/".to_owned()], Vec::new(), Rules { unpack: false, ..rules.clone() }));
        }
        for url in &urls {
            // Each lies in a directory of its own; archives are unpacked only where that is asked for.
            let dir = shared.context.scratch().await?;
            let named = !directory || c.unpack == Some(true);
            let name = fetch::fetch(shared, url, c.checksum.as_deref(), named, &dir).await?;
            let rules = Rules { unpack: c.unpack == Some(true), ..rules.clone() };
            groups.push((Source::directory(dir).await?, vec![Glob::quoted(&name)], Vec::new(), rules));
        }
        let (found, digest) = blocking(move || {
            let (mut found, mut digests) = (Vec::new(), Vec::new());
            for (source, paths, documents, rules) in groups {
                let mut items = copy::find(source.files(), &paths, &rules)?;
                items.extend(
                    documents
                        .into_iter()
                        .map(|d| Item::Written { name: PathBuf::from(d.name), text: d.content }),
                );
                if items.len() > 1 && !directory {
                    return Err(not_a_directory(keyword));
                }
                digests.push(copy::digest(source.files(), &items, &rules)?);
                found.push((source, items, rules));
            }
            Ok((found, digests))
        })
        .await?;
        let what = json!({
            "copy": digest, "to": destination, "directory": directory, "chown": rules.chown, "mode": c.chmod,
            "parents": rules.parents, "link": c.link, "owners": rules.keep_owner, "unpack": rules.unpack,
        });
        // What is linked does not depend on what is below.
        let lowers = if c.link { Vec::new() } else { shared.lowers(self)? };
        let (scratch, images) = (shared.context.scratch().await?, shared.engine.images().clone());
        let (base, latest) = (self.image.clone(), shared.latest);
        let make = blocking(move || {
            let space = Workspace::open(scratch, lowers)?;
            for (source, items, rules) in &found {
                copy::copy(source.files(), space.root()?, items, &destination, directory, rules)?;
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

/// Flags that do not fit the sources: repositories, URLs, and paths.
fn refuse_flags(c: &Copy, sources: (usize, usize, usize)) -> Result<(), Error> {
    if c.checksum.is_some() && !matches!(sources, (1, 0, 0) | (0, 1, 0)) {
        return Err(Error::Invalid("--checksum is for one URL or one repository".into()));
    }
    if let (Some(sum), 1) = (&c.checksum, sources.1) {
        let hex = sum.strip_prefix("sha256:").filter(|h| h.len() == 64);
        if hex.is_none_or(|h| !h.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))) {
            let why =
                format!("invalid --checksum {sum:?} of a URL: want sha256: and 64 digits, 0 to 9 and a to f");
            return Err(Error::Invalid(why));
        }
    }
    if c.keep_git_dir && sources.0 == 0 {
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
    copy::digest(source.files(), &[mounts::bound(source, path)?], &Rules::of_bind())
}
