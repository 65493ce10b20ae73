//! What is to be done: the stages of a Dockerfile, which of them the target needs, and what each takes from the others.

use std::collections::{BTreeMap, BTreeSet};

use super::BuildRequest;
use super::{arguments, named};
use crate::dockerfile::{self, Expander, FromImage, Instruction, Kind, SyntaxError};
use crate::error::Error;

/// Where a stage begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Base {
    /// Nothing.
    Scratch,
    /// Another stage, by its number.
    Stage(usize),
    /// An image.
    Image(String),
    /// Another context, by its name.
    Context(String),
}

/// One stage.
#[derive(Clone, Debug)]
pub(super) struct StagePlan {
    pub(super) from: Instruction,
    pub(super) base: Base,
    pub(super) platform: Option<String>,
    pub(super) steps: Vec<Instruction>,
    /// Its name in `FROM ... AS`.
    pub(super) name: Option<String>,
}

/// A whole build.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) stages: Vec<StagePlan>,
    /// Number of the stage that becomes the image.
    pub(super) target: usize,
    /// Stages that are run.
    pub(super) needed: BTreeSet<usize>,
    /// `ARG` before the first `FROM`.
    pub(super) global_args: BTreeMap<String, Option<String>>,
    pub(super) escape: char,
    pub(super) notes: Vec<String>,
    /// Names that stand for other contexts, whatever stages are called.
    pub(super) contexts: BTreeMap<String, String>,
}

/// What is wrong with a Dockerfile.
#[derive(Debug)]
pub(super) enum PlanError {
    Syntax(SyntaxError),
    At(usize, String),
    Other(String),
}

impl PlanError {
    /// The error of the file.
    pub(super) fn of(self, file: &str) -> Error {
        Error::Invalid(match self {
            Self::Syntax(e) => format!("{e} ({file}:{}:{})", e.line, e.column),
            Self::At(line, e) => format!("dockerfile parse error on line {line}: {e} ({file}:{line})"),
            Self::Other(e) => e,
        })
    }
}

impl Plan {
    /// Reads the file and finds out what is needed.
    pub(super) fn new(text: &str, request: &BuildRequest) -> Result<Self, PlanError> {
        let file = dockerfile::parse(text).map_err(PlanError::Syntax)?;
        let platform = arguments::platform(request);
        let mut global_args: BTreeMap<String, Option<String>> = BTreeMap::new();
        let mut stages: Vec<StagePlan> = Vec::new();
        for i in file.instructions {
            match (&i.kind, stages.last_mut()) {
                (Kind::From(from), _) => {
                    let lookup = |name: &str| {
                        let declared = global_args.get(name).cloned().flatten();
                        declared.or_else(|| platform.get(name).cloned())
                    };
                    let expander = Expander { escape: file.escape, lookup: &lookup };
                    let stage = stage(from, &i, &stages, &request.contexts, &expander)?;
                    stages.push(stage);
                }
                (_, Some(stage)) => stage.steps.push(i),
                (Kind::Arg(list), None) => {
                    for (name, default) in list {
                        let lookup = |name: &str| global_args.get(name).cloned().flatten();
                        let expander = Expander { escape: file.escape, lookup: &lookup };
                        let default = default.as_deref().map(|d| expander.word(d)).transpose();
                        let default = default.map_err(|e| PlanError::At(i.line, e))?;
                        let given = request.args.get(name).cloned().flatten();
                        global_args.insert(name.clone(), given.or(default));
                    }
                }
                // The parser lets nothing else come first.
                _ => {}
            }
        }
        let target = match request.target.as_deref().filter(|t| !t.is_empty()) {
            None => stages.len() - 1,
            Some(asked) => find(&stages, stages.len(), asked)
                .ok_or_else(|| PlanError::Other(format!("target stage {asked:?} could not be found")))?,
        };
        let mut plan = Self {
            stages,
            target,
            needed: BTreeSet::from([target]),
            global_args,
            escape: file.escape,
            notes: file.notes,
            contexts: request.contexts.clone(),
        };
        // What a stage takes from comes before it.
        for stage in (0..=target).rev() {
            if plan.needed.contains(&stage) {
                let sources = plan.takes_from(stage);
                plan.needed.extend(sources);
            }
        }
        Ok(plan)
    }

    /// The stages that a stage takes something from, all of which come before it.
    pub(super) fn takes_from(&self, stage: usize) -> BTreeSet<usize> {
        let plan = &self.stages[stage];
        let base = match plan.base {
            Base::Stage(n) => Some(n),
            _ => None,
        };
        let sources = plan.steps.iter().flat_map(sources).filter_map(|name| self.stage_of(stage, &name));
        base.into_iter().chain(sources).collect()
    }

    /// The stage that `name` stands for in stage number `at`: a name or a number of one before it.
    pub(super) fn stage_of(&self, at: usize, name: &str) -> Option<usize> {
        if named::of(&self.contexts, name).is_some() {
            return None;
        }
        find(&self.stages, at, name)
    }

    /// Steps of all stages that run, their `FROM` included.
    pub(super) fn steps(&self) -> usize {
        self.needed.iter().map(|n| 1 + self.stages[*n].steps.len()).sum()
    }
}

/// What a step takes from stages or images.
fn sources(step: &Instruction) -> Vec<String> {
    match &step.kind {
        Kind::Copy(c) => c.from.clone().into_iter().collect(),
        Kind::Run(r) => r.mounts.iter().map(|m| m.from.clone()).filter(|f| !f.is_empty()).collect(),
        _ => Vec::new(),
    }
}

fn find(stages: &[StagePlan], before: usize, name: &str) -> Option<usize> {
    let lower = name.to_ascii_lowercase();
    let named = stages.iter().take(before).rposition(|s| s.name.as_deref() == Some(&lower));
    named.or_else(|| name.parse().ok().filter(|n| *n < before))
}

fn stage(
    from: &FromImage,
    i: &Instruction,
    before: &[StagePlan],
    contexts: &BTreeMap<String, String>,
    expander: &Expander<'_>,
) -> Result<StagePlan, PlanError> {
    let at = |e| PlanError::At(i.line, e);
    let of_image = |message| {
        let (line, column) = from.at;
        PlanError::Syntax(SyntaxError { line, column, message })
    };
    let image = expander.word(&from.image).map_err(of_image)?;
    let platform = from.platform.as_deref().map(|p| expander.word(p)).transpose().map_err(at)?;
    if image.is_empty() {
        let why = format!("base name ({}) should not be blank: an ARG before FROM has no value", from.image);
        return Err(of_image(why));
    }
    let platform = platform.filter(|p| !p.is_empty());
    if named::of(contexts, &image).is_some() {
        let (base, name) = (Base::Context(image), from.name.clone());
        return Ok(StagePlan { from: i.clone(), base, platform, steps: Vec::new(), name });
    }
    // A number is the name of an image here.
    let stage = before.iter().rposition(|s| s.name.as_deref() == Some(image.to_ascii_lowercase().as_str()));
    let base = match stage {
        Some(n) => Base::Stage(n),
        None if image == "scratch" => Base::Scratch,
        None => Base::Image(image),
    };
    Ok(StagePlan { from: i.clone(), base, platform, steps: Vec::new(), name: from.name.clone() })
}
