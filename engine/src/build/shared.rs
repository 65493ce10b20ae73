//! What all stages of a build share, and the files that their steps take from elsewhere.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::arguments::{self, EPOCH};
use super::cache_from::CacheFrom;
use super::context::Context;
use super::mounts::{Source, SourceRoot};
use super::named::{self, Named};
use super::output::Output;
use super::plan::Plan;
use super::ssh::{self, Forwarded};
use super::stage::{Done, Stage};
use super::{BuildRequest, layer};
use crate::dockerfile::Instruction;
use crate::engine::Engine;
use crate::error::{Error, blocking};
use crate::image::{Held, rfc3339};

/// What all stages of a build share.
pub(super) struct Shared {
    pub(super) engine: Engine,
    pub(super) request: BuildRequest,
    pub(super) context: Arc<Context>,
    /// Others, by their names.
    pub(super) named: BTreeMap<String, Named>,
    pub(super) plan: Plan,
    /// What no stage waits for its turn with.
    pub(super) aside: Output,
    /// When the build began, or what SOURCE_DATE_EPOCH says (RFC 3339).
    pub(super) now: String,
    /// What SOURCE_DATE_EPOCH says: no file of a layer is younger.
    pub(super) latest: Option<i64>,
    /// The image carries what its steps are known by.
    pub(super) inline_cache: bool,
    pub(super) cache_from: CacheFrom,
    held: Mutex<Vec<Held>>,
}

impl Shared {
    pub(super) fn new(
        engine: Engine,
        request: BuildRequest,
        (context, named): (Arc<Context>, BTreeMap<String, Named>),
        plan: Plan,
        aside: Output,
    ) -> Result<Self, Error> {
        let epoch = request.args.get(EPOCH).cloned().flatten();
        let latest = epoch.as_deref().map(|t| {
            t.parse::<i64>()
                .map_err(|_| Error::Invalid(format!("invalid {EPOCH}: {t:?}: want seconds since 1970")))
        });
        let latest = latest.transpose()?;
        let now = match latest {
            Some(t) => time::OffsetDateTime::from_unix_timestamp(t)
                .map_err(|_| Error::Invalid(format!("invalid {EPOCH}: {t}: no such time")))?,
            None => time::OffsetDateTime::now_utc(),
        };
        let now = rfc3339(now)?;
        Ok(Self {
            inline_cache: arguments::carries_inline_cache(&request)?,
            engine,
            request,
            context,
            named,
            plan,
            aside,
            now,
            latest,
            cache_from: CacheFrom::default(),
            held: Mutex::default(),
        })
    }

    /// Keeps an image as long as the build.
    pub(super) fn hold(&self, image: Held) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).push(image);
    }

    /// The agent that git(1) may use, where the client forwards one.
    pub(super) fn agent(&self, dir: &std::path::Path) -> Result<Option<Forwarded>, Error> {
        let forwarded = self.request.agents.contains("default");
        forwarded.then(|| ssh::forward(None, "default", dir, "agent", &self.aside)).transpose()
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

    /// Whether `from` means files that came from beside the context.
    pub(super) fn is_of_files(&self, from: &str) -> bool {
        matches!(named::of(&self.named, from), Some(Named::Files(_)))
    }

    /// The files that `from` means: nothing = the context.
    pub(super) async fn source(
        &self,
        number: usize,
        from: Option<&str>,
        done: &Done,
        out: &Output,
    ) -> Result<Arc<Source>, Error> {
        let Some(from) = from.filter(|f| !f.is_empty()) else {
            return Ok(Arc::new(Source { view: SourceRoot::Context(self.context.clone()) }));
        };
        let of_image = match named::of(&self.named, from) {
            Some(Named::Files(context)) => {
                return Ok(Arc::new(Source { view: SourceRoot::Context(context.clone()) }));
            }
            Some(Named::Image(reference)) => Some(reference.as_str()),
            Some(Named::Layout(held)) => Some(held.image()),
            None => None,
        };
        let stage = match self.plan.stage_of(number, from) {
            Some(n) => done.get(&n).map(|s| Stage::clone(s)).ok_or_else(|| {
                // Which stages a stage needs is found out before any variable has a value.
                Error::Invalid(format!(
                    "the stage {from} has not been built for this one: name it without variables and not in ONBUILD, \
                     or take it as a stage of its own first (FROM {from} AS NAME)"
                ))
            })?,
            None if of_image.is_none() && from.parse::<usize>().is_ok() => {
                return Err(Error::Invalid(format!(
                    "invalid from flag value {from}: {number} stages come before this one, and the first is 0"
                )));
            }
            None => {
                let image = self.base(of_image.unwrap_or(from), None, out).await;
                let image = image.map_err(|e| match of_image {
                    Some(_) => e,
                    None => Error::Invalid(format!(
                        "{e} (no stage before this one is called {from}, so it was taken as an image)"
                    )),
                })?;
                self.stage_of_image(&image).await?
            }
        };
        let (lowers, scratch) = (self.lowers(&stage)?, self.context.scratch().await?);
        if lowers.is_empty() {
            return Source::directory(scratch).await;
        }
        let view = blocking(move || layer::files(lowers, &scratch)).await?;
        Ok(Arc::new(Source { view: SourceRoot::Layers(view) }))
    }
}
