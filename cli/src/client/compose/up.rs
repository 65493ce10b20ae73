//! `compose up` and `compose create`.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::super::output::say;
use super::attached::{self, Attach, Ends};
use super::create::{self, Options, Recreate};
use super::image::{self, Wanted};
use super::project::Project;
use super::wait::{self, For};
use super::watch::{Rebuild, Watched};
use super::{Session, found, start};
use crate::compose::depends::{self, Condition};

/// Flags that `up` and `create` share.
#[derive(Args)]
pub struct Making {
    /// Build images before starting containers
    #[arg(long)]
    build: bool,
    /// Recreate containers even if their configuration and image haven't changed
    #[arg(long)]
    force_recreate: bool,
    /// Don't build an image, even if it's policy
    #[arg(long)]
    no_build: bool,
    /// If containers already exist, don't recreate them. Incompatible with --force-recreate.
    #[arg(long)]
    no_recreate: bool,
    /// Pull image before running ("always"|"missing"|"never")
    #[arg(long, value_name = "string", default_value = "policy", value_parser = ["policy", "always", "missing", "never", "build"])]
    pull: String,
    /// Pull without printing progress information
    #[arg(long)]
    quiet_pull: bool,
    /// Remove containers for services not defined in the Compose file
    #[arg(long)]
    remove_orphans: bool,
    /// Scale SERVICE to NUM instances. Overrides the scale setting in the Compose file if present.
    #[arg(long, value_name = "scale")]
    scale: Vec<String>,
}

/// Flags of `compose create`.
#[derive(Args)]
pub struct CreateFlags {
    #[command(flatten)]
    making: Making,
    /// Assume "yes" as answer to all prompts and run non-interactively
    #[arg(short, long)]
    yes: bool,
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

/// Flags of `compose up`.
#[derive(Args)]
pub struct UpFlags {
    #[command(flatten)]
    making: Making,
    /// Stops all containers if any container was stopped. Incompatible with -d
    #[arg(long)]
    abort_on_container_exit: bool,
    /// Stops all containers if any container exited with failure. Incompatible with -d
    #[arg(long)]
    abort_on_container_failure: bool,
    /// Recreate dependent containers. Incompatible with --no-recreate.
    #[arg(long)]
    always_recreate_deps: bool,
    /// Restrict attaching to the specified services. Incompatible with --attach-dependencies.
    #[arg(long, value_name = "stringArray")]
    attach: Vec<String>,
    /// Automatically attach to log output of dependent services
    #[arg(long)]
    attach_dependencies: bool,
    /// Detached mode: Run containers in the background
    #[arg(short, long)]
    detach: bool,
    /// Return the exit code of the selected service container. Implies --abort-on-container-exit
    #[arg(long, value_name = "string")]
    exit_code_from: Option<String>,
    /// Do not attach (stream logs) to the specified services
    #[arg(long, value_name = "stringArray")]
    no_attach: Vec<String>,
    /// Produce monochrome output
    #[arg(long)]
    no_color: bool,
    /// Enable interactive shortcuts when running attached (w: watch, d: detach); by default on a terminal
    #[arg(long, value_name = "bool", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = yes_or_no)]
    menu: Option<bool>,
    /// Don't start linked services
    #[arg(long)]
    no_deps: bool,
    /// Don't print prefix in logs
    #[arg(long)]
    no_log_prefix: bool,
    /// Don't start the services after creating them
    #[arg(long)]
    no_start: bool,
    /// Suppress the build output
    #[arg(long)]
    quiet_build: bool,
    /// Recreate anonymous volumes instead of retrieving data from the previous containers
    #[arg(short = 'V', long)]
    renew_anon_volumes: bool,
    /// Use this timeout in seconds for container shutdown when attached or when containers are already running
    #[arg(short, long, value_name = "int", allow_hyphen_values = true)]
    timeout: Option<i64>,
    /// Show timestamps
    #[arg(long)]
    timestamps: bool,
    /// Wait for services to be running|healthy. Implies detached mode.
    #[arg(long)]
    wait: bool,
    /// Maximum duration in seconds to wait for the project to be running|healthy
    #[arg(long, value_name = "int")]
    wait_timeout: Option<u64>,
    /// Watch source code and rebuild/refresh containers when files are updated.
    #[arg(short, long)]
    watch: bool,
    /// Assume "yes" as answer to all prompts and run non-interactively
    #[arg(short, long)]
    yes: bool,
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

impl Making {
    fn wanted(&self, quiet_build: bool) -> Wanted<'_> {
        Wanted {
            build: self.build || self.pull == "build",
            no_build: self.no_build,
            pull: Some(self.pull.as_str()).filter(|p| *p != "build"),
            quiet_pull: self.quiet_pull,
            quiet_build,
        }
    }

