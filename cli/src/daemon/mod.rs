//! `skep daemon` and `skep dev`: puts engine, data plane, swarm node and API together and runs them
//! until a signal. Containers outlive it.

mod address;
mod bridge;
mod defaults;
mod description;
mod file;
mod fixed;
mod hosts;
mod instance;
mod lifetime;
mod membership;
mod metrics;
mod networks;
mod node;
mod options;
mod reload;
mod runtimes;
mod transfers;
mod userns;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use skep_agent::{Attachments, Exchange, LocalNetworking};
use skep_api::swarm::{InitRequest, Swarm};
use skep_api::{ApiState, DaemonInfo, Listener, ServeError};
use skep_engine::{Engine, EngineOptions, RootLocks};
use skep_overlay::{DataPlane, DataPlaneOptions};
use tokio::signal::unix::{SignalKind, signal};

use hosts::Host;
use lifetime::Lifetime;
use node::{Node, NodeOptions};
use options::Config;
pub use options::DaemonArgs;

/// Flags of `skep dev`.
#[derive(Args, Clone, Debug, Default)]
pub struct DevArgs {
    /// Directory of all state [default: $HOME/.local/share/skep-dev]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// How much to log: trace, debug, info, warn or error
    #[arg(short = 'l', long, value_name = "LEVEL", default_value = "warn")]
    pub log_level: String,
}

/// Runs the daemon until SIGTERM or SIGINT.
pub fn run(args: DaemonArgs) -> Result<()> {
    let validates = args.validate;
    let config = Config::decide(args.clone()).with_context(|| match validates {
        true => "the configuration is not valid",
        false => "unable to configure the daemon",
    })?;
    if validates {
        config.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
        eprintln!("configuration OK");
        return Ok(());
    }
    let set_level = start_logging(config.log_level, config.raw_logs);
    warn_of(&config.warnings);
    lifetime::set_oom_score(config.lifetime.oom_score)?;
    runtime()?.block_on(async {
        let daemon = Daemon::start(config.clone()).await?;
        notify_ready();
        tracing::info!("skep {} is ready", env!("CARGO_PKG_VERSION"));
        let now = std::cell::Cell::new(config.lifetime);
        let outcome =
            daemon.until_signalled(|| now.set(daemon.reload(&args, &config, now.get(), &set_level))).await;
        let containers = match now.get() {
            Lifetime { live_restore: true, .. } => Containers::GoOn,
            Lifetime { patience, .. } => Containers::Stop(patience),
        };
        daemon.stop(containers).await;
        outcome
    })
}

/// Runs a single-node swarm in the foreground until ctrl-C, which also stops what it ran.
pub fn dev(args: DevArgs) -> Result<()> {
    let dir = match args.dir {
        Some(dir) => dir,
        None => {
            PathBuf::from(std::env::var_os("HOME").context("HOME is not set: name a directory with --dir")?)
                .join(".local/share/skep-dev")
        }
    };
    let mut config = Config::decide(DaemonArgs {
        data_root: Some(dir.join("data")),
        exec_root: Some(dir.join("run")),
        log_level: Some(args.log_level),
        // Nothing of a real node's configuration applies here.
        config_file: Some("/dev/null".into()),
        ..Default::default()
    })?;
    let _ = start_logging(config.log_level, false);
    let socket = config.exec_root.join("skep.sock");
    config.solo = true;
    runtime()?.block_on(async {
        let daemon = Daemon::start(config).await?;
        if daemon.node.local().node_id.is_empty() {
            let request = InitRequest {
                listen_addr: "127.0.0.1:0".into(),
                advertise_addr: "127.0.0.1".into(),
                ..Default::default()
            };
            daemon.node.init(request).await.map_err(|e| anyhow::anyhow!("start the single-node swarm: {e}"))?;
        }
        println!("A single-node swarm is ready. In another shell:\n\n  export DOCKER_HOST=unix://{}\n\nctrl-C stops it; its state stays in {}.", socket.display(), dir.display());
        // There is no file to read again.
        let outcome = daemon.until_signalled(|| {}).await;
        daemon.stop(Containers::Remove).await;
        outcome
    })
}

