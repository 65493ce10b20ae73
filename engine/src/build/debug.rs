//! A shell in the state that a failed step left, for whoever asked for the build to look at. The build waits for its end, so
//! that all the step had is still there; a client that leaves ends both.

use std::time::Duration;

use serde_json::json;

use super::output::{BuildEvent, Output};
use super::run::{Guard, of_step};
use super::shared::Shared;
use super::stage::Stage;
use crate::config::ContainerConfig;
use crate::container::{FileContent, WaitCondition};
use crate::dockerfile::Instruction;
use crate::error::Error;

/// How often a client that says nothing is spoken to, so that one that is gone is missed.
const HEARTBEAT: Duration = Duration::from_secs(20);

/// Which step it is.
pub(super) struct At<'a> {
    pub(super) step: usize,
    pub(super) instruction: &'a Instruction,
}

/// What a step had that is on no disk.
#[derive(Default)]
pub(super) struct Secrets {
    pub(super) files: Vec<FileContent>,
    pub(super) variables: Vec<String>,
}

/// The state before a step that failed without a command of its own; where there are no files there is no shell.
pub(super) async fn before(shared: &Shared, stage: &Stage, at: &At<'_>, failure: &Error, out: &Output) {
    let Some(image) = stage.image.clone() else { return };
    let mut env = stage.config.env.clone();
    env.extend(stage.args.seen(&stage.config.env));
    let network = shared.request.network.clone();
    let Ok(config) = of_step(shared, stage, image) else { return };
    let config = ContainerConfig { env, network, ..config };
    shell(shared, config, Secrets::default(), stage, at, &failure.to_string(), out).await;
}

/// A shell in a container like `config`. That there is none is said, and hides no failure of the build's.
pub(super) async fn shell(
    shared: &Shared,
    config: ContainerConfig,
    secrets: Secrets,
    stage: &Stage,
    at: &At<'_>,
    failure: &str,
    out: &Output,
) {
    if let Err(e) = open(shared, config, secrets, stage, at, failure, out).await {
        out.line(format!("No shell can be opened in what the step left: {e}")).await;
    }
}

/// Makes the container and tells the client of it, which attaches to it and starts it; waits for its end.
async fn open(
    shared: &Shared,
    config: ContainerConfig,
    secrets: Secrets,
    stage: &Stage,
    at: &At<'_>,
    failure: &str,
    out: &Output,
) -> Result<(), Error> {
    let engine = &shared.engine;
    let program = stage.config.shell.first().cloned().unwrap_or_else(|| "/bin/sh".to_owned());
    let config = ContainerConfig {
        entrypoint: Some(Vec::new()),
        cmd: Some(vec![program.clone()]),
        tty: shared.request.debug_tty,
        open_stdin: true,
        stdin_once: true,
        ..config
    };
    let (id, guard) = Guard::create(engine, config, Default::default()).await?;
    engine.give_files(&id, secrets.files)?;
    engine.give_variables(&id, secrets.variables)?;
    let ended = engine.wait(&id, WaitCondition::NextExit)?;
    let file = &shared.request.dockerfile;
    let told = json!({ "Skep.Debug": {
        "Container": id, "Shell": program, "Step": at.step, "Steps": shared.plan.steps(),
        "Place": format!("{file}:{}", at.instruction.line), "Command": at.instruction.text, "Failure": failure,
    }});
    out.event(BuildEvent::Aux(told)).await;
    tokio::pin!(ended);
    loop {
        tokio::select! {
            exit = &mut ended => {
                exit?;
                break;
            }
            () = tokio::time::sleep(HEARTBEAT) => out.text(String::new()).await,
        }
    }
    guard.remove().await
}
