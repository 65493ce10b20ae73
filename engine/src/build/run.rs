//! `RUN`: a command in a container of the stage's layers; what it changes becomes a layer.

use futures::StreamExt;

use super::caches::InUse;
use super::output::Output;
use super::settings::argv;
use super::shared::Shared;
use super::stage::Stage;
use super::{layer, mounts};
use crate::config::{ContainerConfig, NetworkMode};
use crate::container::pack::write_layer;
use crate::container::{AttachOptions, MADE_BY_US, WaitCondition};
use crate::dockerfile::{Command, Run, Security};
use crate::engine::Engine;
use crate::error::{Error, blocking};
use crate::image::{Held, ImageConfig};
use crate::log_config::LogConfig;
use crate::mount::{MountConfig, MountKind};

/// Where a script that says itself what reads it is mounted.
const SCRIPT: &str = "/dev/skep-heredoc";

/// The command as it is run, and the text of a script that is run as a file.
pub(super) fn command(config: &ImageConfig, run: &Run) -> (Vec<String>, Option<String>) {
    let Command::Shell(line) = &run.command else { return (argv(config, &run.command), None) };
    let Some(first) = run.heredocs.first() else { return (argv(config, &run.command), None) };
    // With nothing else on the line the document is the script.
    let alone = run.heredocs.len() == 1 && line.split_whitespace().count() == 1 && line.starts_with("<<");
    if !alone {
        let mut whole = line.clone();
        for doc in &run.heredocs {
            whole.push('\n');
            whole.push_str(&doc.content);
            whole.push_str(&doc.name);
        }
        return (argv(config, &Command::Shell(whole)), None);
    }
    let text = first.text();
    if text.starts_with("#!") {
        return (vec![SCRIPT.to_owned()], Some(text));
    }
    (argv(config, &Command::Shell(text)), None)
}

/// Removes a container that a build leaves behind.
struct Guard {
    engine: Engine,
    /// None = there is nothing to remove any more.
    id: Option<String>,
    /// Those it uses as long as it is there.
    caches: InUse,
}

impl Guard {
    /// Makes the container, in a task of its own: a build that is left meanwhile must not leave half of one.
    async fn create(
        engine: &Engine,
        config: ContainerConfig,
        caches: InUse,
    ) -> Result<(String, Self), Error> {
        let engine = engine.clone();
        let making = tokio::spawn(async move {
            let id = engine.create(None, config).await?.0;
            Ok::<_, Error>((id.clone(), Self { engine, id: Some(id), caches }))
        });
        making.await.map_err(|_| Error::ShuttingDown)?
    }

    async fn remove(mut self) -> Result<(), Error> {
        if let Some(id) = &self.id {
            self.engine.remove_with(id, true, true).await?;
        }
        // Not before: a build that is left meanwhile still has it removed.
        self.id = None;
        Ok(())
    }

