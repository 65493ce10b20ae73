//! Stages: each waits for those that it takes something from, and runs its steps one after the other.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, TryStreamExt};
use sha2::{Digest, Sha256};
use skep_registry::Platform;
use tokio::sync::watch;

use super::BuildRequest;
use super::arguments::Arguments;
use super::context::Context;
use super::debug::{self, At};
use super::named::Named;
use super::output::{BuildEvent, Output};
use super::plan::Plan;
use super::shared::Shared;
use super::{begin, squash};
use crate::dockerfile::{Expander, parse_one};
use crate::engine::Engine;
use crate::error::Error;
use crate::image::{Finished, History, ImageConfig, InlineStep};

/// A stage as far as it has come.
#[derive(Clone, Debug, Default)]
pub(super) struct Stage {
    /// The image of its layers, and of nothing else; none = there are none.
    pub(super) image: Option<String>,
    /// Chain ID of its topmost layer; empty = there is none.
    pub(super) chain: String,
    /// How many there are.
    pub(super) layers: usize,
    /// What its image runs on.
    pub(super) platform: Platform,
    pub(super) config: ImageConfig,
    pub(super) history: Vec<History>,
    pub(super) author: String,
    pub(super) args: Arguments,
    /// A `CMD` came before.
    pub(super) cmd_set: bool,
    /// Arguments that were asked for.
    pub(super) asked: Vec<String>,
    pub(super) base: squash::Beginning,
    /// Its steps, as its image carries them.
    pub(super) inline_cache: Vec<InlineStep>,
}

/// Stages that are done, by their numbers.
pub(super) type Done = BTreeMap<usize, Arc<Stage>>;

/// Runs what the target needs, and makes the image.
pub(super) async fn run(
    engine: Engine,
    request: BuildRequest,
    contexts: (Arc<Context>, BTreeMap<String, Named>),
    plan: Plan,
    output: Output,
) -> Result<String, Error> {
    for note in &plan.notes {
        output.line(format!("[Note] {note}")).await;
    }
    let shared = Arc::new(Shared::new(engine, request, contexts, plan, output.clone())?);
    let stage = run_stages(&shared, &output).await?;
    finish(&shared, &stage, &output).await
}

async fn run_stages(shared: &Arc<Shared>, output: &Output) -> Result<Arc<Stage>, Error> {
    let needed: Vec<usize> = shared.plan.needed.iter().copied().collect();
    let (outputs, relay) = output.in_turn(needed.len());
    let mut results: BTreeMap<usize, watch::Receiver<Option<Arc<Stage>>>> = BTreeMap::new();
    let running = FuturesUnordered::new();
    let mut first = 1;
    for (number, out) in needed.iter().copied().zip(outputs) {
        let before: Vec<_> =
            shared.plan.takes_from(number).into_iter().map(|n| (n, results[&n].clone())).collect();
        let (tell, result) = watch::channel(None);
        results.insert(number, result);
        let (shared, from) = (shared.clone(), first);
        first += 1 + shared.plan.stages[number].steps.len();
        let future = async move {
            let mut done = Done::new();
            for (n, mut result) in before {
                // One that fails ends all of them.
                let stage = result.wait_for(Option::is_some).await.map_err(|_| Error::ShuttingDown)?.clone();
                done.extend(stage.map(|s| (n, s)));
            }
            let stage = Arc::new(run_one(&shared, number, from, &done, &out).await?);
            tell.send_replace(Some(stage.clone()));
            Ok::<_, Error>((number, stage))
        };
        running.push(future.boxed());
    }
    let target = shared.plan.target;
    // With the first failure the others are dropped, and fall silent.
    let all = async move { running.try_collect::<HashMap<usize, Arc<Stage>>>().await };
    let (all, ()) = futures::future::join(all, relay).await;
    let mut all = all?;
    let asked: Vec<String> = all.values().flat_map(|s| s.asked.clone()).collect();
    let global: Vec<String> = shared.plan.global_args.keys().cloned().collect();
    let unused = Arguments::unused(&shared.request, &[asked, global].concat());
    if !unused.is_empty() {
        output.line(format!("[Warning] One or more build-args {unused:?} were not consumed")).await;
    }
    all.remove(&target).ok_or(Error::ShuttingDown)
}

async fn run_one(
    shared: &Shared,
    number: usize,
    first: usize,
    done: &Done,
    out: &Output,
) -> Result<Stage, Error> {
    let plan = &shared.plan.stages[number];
    let all = shared.plan.steps();
    out.line(format!("Step {first}/{all} : {}", plan.from.text)).await;
    let mut stage =
        begin::stage(shared, number, done, out).await.map_err(|e| shared.at(e, first, &plan.from))?;
    let triggers = std::mem::take(&mut stage.config.on_build);
    if !triggers.is_empty() {
        out.line(format!("# Executing {} build trigger(s)", triggers.len())).await;
    }
    for text in triggers {
        let mut trigger =
            parse_one(&text).map_err(|e| Error::Invalid(format!("ONBUILD {text}: {}", e.message)))?;
        trigger.line = plan.from.line;
        stage.try_step(shared, number, At { step: first, instruction: &trigger }, done, out).await?;
    }
    stage.shown(out).await;
    for (n, step) in plan.steps.iter().enumerate() {
        let step_number = first + 1 + n;
        let first_line = step.text.lines().next().unwrap_or_default();
        out.line(format!("Step {step_number}/{all} : {first_line}")).await;
        stage.try_step(shared, number, At { step: step_number, instruction: step }, done, out).await?;
        stage.shown(out).await;
    }
    Ok(stage)
}