/// Until the next SIGTERM or SIGINT from now on, also before it is waited for.
fn told_again() -> impl Future<Output = ()> {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    async move {
        match signals {
            (Ok(mut term), Ok(mut int)) => {
                tokio::select! { _ = term.recv() => {} _ = int.recv() => {} }
            }
            _ => std::future::pending().await,
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("skepd")
        // Containers' trees are walked by recursion, as deep as a path can be. Only what is used takes memory.
        .thread_stack_size(16 << 20)
        .build();
    runtime.context("start the daemon's runtime")
}

/// What of a configuration has no effect, and what else it is to be told of.
fn warn_of(warnings: &[String]) {
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
}

/// Starts to log at a level; what is returned sets another. SKEP_LOG wins over both. `raw` = without colours.
pub fn start_logging(level: tracing::Level, raw: bool) -> impl Fn(tracing::Level) {
    let filter = |level: tracing::Level| {
        tracing_subscriber::EnvFilter::builder()
            .with_default_directive(level.into())
            .with_env_var("SKEP_LOG")
            .from_env_lossy()
    };
    let logger = tracing_subscriber::fmt().with_env_filter(filter(level)).with_writer(std::io::stderr);
    // Colours are for a person at a terminal: in a file or the journal they stand in the way of searching.
    let logger = logger.with_ansi(!raw && std::io::stderr().is_terminal()).with_filter_reloading();
    let handle = logger.reload_handle();
    logger.init();
    move |level| {
        if let Err(e) = handle.reload(filter(level)) {
            tracing::warn!(error = %e, "the log level stays as it is");
        }
    }
}

/// Tells systemd that the daemon is ready, where it asked to be told (sd_notify(3)).
fn notify_ready() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let sent = std::os::unix::net::UnixDatagram::unbound().and_then(|s| s.send_to(b"READY=1", &path));
    if let Err(e) = sent {
        tracing::warn!(socket = ?path, error = %e, "cannot tell systemd that the daemon is ready");
    }
}

/// Identifier of this daemon, made once and kept under its data root.
fn identifier(data_root: &std::path::Path) -> Result<String> {
    let path = data_root.join("engine-id");
    if let Ok(id) = std::fs::read_to_string(&path) {
        return Ok(id.trim().to_owned());
    }
    let id = skep_proto::ids::random(&mut rand::rng());
    std::fs::write(&path, &id).with_context(|| format!("write {}", path.display()))?;
    Ok(id)
}

/// What becomes of the containers of a daemon that stops.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Containers {
    /// They outlive it.
    GoOn,
    /// They stop, and are waited for so long; none = as long as they take.
    Stop(Option<std::time::Duration>),
    /// They stop, and nothing of their network is left.
    Remove,
}

struct Daemon {
    engine: Engine,
    plane: DataPlane,
    node: Node,
    pidfile: PathBuf,
    /// What the swarm is told.
    labels: tokio::sync::watch::Sender<Vec<String>>,
    state: ApiState,
    api: tokio::task::JoinHandle<Result<(), ServeError>>,
    stop: tokio_util::sync::CancellationToken,
}

