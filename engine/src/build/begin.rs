//! What a stage begins with: nothing, another stage, an image, or the files of another context.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;
use skep_registry::Platform;

use super::arguments::Arguments;
use super::context::Context;
use super::copy::{self, Item, Rules};
use super::layer::Workspace;
use super::named::{self, Named};
use super::output::Output;
use super::plan::Base;
use super::shared::Shared;
use super::squash;
use super::stage::{Done, Stage};
use crate::error::{Error, blocking};
use crate::image::{Image, PullRequest, Reference};
use crate::runtime::DEFAULT_PATH;

/// A stage before its first step.
pub(super) async fn stage(shared: &Shared, number: usize, done: &Done, out: &Output) -> Result<Stage, Error> {
    let plan = &shared.plan.stages[number];
    let args = Arguments::new(&shared.request);
    let platform = plan.platform.as_deref();
    let nothing = || Ok::<_, Error>(Stage::empty(shared.wanted(platform)?.unwrap_or_else(Platform::host)));
    let mut stage = match &plan.base {
        Base::Scratch => Stage { args, ..nothing()? },
        // With the arguments that were declared there.
        Base::Stage(n) => Stage {
            cmd_set: false,
            asked: Vec::new(),
            ..done.get(n).map(|s| Stage::clone(s)).unwrap_or_default()
        },
        Base::Image(name) => of_image(shared, shared.base(name, platform, out).await?, args).await?,
        Base::Context(name) => match named::of(&shared.named, name) {
            Some(Named::Files(context)) => {
                let mut stage = Stage { args, ..nothing()? };
                stage.take_files(shared, context.clone(), &plan.from.text, out).await?;
                stage
            }
            Some(Named::Image(reference)) => {
                of_image(shared, shared.base(reference, platform, out).await?, args).await?
            }
            Some(Named::Layout(held)) => {
                let image = shared.engine.images().resolve(held.image())?;
                let wanted = platform.map(parse).transpose()?;
                if let Some(wanted) = wanted.filter(|w| !fits(&image, w)) {
                    return Err(Error::Invalid(format!(
                        "the image of the layout {name} is for {}/{}, not for {wanted}: build with --platform",
                        image.os, image.architecture
                    )));
                }
                of_image(shared, image, args).await?
            }
            None => return Err(Error::Invalid(format!("there is no context {name}"))),
        },
    };
    stage.base = squash::Beginning::of(&stage);
    Ok(stage)
}

async fn of_image(shared: &Shared, image: Image, args: Arguments) -> Result<Stage, Error> {
    let mut stage = shared.stage_of_image(&image).await?;
    stage.args = args;
    stage.base.id = Some(image.id);
    Ok(stage)
}

fn parse(platform: &str) -> Result<Platform, Error> {
    Platform::parse(platform).map_err(|e| Error::Invalid(format!("invalid platform {platform:?}: {e}")))
}

fn fits(image: &Image, wanted: &Platform) -> bool {
    wanted.os == image.os && wanted.architecture == image.architecture
}

impl Stage {
    /// As Docker has it of images that begin with nothing.
    fn empty(platform: Platform) -> Self {
        let mut stage = Self { platform, ..Self::default() };
        stage.config.env.push(format!("PATH={DEFAULT_PATH}"));
        stage
    }

    /// Takes a context's files over, which are one layer.
    async fn take_files(
        &mut self,
        shared: &Shared,
        context: Arc<Context>,
        created_by: &str,
        out: &Output,
    ) -> Result<(), Error> {
        // What is of no image is root's.
        let rules = Rules { keyword: "FROM", keep_owner: false, latest: shared.latest, ..Rules::of_bind() };
        let all = [Item::Content { path: PathBuf::from("/") }];
        let (files, items, known) = (context.clone(), all.clone(), rules.clone());
        let digest = blocking(move || copy::digest(files.files(), &items, &known)).await?;
        let scratch = shared.context.scratch().await?;
        let (images, latest) = (shared.engine.images().clone(), shared.latest);
        let make = blocking(move || {
            let space = Workspace::open(scratch, Vec::new())?;
            copy::copy(context.files(), space.root()?, &all, "/", true, &rules)?;
            space.into_layer(&images, None, latest)
        });
        self.layer(shared, json!({ "from": digest }), created_by.to_owned(), out, make).await
    }
}

impl Shared {
    /// The platform that a stage is for: that of its `FROM`, else the build's; none = this host's.
    fn wanted(&self, named: Option<&str>) -> Result<Option<Platform>, Error> {
        Ok(named.map(parse).transpose()?.or_else(|| self.request.platform.clone()))
    }

    /// Whether an image is for the platform that is built for.
    pub(super) fn builds_for(&self, image: &Image) -> bool {
        self.request.platform.as_ref().is_none_or(|wanted| fits(image, wanted))
    }

    /// A base image, pulled where it is missing.
    pub(super) async fn base(
        &self,
        name: &str,
        platform: Option<&str>,
        out: &Output,
    ) -> Result<Image, Error> {
        let wanted = self.wanted(platform)?;
        let images = self.engine.images();
        let right = |i: &&Image| wanted.as_ref().is_none_or(|w| fits(i, w));
        let here = images.resolve(name).ok();
        if !self.request.pull
            && let Some(image) = here.as_ref().filter(right)
        {
            return Ok(image.clone());
        }
        let other = here.filter(|i| !right(&i));
        let reference = Reference::parse(name)?.or_latest();
        let credentials = (self.request.credentials)(&reference.repository().registry);
        let pull = PullRequest { reference: reference.clone(), platform: wanted.clone(), credentials };
        let pulled = images.pull(pull, &|p| out.progress(p)).await;
        let id = pulled.map_err(|e| match other {
            Some(other) => {
                let (os, architecture) = (other.os, other.architecture);
                Error::Invalid(format!("{e} (the image {name} that is here is of {os}/{architecture})"))
            }
            None => e,
        })?;
        images.resolve(&id.id)
    }

    /// A stage with an image's layers and configuration.
    pub(super) async fn stage_of_image(&self, image: &Image) -> Result<Stage, Error> {
        let (images, id) = (self.engine.images().clone(), image.id.clone());
        self.hold(images.keep(&id)?);
        let mut bare = None;
        if !image.chain_ids.is_empty() {
            let count = image.chain_ids.len();
            let held = blocking(move || images.bare_blocking(&id, count)).await?;
            bare = Some(held.image().to_owned());
            self.hold(held);
        }
        Ok(Stage {
            image: bare,
            chain: image.chain_ids.last().cloned().unwrap_or_default(),
            layers: image.chain_ids.len(),
            platform: image.platform(),
            config: image.config.clone(),
            history: image.history.clone(),
            author: image.author.clone(),
            ..Stage::default()
        })
    }
}