    /// Leaves the container where it is, for whoever wants to look at it.
    async fn leave(mut self) -> Result<(), Error> {
        if let Some(id) = &self.id {
            self.engine.keep_after_build(id).await?;
        }
        self.id = None;
        Ok(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        let (engine, caches) = (self.engine.clone(), std::mem::take(&mut self.caches));
        tokio::spawn(async move {
            if let Err(e) = engine.remove_with(&id, true, true).await {
                tracing::warn!(container = id, error = %e, "the container of a build that ended is left");
            }
            drop(caches);
        });
    }
}

/// Runs it. The image of the layers with what it changed; none = it changed nothing.
pub(super) async fn run(
    shared: &Shared,
    stage: &Stage,
    run: &Run,
    sources: &mounts::Sources,
    out: &Output,
) -> Result<Option<Held>, Error> {
    let Some(image) = stage.image.clone() else {
        return Err(Error::Invalid(
            "there is nothing to run in scratch: COPY or ADD something into the stage first".into(),
        ));
    };
    let (engine, request) = (&shared.engine, &shared.request);
    if run.security == Security::Insecure && !request.allow_insecure {
        return Err(Error::Invalid("RUN --security=insecure is not allowed: allow security.insecure".into()));
    }
    let scratch = shared.context.scratch().await?;
    let caches = engine.build_caches();
    let working_dir = if stage.config.working_dir.is_empty() { "/" } else { &stage.config.working_dir };
    let mut mounted =
        mounts::prepare(&run.mounts, sources, &request.secrets, working_dir, &caches, &scratch).await?;
    let (argv, script) = command(&stage.config, run);
    if let Some(text) = script {
        let path = scratch.join("script");
        let to = path.clone();
        blocking(move || {
            std::fs::write(&to, text).map_err(Error::io("write", &to))?;
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(&to, mode).map_err(Error::io("set the mode of", &to))
        })
        .await?;
        let bind = MountKind::Bind { source: path, options: Default::default() };
        mounted.mounts.push(MountConfig::new(bind, SCRIPT, true));
    }
    let network = match run.network.as_deref() {
        None | Some("default") => request.network.clone(),
        Some("none") => NetworkMode::None,
        Some("host") => NetworkMode::Host,
        Some(other) => return Err(Error::Invalid(format!("unknown network mode {other:?}"))),
    };
    let mut env = stage.config.env.clone();
    env.extend(stage.args.seen(&stage.config.env));
    env.append(&mut mounted.env);
    let config = ContainerConfig {
        image,
        entrypoint: Some(Vec::new()),
        cmd: Some(argv.clone()),
        env,
        working_dir: Some(working_dir.to_owned()),
        user: Some(stage.config.user.clone()).filter(|u| !u.is_empty()),
        network,
        mounts: std::mem::take(&mut mounted.mounts),
        files: std::mem::take(&mut mounted.files),
        privileged: run.security == Security::Insecure,
        of_build: true,
        extra_hosts: request.extra_hosts.clone(),
        resources: request.resources.clone(),
        ulimits: request.ulimits.clone(),
        shm_size: request.shm_size,
        cgroup_parent: request.cgroup_parent.clone(),
        log: LogConfig { driver: "none".into(), ..LogConfig::default() },
        ..ContainerConfig::default()
    };
    let (id, guard) = Guard::create(engine, config, std::mem::take(&mut mounted.caches)).await?;
    out.line(format!(" ---> Running in {}", &id[..12])).await;
    let streams = AttachOptions { stdout: true, stderr: true, ..AttachOptions::default() };
    let mut output = engine.attach(&id, streams).await?.output;
    let ended = engine.wait(&id, WaitCondition::NextExit)?;
    engine.start_with_files(&id, std::mem::take(&mut mounted.contents)).await?;
    while let Some(frame) = output.next().await {
        out.text(String::from_utf8_lossy(&frame?.data).into_owned()).await;
    }
    let exit = ended.await?;
    if exit.code != 0 {
        if shared.request.keep_failed {
            guard.leave().await?;
        } else {
            guard.remove().await?;
        }
        let reason = if exit.error.is_empty() { String::new() } else { format!(": {}", exit.error) };
        return Err(Error::BuildFailed { command: argv.join(" "), code: exit.code, reason });
    }
    let made = engine.changes_as_layer(&id, stage.image.clone(), {
        let ours = MADE_BY_US.iter().map(|p| std::path::Path::new("/").join(p));
        let stubs: Vec<_> = mounted.stubs.iter().cloned().chain(ours).collect();
        let (lowers, latest) = (shared.lowers(stage)?, shared.latest);
        move |upper| {
            let view = layer::files(lowers, &scratch)?;
            mounts::remove_stubs(upper, Some(view.root()), &stubs);
            Ok(latest)
        }
    });
    let made = made.await?;
    guard.remove().await?;
    out.line(format!(" ---> Removed intermediate container {}", &id[..12])).await;
    Ok(made)
}

impl Engine {
    /// Removes the containers of builds that a crash ended.
    pub(crate) async fn remove_left_by_builds(&self) {
        let left = self.list().into_iter().filter(|c| c.config.of_build);
        for c in left {
            match self.remove_with(&c.id.0, true, true).await {
                Ok(()) => tracing::info!(container = c.id.0, "removed what a build left"),
                Err(e) => {
                    tracing::warn!(container = c.id.0, error = %e, "what a build left cannot be removed")
                }
            }
        }
    }

    /// What a container that has ended changed, as one more layer on the image of its own.
    async fn changes_as_layer(
        &self,
        id: &str,
        base: Option<String>,
        prepare: impl FnOnce(&std::path::Path) -> Result<Option<i64>, Error> + Send + 'static,
    ) -> Result<Option<Held>, Error> {
        let upper = self.upper_of(id)?;
        let images = self.images().clone();
        blocking(move || {
            let latest = prepare(&upper)?;
            images.add_layer_blocking(base.as_deref(), |file| write_layer(&upper, file, MADE_BY_US, latest))
        })
        .await
    }
}