impl Stage {
    /// Does a step; one that fails says where it is, and may be looked at before.
    async fn try_step(
        &mut self,
        shared: &Shared,
        number: usize,
        at: At<'_>,
        done: &Done,
        out: &Output,
    ) -> Result<(), Error> {
        let Err(e) = self.step(shared, number, &at, done, out).await else { return Ok(()) };
        // A command's own state has been looked at.
        if shared.request.debug && !matches!(e, Error::BuildFailed { .. } | Error::ShuttingDown) {
            debug::before(shared, self, &at, &e, out).await;
        }
        Err(shared.at(e, at.step, at.instruction))
    }

    /// Tells what there is by now.
    async fn shown(&self, out: &Output) {
        let id = match (&self.chain, &self.image) {
            (_, None) => "scratch".to_owned(),
            (chain, Some(_)) => {
                let all = (chain, &self.config, self.history.len());
                let text = serde_json::to_vec(&all).unwrap_or_default();
                hex::encode(&Sha256::digest(text)[..6])
            }
        };
        out.line(format!(" ---> {id}")).await;
    }

    /// Replaces variables by those of the stage: the environment, then the arguments.
    pub(super) fn expand<T>(
        &self,
        escape: char,
        work: impl FnOnce(&Expander<'_>) -> Result<T, String>,
    ) -> Result<T, String> {
        let lookup = |name: &str| {
            let env = self.config.env.iter().filter_map(|e| e.split_once('='));
            let set = env.filter(|(n, _)| *n == name).map(|(_, v)| v.to_owned()).next();
            set.or_else(|| self.args.get(name))
        };
        work(&Expander { escape, lookup: &lookup })
    }

    /// One line of the image's history.
    pub(super) fn tell(&mut self, created: &str, created_by: String, empty_layer: bool) {
        self.history.push(History {
            created: created.to_owned(),
            created_by,
            author: self.author.clone(),
            comment: String::new(),
            empty_layer,
        });
    }
}

/// The image of the target.
async fn finish(shared: &Shared, stage: &Stage, output: &Output) -> Result<String, Error> {
    let mut config = stage.config.clone();
    config.labels.extend(shared.request.labels.clone());
    let steps: Vec<_> = stage.history.iter().map(|h| (&h.created_by, h.empty_layer, &h.author)).collect();
    let squash = shared.request.squash.then_some((&stage.base.image, &stage.base.id));
    // Its layers are others than those of the steps.
    let carries = shared.inline_cache && !shared.request.squash;
    let carried = if carries { stage.inline_cache.clone() } else { Vec::new() };
    let known = (
        "result",
        &stage.chain,
        &stage.platform,
        &config,
        &steps,
        &stage.author,
        shared.latest,
        squash,
        &carried,
    );
    let text = serde_json::to_vec(&known)
        .map_err(|e| Error::Invalid(format!("cannot encode the configuration: {e}")))?;
    let key = hex::encode(Sha256::digest(text));
    let images = shared.engine.images();
    let kept = if shared.request.no_cache { None } else { shared.engine.build_cache().find(&key, images) };
    let id = match kept.and_then(|(_, held)| held) {
        Some(held) => {
            images.name(held.image(), &shared.request.tags).await?;
            held.image().to_owned()
        }
        None => {
            let created = shared.now.clone();
            let stage = match shared.request.squash {
                true => &squash::squashed(shared, stage).await?,
                false => stage,
            };
            let done = Finished {
                platform: stage.platform.clone(),
                config,
                history: stage.history.clone(),
                author: stage.author.clone(),
                created: created.clone(),
                references: shared.request.tags.clone(),
                inline_cache: carried,
            };
            // With a time that is given, the same is made again anyway.
            let known = match shared.latest {
                None => shared.cache_from.result(shared, stage.image.as_ref(), &done).await,
                Some(_) => None,
            };
            let id = match known {
                Some(id) => {
                    images.name(&id, &shared.request.tags).await?;
                    id
                }
                None => images.finish(stage.image.clone(), done).await?,
            };
            shared.engine.build_cache().keep(&key, Some(id.clone()), &created, "the image");
            id
        }
    };
    output.event(BuildEvent::Aux(serde_json::json!({ "ID": id }))).await;
    let short = id.trim_start_matches("sha256:").get(..12).unwrap_or(&id).to_owned();
    output.line(format!("Successfully built {short}")).await;
    for tag in &shared.request.tags {
        output.line(format!("Successfully tagged {tag}")).await;
    }
    Ok(id)
}
