//! Builds: from a Dockerfile and its context to an image. Stages that do not need each other run side by side, those that
//! the target does not need do not run. Each step that makes a layer is kept for the next build ([`cache`]).

mod arguments;
mod authorization;
mod begin;
mod cache;
mod cache_from;
mod caches;
mod context;
mod copy;
mod credentials;
mod debug;
mod fetch;
mod files;
mod git;
mod layer;
mod left_out;
mod mounts;
mod named;
mod output;
mod plan;
mod run;
mod settings;
mod shared;
mod squash;
mod ssh;
mod stage;
mod step;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use skep_registry::{Credentials, Platform};
use tokio::io::AsyncRead;

pub use cache::{BuildCache, CacheLimits, CacheUsage, PruneBuilds};
pub use output::BuildEvent;
pub(crate) use settings::apply as apply_setting;

use crate::config::{NetworkMode, ResourceLimits, UlimitConfig};
use crate::engine::Engine;
use crate::error::Error;
use crate::image::Reference;
use output::Output;

/// Gives the credentials of a registry's host.
pub type CredentialsOf = Arc<dyn Fn(&str) -> Credentials + Send + Sync>;

/// What is to be built, and how.
#[derive(Clone)]
pub struct BuildRequest {
    /// Where the context is fetched from; none = it is sent.
    pub remote: Option<String>,
    /// Contexts beside it, by their names: `docker-image://REFERENCE`, a URL, a repository, or, of what the context is sent
    /// with, `sent:PATH` of a directory and `layout:PATH` of an OCI image layout.
    pub contexts: BTreeMap<String, String>,
    /// Path of the Dockerfile in the context.
    pub dockerfile: String,
    /// Path of the file in a context that is sent by which the client left files out; none = `.dockerignore`.
    pub dockerignore: Option<String>,
    /// Names of the image.
    pub tags: Vec<Reference>,
    /// The stage to stop at; none = the last one.
    pub target: Option<String>,
    /// Build arguments; none = as the daemon's environment has them not, which is unset.
    pub args: BTreeMap<String, Option<String>>,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
    /// Nothing is taken from earlier builds.
    pub no_cache: bool,
    /// Images that steps are taken from besides, by their references or IDs. None of them need be there.
    pub cache_from: Vec<String>,
    /// Base images, and those of `cache_from`, are asked for anew.
    pub pull: bool,
    /// Platform of base images; none = this host's.
    pub platform: Option<Platform>,
    /// Network of `RUN`.
    pub network: NetworkMode,
    /// `name:IP` lines for /etc/hosts of `RUN`.
    pub extra_hosts: Vec<String>,
    /// Limits of `RUN`.
    pub resources: ResourceLimits,
    /// Limits of `RUN`, per process.
    pub ulimits: Vec<UlimitConfig>,
    /// Bytes of /dev/shm.
    pub shm_size: Option<u64>,
    /// Cgroup that those of `RUN` are made in.
    pub cgroup_parent: Option<String>,
    /// `--security-opt` of `RUN`.
    pub security_options: Vec<String>,
    /// Secrets by their IDs, for `RUN --mount=type=secret`, and for servers that want to know who fetches ([`authorization`]).
    pub secrets: BTreeMap<String, Vec<u8>>,
    /// `RUN --security=insecure` is allowed.
    pub allow_insecure: bool,
    /// `RUN --network=host` is allowed; where `network` is the host's, it is so anyway.
    pub allow_host_network: bool,
    /// Leave the containers of all `RUN`s that succeeded.
    pub keep_all: bool,
    /// Leave the container of a `RUN` that failed.
    pub keep_failed: bool,
    /// The image has one layer over what its last stage begins with.
    pub squash: bool,
    /// Agents of ssh(1) that the client forwards, by their IDs, for `RUN --mount=type=ssh`.
    pub agents: BTreeSet<String>,
    /// A step that fails waits for whoever asked to look at its state, in a shell.
    pub debug: bool,
    /// That shell has a terminal.
    pub debug_tty: bool,
    /// As whom base images are pulled.
    pub credentials: CredentialsOf,
}

impl Engine {
    /// Builds; the image's ID. What happens meanwhile goes to `output`. Dropped before its end, what is under way ends.
    pub async fn build(
        &self,
        request: BuildRequest,
        context: impl AsyncRead + Send + Unpin,
        output: tokio::sync::mpsc::Sender<BuildEvent>,
    ) -> Result<String, Error> {
        let output = Output::new(output);
        let along = request.contexts.values().any(|c| named::is_sent(c));
        let (context, mut sent) = match &request.remote {
            None => (context::Context::receive(self.root().temporary(), context).await?, None),
            Some(url) => {
                let sent = match along {
                    true => Some(context::Context::receive(self.root().temporary(), context).await?),
                    false => None,
                };
                let keep_git = arguments::keeps_git_dir(&request)?;
                (
                    context::Context::fetch(self, url, &request.secrets, &request.dockerfile, keep_git)
                        .await?,
                    sent,
                )
            }
        };
        let (context, text) = context.dockerfile(&request.dockerfile).await?;
        let mut context = context.take_away(&request).await?;
        let with = sent.as_mut().unwrap_or(&mut context);
        let named = named::gather(self, &request, with).await?;
        let plan = plan::Plan::new(&text, &request).map_err(|e| e.of(&request.dockerfile))?;
        let built = stage::run(self.clone(), request, (Arc::new(context), named), plan, output).await;
        if built.is_err()
            && let Err(e) = self.images().settle().await
        {
            tracing::warn!(error = %e, "what a build has made before it failed is not kept for the next");
        }
        built
    }
}