impl Daemon {
    async fn start(config: Config) -> Result<Self> {
        let locks = RootLocks::take(&config.data_root, &config.exec_root)?;
        let descriptors = skep_engine::descriptor_limit::raise();
        // Bound before anything is started, so that a socket that cannot be had leaves nothing behind.
        let tls = config.tls.as_ref().map(skep_api::TlsFiles::acceptor).transpose()?;
        let mut listeners = Vec::with_capacity(config.hosts.len());
        for host in &config.hosts {
            listeners.push(match host {
                Host::Unix(path) => Listener::unix(path, config.group).await?,
                Host::Tcp(addr) => {
                    if tls.is_none() && !addr.ip().is_loopback() {
                        tracing::warn!(%addr, "the API is served without TLS: whoever reaches it is root on this host");
                    }
                    Listener::tcp(*addr, tls.clone()).await?
                }
            });
        }
        let metrics = match &config.metrics_addr {
            Some(addr) => Some(metrics::listen(addr).await?),
            None => None,
        };
        let instance = instance::name(&config.data_root)?;
        let helper_exe = std::env::current_exe().context("find the skep binary")?;
        let plane = DataPlane::start(DataPlaneOptions {
            data_root: config.data_root.join("network"),
            exec_root: config.exec_root.join("network"),
            instance: instance.clone(),
            helper_exe: helper_exe.clone(),
            solo: config.solo,
            default_bridge: config.bridge.clone(),
            pools: config.pools.clone(),
            without_relays: config.without_relays,
        })
        .await
        .context("start the data plane")?;
        let attachments = Attachments::default();
        let mut defaults = config.defaults.clone();
        if defaults.ulimits.iter().all(|u| u.name != "nofile") {
            defaults.ulimits.extend(descriptors);
        }
        let options = EngineOptions {
            data_root: config.data_root.clone(),
            exec_root: config.exec_root.clone(),
            instance,
            cgroup_parent: config.cgroup_parent.clone(),
            helper_exe,
            default_log: config.log.clone(),
            runtimes: config.runtimes.clone(),
            userns: config.userns.clone(),
            cdi_spec_dirs: config.cdi_spec_dirs.clone(),
            defaults,
            real_time: config.real_time,
            networking: Arc::new(LocalNetworking::new(
                plane.clone(),
                attachments.clone(),
                config.host_gateway.clone(),
            )),
        };
        let engine = Engine::open_held(options, locks).await.context("start the engine")?;
        engine.images().use_registries(skep_registry::Registries::new(config.registries.clone()));
        engine.images().limit_transfers(config.transfers.downloads, config.transfers.uploads);
        let (labels, described) = tokio::sync::watch::channel(config.labels.clone());
        let (tunnels, to_serve) = tokio::sync::mpsc::channel(16);
        let node = Node::start(NodeOptions {
            dir: config.data_root.join("swarm"),
            engine: engine.clone(),
            plane: plane.clone(),
            attachments,
            tunnels,
            labels: described,
            generic: config.generic.clone(),
            exchange: (!config.solo).then(|| Exchange::new(engine.images().clone(), config.image_share_rate)),
            allowed: config.allowed.clone(),
            advertise_addr: config.advertise_addr.clone(),
        })
        .await?;
        std::fs::write(&config.pidfile, std::process::id().to_string())
            .with_context(|| format!("write {}", config.pidfile.display()))?;
        let info = DaemonInfo {
            version: env!("CARGO_PKG_VERSION").into(),
            git_commit: crate::origin::commit().into(),
            build_time: crate::origin::built_at(),
            id: identifier(&config.data_root)?,
            data_root: config.data_root.clone(),
            labels: config.labels.clone(),
            debug: config.log_level >= tracing::Level::DEBUG,
            experimental: config.experimental,
            generic: config.generic.clone(),
            seccomp_profile: config.seccomp_profile.clone(),
            live_restore: config.lifetime.live_restore,
            network_options: config.network_options.clone(),
        };
        let sources = metrics::Sources {
            engine: engine.clone(),
            plane: plane.clone(),
            node: node.clone(),
            id: info.id.clone(),
        };
        let state = ApiState::new(engine.clone(), plane.clone(), Arc::new(node.clone()), info);
        tokio::spawn(node::tunnels::serve(to_serve, state.clone()));
        let stop = tokio_util::sync::CancellationToken::new();
        let api = tokio::spawn(skep_api::serve(listeners, state.clone(), stop.clone().cancelled_owned()));
        if let Some(listener) = metrics {
            tokio::spawn(metrics::serve(listener, sources, stop.clone()));
        }
        Ok(Self { engine, plane, node, labels, pidfile: config.pidfile, state, api, stop })
    }

    /// Until SIGTERM or SIGINT; SIGHUP only calls `reload`.
    async fn until_signalled(&self, reload: impl Fn()) -> Result<()> {
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        let mut hup = signal(SignalKind::hangup())?;
        loop {
            tokio::select! {
                _ = term.recv() => tracing::info!("SIGTERM: stopping"),
                _ = int.recv() => tracing::info!("SIGINT: stopping"),
                _ = hup.recv() => {
                    reload();
                    continue;
                }
            }
            return Ok(());
        }
    }

    /// Stops everything of the daemon.
    async fn stop(self, containers: Containers) {
        let told_again = told_again();
        self.stop.cancel();
        self.node.shutdown().await;
        match containers {
            Containers::GoOn => {}
            Containers::Stop(patience) => {
                tokio::select! {
                    () = self.engine.stop_with_daemon(patience) => {}
                    () = told_again => tracing::warn!("told to stop once more: what still runs goes on"),
                }
            }
            Containers::Remove => {
                let running = self.engine.list().into_iter().filter(|c| c.pid.is_some());
                let stops = running.map(|c| {
                    let engine = self.engine.clone();
                    async move {
                        let grace = Some(std::time::Duration::from_secs(2));
                        if let Err(e) = engine.stop(c.id.as_str(), grace).await {
                            tracing::warn!(container = %c.name, error = %e, "could not be stopped");
                        }
                    }
                });
                futures::future::join_all(stops).await;
            }
        }
        match tokio::time::timeout(std::time::Duration::from_secs(2), self.api).await {
            Ok(Ok(Err(e))) => tracing::error!(error = %e, "the API ended with an error"),
            Ok(Err(e)) => tracing::error!(error = %e, "the API task ended"),
            Ok(Ok(Ok(()))) | Err(_) => {}
        }
        self.engine.shutdown().await;
        if containers != Containers::Remove {
            self.plane.shutdown().await;
        } else if let Err(e) = self.plane.uninstall().await {
            tracing::warn!(error = %e, "the data plane could not be taken down");
        }
        if let Err(e) = std::fs::remove_file(&self.pidfile) {
            tracing::warn!(pidfile = %self.pidfile.display(), error = %e, "cannot remove the pidfile");
        }
    }
}