    fn options(&self, project: &Project) -> Result<Options> {
        if self.build && self.no_build {
            bail!("--build and --no-build are incompatible");
        }
        if self.force_recreate && self.no_recreate {
            bail!("--force-recreate and --no-recreate are incompatible");
        }
        let recreate = match (self.force_recreate, self.no_recreate) {
            (true, _) => Recreate::Always,
            (_, true) => Recreate::Never,
            _ => Recreate::Diverged,
        };
        let recreate_needed = if self.no_recreate { Recreate::Never } else { Recreate::Diverged };
        let mut scale = BTreeMap::new();
        for text in &self.scale {
            let read = text.split_once('=').and_then(|(n, count)| Some((n, count.parse().ok()?)));
            let (name, count) =
                read.with_context(|| format!("invalid --scale option {text:?}. Should be SERVICE=NUM"))?;
            project.service(name)?;
            scale.insert(name.to_owned(), count);
        }
        let remove_orphans = self.remove_orphans
            || project.variables.get("COMPOSE_REMOVE_ORPHANS").is_some_and(|v| v == "1" || v == "true");
        Ok(Options { recreate, recreate_needed, scale, remove_orphans, ..Options::default() })
    }
}

/// `compose create`.
pub async fn create(s: &Session<'_>, flags: CreateFlags) -> Result<()> {
    let project = s.files.load(&flags.services)?;
    let options = Options { yes: flags.yes, ..flags.making.options(&project)? };
    let services = project.selected(&flags.services, true)?;
    let targets = project.selected(&flags.services, false)?;
    image::ensure(s, &project, &services, flags.making.wanted(false)).await?;
    create::all(s, &project, &services, &targets, &options).await
}

/// `compose up`; the exit code.
pub async fn run(s: &Session<'_>, flags: UpFlags) -> Result<u8> {
    let detach = flags.detach || flags.wait;
    let aborts = flags.abort_on_container_exit || flags.exit_code_from.is_some();
    for (set, name) in [
        (flags.abort_on_container_exit, "--abort-on-container-exit"),
        (flags.abort_on_container_failure, "--abort-on-container-failure"),
        (flags.exit_code_from.is_some(), "--exit-code-from"),
        (flags.attach_dependencies, "--attach-dependencies"),
        (!flags.attach.is_empty(), "--attach"),
        (flags.watch, "--watch"),
    ] {
        if set && detach {
            bail!("{name} and {} are incompatible", if flags.wait { "--wait" } else { "--detach" });
        }
    }
    if flags.attach_dependencies && !flags.attach.is_empty() {
        bail!("cannot combine --attach and --attach-dependencies");
    }
    if flags.always_recreate_deps && flags.making.no_recreate {
        bail!("--always-recreate-deps and --no-recreate are incompatible");
    }
    let mut project = s.files.load(&flags.services)?;
    let mut options = flags.making.options(&project)?;
    (options.timeout, options.renew, options.yes) = (flags.timeout, flags.renew_anon_volumes, flags.yes);
    if flags.always_recreate_deps {
        options.recreate_needed = Recreate::Always;
    }
    let services = project.selected(&flags.services, !flags.no_deps)?;
    let targets = project.selected(&flags.services, false)?;
    if services.is_empty() {
        bail!("no service selected");
    }
    if flags.no_deps {
        project.only_needs(&services);
    }
    if let Some(name) = &flags.exit_code_from {
        project.service(name)?;
    }
    let menu = match (flags.menu, project.variables.get("COMPOSE_MENU")) {
        (Some(flag), _) => flag,
        (None, Some(text)) => {
            yes_or_no(text).map_err(|why| anyhow::anyhow!("invalid value {text:?} of COMPOSE_MENU: {why}"))?
        }
        (None, None) => true,
    };
    let watched = if flags.watch {
        Some(Watched::begin(&project, &services, Rebuild { quiet: flags.quiet_build, prune: false })?)
    } else {
        None
    };
    image::ensure(s, &project, &services, flags.making.wanted(flags.quiet_build)).await?;
    create::all(s, &project, &services, &targets, &options).await?;
    if flags.no_start {
        return Ok(0);
    }
    if s.rehearsal.is_some() && !detach {
        s.report.close();
        say!("end of 'compose up' output, interactive run is not supported in dry-run mode")?;
        return Ok(0);
    }
    if detach {
        start::all(s, &project, &services).await?;
        if flags.wait {
            waited(s, &project, &services, flags.wait_timeout).await?;
        }
        return Ok(0);
    }
    let own = |name: &String| {
        let service = project.service(name);
        let silent = service.is_ok_and(|s| s.text_of("attach") == Some("false"));
        let named = match (flags.attach.as_slice(), flags.attach_dependencies) {
            ([], false) => targets.contains(name),
            ([], true) => true,
            (list, _) => list.contains(name),
        };
        named && !silent && !flags.no_attach.contains(name)
    };
    let attach = Attach {
        shown: services.iter().filter(|n| own(n)).cloned().collect(),
        services,
        no_colour: flags.no_color,
        prefix: !flags.no_log_prefix,
        timestamps: flags.timestamps,
        timeout: flags.timeout,
        ends: match (aborts, flags.abort_on_container_failure) {
            (true, _) => Ends::First,
            (_, true) => Ends::FirstFailure,
            _ => Ends::Last,
        },
        code_from: flags.exit_code_from.clone(),
        watched,
        menu: std::io::stdout().is_terminal() && menu,
        quiet_build: flags.quiet_build,
    };
    attached::run(s, &project, attach).await
}

/// As Docker reads variables; what is neither is refused.
fn yes_or_no(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "t" | "true" | "y" | "yes" => Ok(true),
        "0" | "f" | "false" | "n" | "no" | "" => Ok(false),
        _ => Err("want true or false".into()),
    }
}

/// Waits until services are running, or healthy where they have a health check, or done where others want them done.
pub async fn waited(
    s: &Session<'_>,
    project: &Project,
    services: &[String],
    seconds: Option<u64>,
) -> Result<()> {
    let mut waits = Vec::new();
    for name in services {
        let completes = project.services().any(|(_, other)| {
            depends::of(other).iter().any(|n| n.service == *name && n.condition == Condition::Completed)
        });
        let what = if completes { For::Completed } else { For::Running };
        for container in found::of(s.api, &project.name, std::slice::from_ref(name)).await? {
            waits.push(async move { wait::container(s, &container, what).await });
        }
    }
    let all = futures::future::try_join_all(waits);
    match seconds.filter(|n| *n > 0) {
        None => all.await.map(drop),
        Some(n) => match tokio::time::timeout(Duration::from_secs(n), all).await {
            Ok(done) => done.map(drop),
            Err(_) => bail!("application not healthy after {n}s"),
        },
    }
}
