//! `commit`: a container's changes as one more layer on its image.

use std::collections::BTreeSet;
use std::time::Instant;

use super::changes::MADE_BY_US;
use super::pack::write_layer;
use crate::config::{Container, ContainerState};
use crate::engine::Engine;
use crate::error::{Error, blocking};
use crate::health::HealthConfig;
use crate::image::{ImageConfig, NewLayer, Reference, changes};
use crate::shim::spec::Rootfs;

/// What `commit` is asked for.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// Name of the new image; none = it has only its ID.
    pub reference: Option<String>,
    /// Author.
    pub author: String,
    /// Message.
    pub comment: String,
    /// How containers of it run, filled up with how this one does; none = as this one.
    pub config: Option<ImageConfig>,
    /// Dockerfile instructions applied to its configuration.
    pub changes: Vec<String>,
    /// Hold the container still meanwhile.
    pub pause: bool,
}

impl Engine {
    /// Makes an image of a container; the image's ID.
    pub async fn commit(&self, id: &str, asked: Commit) -> Result<String, Error> {
        let began = Instant::now();
        let slot = self.table().find(id)?;
        let reference = asked.reference.as_deref().filter(|r| !r.is_empty());
        let reference = reference.map(Reference::parse).transpose()?.map(Reference::or_latest);
        if reference.as_ref().is_some_and(|r| r.digest.is_some()) {
            return Err(Error::Invalid("cannot commit to digest reference".into()));
        }
        let c = slot.container();
        let base = self.images().resolve(&c.image_id)?;
        let own = of_container(&c, &base.config);
        let mut config = asked.config.unwrap_or_else(|| own.clone());
        changes::apply(&mut config, &asked.changes)?;
        let new = NewLayer {
            base: c.image_id.clone(),
            config: filled(config, own),
            author: asked.author,
            comment: asked.comment.clone(),
            created_by: c.argv.join(" "),
            reference: reference.clone(),
        };
        let upper = self.upper_of(&slot.id)?;
        let images = self.images().clone();
        let pack = move || images.commit_blocking(new, |file| write_layer(&upper, file, MADE_BY_US, None));
        let (engine, id) = (self.clone(), slot.id.clone());
        let still = asked.pause && c.state == ContainerState::Running;
        // A task of its own: a client that leaves must not leave the container frozen.
        let made = tokio::spawn(async move {
            let paused = match still {
                true => engine.pause(&id).await,
                false => Err(Error::NotRunning { id: id.clone() }),
            };
            match paused {
                Ok(()) => {
                    let made = blocking(pack).await;
                    match engine.unpause(&id).await {
                        // It may have been ended or let go on meanwhile.
                        Ok(()) | Err(Error::Conflict(_) | Error::NoSuchContainer { .. }) => {}
                        Err(e) => {
                            tracing::error!(container = id, error = %e, "a container stays paused after a commit");
                        }
                    }
                    made
                }
                Err(Error::NotRunning { .. } | Error::Conflict(_)) => blocking(pack).await,
                Err(e) => Err(e),
            }
        });
        let image = made.await.map_err(|_| Error::ShuttingDown)??;
        let name = reference.map(|r| r.to_string()).unwrap_or_default();
        if !name.is_empty() {
            self.images().emit("tag", &image, &name);
        }
        self.emit(&slot, "commit", &[("comment", &asked.comment), ("imageID", &image), ("imageRef", &name)]);
        self.metrics().container.commit.observe(began.elapsed().as_secs_f64());
        Ok(image)
    }
}

/// What a configuration leaves open, as another has it.
fn filled(asked: ImageConfig, own: ImageConfig) -> ImageConfig {
    let or = |a: String, b: String| if a.is_empty() { b } else { a };
    let union = |a: Vec<String>, b: Vec<String>| a.into_iter().chain(b).collect::<BTreeSet<_>>();
    let mut env = asked.env;
    for entry in own.env {
        let name = |e: &str| e.split('=').next().unwrap_or_default().to_owned();
        if !env.iter().any(|e| name(e) == name(&entry)) {
            env.push(entry);
        }
    }
    // A command belongs to its entrypoint.
    let (entrypoint, cmd) = match (asked.entrypoint.is_empty(), asked.cmd.is_empty()) {
        (true, true) => (own.entrypoint, own.cmd),
        (true, false) => (own.entrypoint, asked.cmd),
        (false, _) => (asked.entrypoint, asked.cmd),
    };
    let health = asked.healthcheck.as_ref().map(HealthConfig::of_image);
    ImageConfig {
        user: or(asked.user, own.user),
        exposed_ports: union(asked.exposed_ports, own.exposed_ports).into_iter().collect(),
        env,
        entrypoint,
        cmd,
        volumes: union(asked.volumes, own.volumes).into_iter().collect(),
        working_dir: or(asked.working_dir, own.working_dir),
        labels: own.labels.into_iter().chain(asked.labels).collect(),
        stop_signal: or(asked.stop_signal, own.stop_signal),
        shell: if asked.shell.is_empty() { own.shell } else { asked.shell },
        on_build: if asked.on_build.is_empty() { own.on_build } else { asked.on_build },
        healthcheck: HealthConfig::merged(health.as_ref(), own.healthcheck.as_ref()).map(|h| h.to_image()),
    }
}

impl Engine {
    /// The directory of what a container has changed.
    pub(crate) fn upper_of(&self, id: &str) -> Result<std::path::PathBuf, Error> {
        let slot = self.table().find(id)?;
        Ok(match self.rootfs(&slot).0 {
            Rootfs::Overlay { upper, .. } | Rootfs::Directory(upper) => upper,
        })
    }
}

/// How containers of the new image run: as this one does.
fn of_container(c: &Container, image: &ImageConfig) -> ImageConfig {
    let g = &c.config;
    let keys = |name: &str| {
        let map = g.api_request.as_ref().and_then(|r| r.get(name)).and_then(|v| v.as_object());
        map.into_iter().flat_map(|m| m.keys().cloned()).collect::<Vec<_>>()
    };
    let union = |a: &[String], b: Vec<String>| -> Vec<String> {
        a.iter().cloned().chain(b).collect::<BTreeSet<_>>().into_iter().collect()
    };
    let or = |ours: &Option<String>, theirs: &str| {
        ours.clone().filter(|s| !s.is_empty()).unwrap_or_else(|| theirs.to_owned())
    };
    ImageConfig {
        user: or(&g.user, &image.user),
        exposed_ports: g.exposed.clone(),
        env: c.env.clone(),
        entrypoint: g.entrypoint.clone().unwrap_or_else(|| image.entrypoint.clone()),
        // An entrypoint of its own comes without the image's command.
        cmd: match (&g.cmd, &g.entrypoint) {
            (Some(cmd), _) => cmd.clone(),
            (None, Some(own)) if *own != image.entrypoint => Vec::new(),
            (None, _) => image.cmd.clone(),
        },
        volumes: union(&image.volumes, keys("Volumes")),
        working_dir: or(&g.working_dir, &image.working_dir),
        labels: g.labels.clone(),
        stop_signal: or(&g.stop_signal, &image.stop_signal),
        healthcheck: g.health.as_ref().map(HealthConfig::to_image),
        ..image.clone()
    }
}
