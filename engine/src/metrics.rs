//! What the engine counts and times, under the names and with the help texts of Docker's daemon. An observation is
//! a few atomic additions; everything that can be read off the state instead is read when somebody asks.

use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry};

const PREFIX: &str = "engine_daemon_";

/// The engine's own counters and timers. Cheap to clone; clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    pub(crate) container: ContainerActions,
    pub(crate) network: NetworkActions,
    pub(crate) image: ImageActions,
    pub(crate) events: IntCounter,
    pub(crate) health_checks: IntCounter,
    pub(crate) health_checks_failed: IntCounter,
    /// From when a check is due until its command runs.
    pub(crate) health_check_start: Histogram,
    pub(crate) image_deletes: IntCounter,
    pub(crate) image_deletes_failed: IntCounterVec,
}

/// Timers of what is done to containers; only what succeeds counts.
#[derive(Clone, Debug)]
pub(crate) struct ContainerActions {
    pub start: Histogram,
    pub changes: Histogram,
    pub commit: Histogram,
    pub create: Histogram,
    pub delete: Histogram,
}

/// Timers of containers' networks.
#[derive(Clone, Debug)]
pub(crate) struct NetworkActions {
    pub allocate: Histogram,
    pub connect: Histogram,
    pub release: Histogram,
}

/// Timers of images.
#[derive(Clone, Debug)]
pub(crate) struct ImageActions {
    pub pull: Histogram,
    pub push: Histogram,
    pub delete: Histogram,
}

impl Metrics {
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let container = timers(
            &registry,
            "container_actions",
            "The number of seconds it takes to process each container action",
        )?;
        let network = timers(
            &registry,
            "network_actions",
            "The number of seconds it takes to process each network action",
        )?;
        let image = timers(
            &registry,
            "image_actions",
            "The number of seconds it takes to process each image action",
        )?;
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(format!("{PREFIX}{name}_total"), help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let health_check_start = Histogram::with_opts(HistogramOpts::new(
            format!("{PREFIX}health_check_start_duration_seconds"),
            "The number of seconds it takes to prepare to run health checks",
        ))?;
        registry.register(Box::new(health_check_start.clone()))?;
        let image_deletes_failed = IntCounterVec::new(
            Opts::new(
                format!("{PREFIX}image_deletes_failed_total"),
                "The total number of failed image deletions",
            ),
            &["reason"],
        )?;
        registry.register(Box::new(image_deletes_failed.clone()))?;
        Ok(Self {
            container: ContainerActions {
                start: container("start")?,
                changes: container("changes")?,
                commit: container("commit")?,
                create: container("create")?,
                delete: container("delete")?,
            },
            network: NetworkActions {
                allocate: network("allocate")?,
                connect: network("connect")?,
                release: network("release")?,
            },
            image: ImageActions { pull: image("pull")?, push: image("push")?, delete: image("delete")? },
            events: counter("events", "The number of events logged")?,
            health_checks: counter("health_checks", "The total number of health checks")?,
            health_checks_failed: counter(
                "health_checks_failed",
                "The total number of failed health checks",
            )?,
            health_check_start,
            image_deletes: counter("image_deletes", "The total number of image deletion attempts")?,
            image_deletes_failed,
            registry: registry.clone(),
        })
    }

    /// All of it, to be gathered.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }
}

/// Makes the timers of a family, one for each action.
fn timers(
    registry: &Registry,
    name: &str,
    help: &str,
) -> Result<impl Fn(&str) -> Result<Histogram, prometheus::Error>, prometheus::Error> {
    let family = HistogramVec::new(HistogramOpts::new(format!("{PREFIX}{name}_seconds"), help), &["action"])?;
    registry.register(Box::new(family.clone()))?;
    Ok(move |action: &str| family.get_metric_with_label_values(&[action]))
}
