//! SIGHUP: the configuration is read again, and what dockerd changes without a restart is changed.

use super::lifetime::Lifetime;
use super::options::{Config, DaemonArgs};
use super::{Daemon, warn_of};

impl Daemon {
    /// Reads the configuration again; what cannot be read changes nothing. What may not change now waits for the next start.
    /// Answers what becomes of containers when this daemon stops.
    pub(super) fn reload(
        &self,
        args: &DaemonArgs,
        began: &Config,
        now: Lifetime,
        set_level: &impl Fn(tracing::Level),
    ) -> Lifetime {
        let config = match Config::decide(args.clone()) {
            Ok(config) => config,
            Err(e) => {
                tracing::error!(
                    error = format!("{e:#}"),
                    "SIGHUP: the configuration cannot be read; nothing changes"
                );
                return now;
            }
        };
        set_level(config.log_level);
        warn_of(&config.warnings);
        let debug = config.log_level >= tracing::Level::DEBUG;
        self.state.reload(|info| {
            info.labels.clone_from(&config.labels);
            info.debug = debug;
            info.live_restore = config.lifetime.live_restore;
        });
        if *self.engine.images().registries().options() != config.registries {
            self.engine.images().use_registries(skep_registry::Registries::new(config.registries.clone()));
        }
        self.engine.images().limit_transfers(config.transfers.downloads, config.transfers.uploads);
        let other_runtimes = *self.engine.runtimes() != config.runtimes;
        if other_runtimes {
            self.engine.use_runtimes(config.runtimes.clone());
        }
        // The node's description has the default runtime beside the labels.
        self.labels.send_if_modified(|told| {
            let changed = *told != config.labels;
            told.clone_from(&config.labels);
            changed || other_runtimes
        });
        let same = Config {
            labels: began.labels.clone(),
            log_level: began.log_level,
            registries: began.registries.clone(),
            transfers: began.transfers,
            runtimes: began.runtimes.clone(),
            lifetime: Lifetime { oom_score: config.lifetime.oom_score, ..began.lifetime },
            warnings: began.warnings.clone(),
            ..config.clone()
        };
        if same != *began {
            tracing::warn!(
                "SIGHUP: labels, log level, registries, runtimes, limits of transfers, live-restore and shutdown-timeout change now; the rest waits for a restart"
            );
        }
        self.engine.tell("daemon", "reload", &self.state.id(), attributes(&config));
        tracing::info!(level = %config.log_level, "SIGHUP: read the configuration again");
        config.lifetime
    }
}

/// What the event tells, by dockerd's names.
fn attributes(config: &Config) -> std::collections::BTreeMap<String, String> {
    let number = |n: Option<std::num::NonZeroUsize>, usual: usize| n.map_or(usual, usize::from).to_string();
    let seconds = config.lifetime.patience.map_or("-1".into(), |p| p.as_secs().to_string());
    let attempts = Some(config.registries.attempts).filter(|n| *n > 0).unwrap_or(5);
    let runtimes = config.runtimes.names().collect::<Vec<_>>().join(" ");
    let all = [
        ("debug", (config.log_level >= tracing::Level::DEBUG).to_string()),
        ("default-runtime", config.runtimes.default.clone()),
        ("insecure-registries", format!("{:?}", config.registries.insecure)),
        ("labels", format!("{:?}", config.labels)),
        ("live-restore", config.lifetime.live_restore.to_string()),
        ("max-concurrent-downloads", number(config.transfers.downloads, 3)),
        ("max-concurrent-uploads", number(config.transfers.uploads, 5)),
        ("max-download-attempts", attempts.to_string()),
        ("registry-mirrors", format!("{:?}", config.registries.mirrors)),
        ("runtimes", runtimes),
        ("shutdown-timeout", seconds),
    ];
    all.map(|(name, value)| (name.to_owned(), value)).into()
}
