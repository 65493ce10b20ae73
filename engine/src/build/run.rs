//! `RUN`: a command in a container of the stage's layers; what it changes becomes a layer.

use futures::StreamExt;

use super::caches::InUse;
use super::output::Output;
use super::settings::argv;
use super::shared::Shared;
use super::stage::Stage;
use super::{BuildRequest, debug, layer, mounts};
use crate::config::{ContainerConfig, NetworkMode};
use crate::container::pack::{write_and_tidy, write_layer};
use crate::container::{AttachOptions, MADE_BY_US, WaitCondition};
use crate::dockerfile::{Command, Run, Security};
use crate::engine::Engine;
use crate::error::{Error, blocking};
use crate::image::{Held, ImageConfig};
use crate::log_config::LogConfig;
use crate::mount::MountConfig;

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
pub(super) struct Guard {
    engine: Engine,
    /// None = there is nothing to remove any more.
    id: Option<String>,
    /// Those it uses as long as it is there.
    caches: InUse,
}

impl Guard {
    /// Makes the container, in a task of its own: a build that is left meanwhile must not leave half of one.
    pub(super) async fn create(
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

    pub(super) async fn remove(mut self) -> Result<(), Error> {
        if let Some(id) = &self.id {
            match self.engine.remove_with(id, true, true).await {
                // Somebody else was quicker.
                Ok(()) | Err(Error::NoSuchContainer { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        // Not before: a build that is left meanwhile still has it removed.
        self.id = None;
        Ok(())
    }

    /// Leaves the container where it is, for whoever wants to look at it.
    async fn leave(mut self) -> Result<(), Error> {
        if let Some(id) = &self.id {
            self.engine.images().settle_with_container().await?;
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

/// Refuses a step what whoever builds does not allow, as BuildKit does without an entitlement (Dockerfile reference, `RUN
/// --network` and `RUN --security`).
pub(super) fn allowed(run: &Run, request: &BuildRequest) -> Result<(), Error> {
    let refused = |flag: &str, entitlement: &str, besides: &str| {
        let words =
            format!("RUN {flag} is not allowed: build with skep build --allow {entitlement}{besides}");
        Err(Error::Invalid(words))
    };
    if run.security == Security::Insecure && !request.allow_insecure {
        return refused("--security=insecure", "security.insecure", "");
    }
    let within = request.allow_host_network || request.network == NetworkMode::Host;
    if run.network.as_deref() == Some("host") && !within {
        return refused("--network=host", "network.host", ", or with --network=host");
    }
    Ok(())
}

/// Runs it. The image of the layers with what it changed; none = it changed nothing.
pub(super) async fn run(
    shared: &Shared,
    stage: &Stage,
    run: &Run,
    sources: &mounts::Sources,
    at: &debug::At<'_>,
    out: &Output,
) -> Result<Option<Held>, Error> {
    let Some(image) = stage.image.clone() else {
        return Err(Error::Invalid(
            "there is nothing to run in scratch: COPY or ADD something into the stage first".into(),
        ));
    };
    let (engine, request) = (&shared.engine, &shared.request);
    let scratch = shared.context.scratch().await?;
    let (caches, agents) = (engine.build_caches(), (&request.agents, &shared.aside));
    let working_dir = if stage.config.working_dir.is_empty() { "/" } else { &stage.config.working_dir };
    let mut mounted =
        mounts::prepare(&run.mounts, sources, &request.secrets, agents, working_dir, &caches, &scratch)
            .await?;
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
        mounted.mounts.push(MountConfig::new(mounts::of_build(path), SCRIPT, true));
    }
    let network = match run.network.as_deref() {
        None | Some("default") => request.network.clone(),
        Some("none") => NetworkMode::None,
        Some("host") => NetworkMode::Host,
        Some(other) => return Err(Error::Invalid(format!("unknown network mode {other:?}"))),
    };
    let mut env = stage.config.env.clone();
    env.extend(stage.args.seen(&stage.config.env));
    let own_agent = env.iter().any(|e| e.starts_with("SSH_AUTH_SOCK="));
    mounted.env.retain(|e| !own_agent || !e.starts_with("SSH_AUTH_SOCK="));
    env.append(&mut mounted.env);
    let config = ContainerConfig {
        entrypoint: Some(Vec::new()),
        cmd: Some(argv.clone()),
        env,
        network,
        mounts: std::mem::take(&mut mounted.mounts),
        files: std::mem::take(&mut mounted.files),
        privileged: run.security == Security::Insecure,
        ..of_step(shared, stage, image)?
    };
    let again = request.debug.then(|| {
        let secrets =
            debug::Secrets { files: mounted.contents.clone(), variables: mounted.secret_env.clone() };
        (config.clone(), secrets)
    });
    let (id, guard) = Guard::create(engine, config, std::mem::take(&mut mounted.caches)).await?;
    out.line(format!(" ---> Running in {}", &id[..12])).await;
    let streams = AttachOptions { stdout: true, stderr: true, ..AttachOptions::default() };
    let mut output = engine.attach(&id, streams).await?.output;
    let ended = engine.wait(&id, WaitCondition::NextExit)?;
    engine.give_variables(&id, std::mem::take(&mut mounted.secret_env))?;
    engine.start_with_files(&id, std::mem::take(&mut mounted.contents)).await?;
    while let Some(frame) = output.next().await {
        out.text(String::from_utf8_lossy(&frame?.data).into_owned()).await;
    }
    let exit = ended.await?;
    let stubs = {
        let ours = MADE_BY_US.iter().map(|p| std::path::Path::new("/").join(p));
        mounted.stubs.iter().cloned().chain(ours).collect::<Vec<_>>()
    };
    let layer = engine.changes_as_layer(&id, stage.image.clone(), request.keep_all, {
        let (lowers, latest) = (shared.lowers(stage)?, shared.latest);
        move |upper| {
            let view = layer::files(lowers, &scratch)?;
            mounts::remove_stubs(upper, Some(view.root()), &stubs);
            Ok(latest)
        }
    });
    if exit.code != 0 {
        let reason = if exit.error.is_empty() { String::new() } else { format!(": {}", exit.error) };
        if let Some((config, secrets)) = again {
            let left = layer.await?;
            let image = left.as_ref().map_or(config.image.clone(), |held| held.image().to_owned());
            let failure = format!("exited with {}{reason}", exit.code);
            let config = ContainerConfig { image, ..config };
            debug::shell(shared, config, secrets, stage, at, &failure, out).await;
        }
        if request.keep_failed && !request.debug {
            guard.leave().await?;
        } else {
            guard.remove().await?;
        }
        return Err(Error::BuildFailed { command: argv.join(" "), code: exit.code, reason });
    }
    let made = layer.await?;
    if request.keep_all {
        guard.leave().await?;
        return Ok(made);
    }
    guard.remove().await?;
    out.line(format!(" ---> Removed intermediate container {}", &id[..12])).await;
    Ok(made)
}

/// A container of a step, but for what its instruction says.
pub(super) fn of_step(shared: &Shared, stage: &Stage, image: String) -> Result<ContainerConfig, Error> {
    let request = &shared.request;
    let working_dir = if stage.config.working_dir.is_empty() { "/" } else { &stage.config.working_dir };
    let mut config = ContainerConfig {
        image,
        working_dir: Some(working_dir.to_owned()),
        user: Some(stage.config.user.clone()).filter(|u| !u.is_empty()),
        of_build: true,
        // Of its own, also where containers are in the host's (cgroups v1).
        host_cgroupns: Some(false),
        extra_hosts: request.extra_hosts.clone(),
        resources: request.resources.clone(),
        ulimits: request.ulimits.clone(),
        shm_size: request.shm_size,
        cgroup_parent: request.cgroup_parent.clone(),
        log: LogConfig { driver: "none".into(), ..LogConfig::default() },
        ..ContainerConfig::default()
    };
    for option in &request.security_options {
        config.secure(option).map_err(Error::Invalid)?;
    }
    Ok(config)
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

    /// What a container that has ended changed, as one more layer on the image of its own. It is taken away from the
    /// container, unless that is to `keep` it.
    async fn changes_as_layer(
        &self,
        id: &str,
        base: Option<String>,
        keep: bool,
        prepare: impl FnOnce(&std::path::Path) -> Result<Option<i64>, Error> + Send + 'static,
    ) -> Result<Option<Held>, Error> {
        let upper = self.upper_of(id)?;
        let images = self.images().clone();
        blocking(move || {
            let latest = prepare(&upper)?;
            let base = base.as_deref();
            if keep {
                return images.add_layer_blocking(base, |file| write_layer(&upper, file, MADE_BY_US, latest));
            }
            images.adopt_layer_blocking(base, &upper, |dir, out, announce| {
                write_and_tidy(dir, out, announce, MADE_BY_US, latest)
            })
        })
        .await
    }
}
