//! Builds: from a Dockerfile and its context to an image. Stages that do not need each other run side by side, those that
//! the target does not need do not run. Each step that makes a layer is kept for the next build ([`cache`]).

mod arguments;
mod cache;
mod caches;
mod context;
mod copy;
mod fetch;
mod layer;
mod left_out;
mod mounts;
mod output;
mod plan;
mod run;
mod settings;
mod shared;
mod stage;
mod step;

use std::collections::BTreeMap;
use std::sync::Arc;

use skep_registry::{Credentials, Platform};
use tokio::io::AsyncRead;

pub use cache::{BuildCache, CacheUsage, PruneBuilds};
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
    /// Path of the Dockerfile in the context.
    pub dockerfile: String,
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
    /// Base images are asked for anew.
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
    /// Secrets by their IDs, for `RUN --mount=type=secret`.
    pub secrets: BTreeMap<String, Vec<u8>>,
    /// `RUN --security=insecure` is allowed.
    pub allow_insecure: bool,
    /// Leave the container of a `RUN` that failed.
    pub keep_failed: bool,
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
        let mut context = context::Context::receive(self.root().temporary(), context).await?;
        let text = context.dockerfile(&request.dockerfile).await?;
        context.take_away(&request.dockerfile).await?;
        let plan = plan::Plan::new(&text, &request).map_err(|e| e.of(&request.dockerfile))?;
        stage::run(self.clone(), request, Arc::new(context), plan, output).await
    }
}
