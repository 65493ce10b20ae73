//! The engine's state in figures, as Docker's daemon has them.

use prometheus::proto::MetricFamily;

use super::{Snapshot, Sources};

pub(super) fn read(sources: &Sources) -> Result<Vec<MetricFamily>, prometheus::Error> {
    let host = sources.engine.info();
    let arch = if host.arch == "x86_64" { "amd64" } else { &host.arch };
    let s = Snapshot::default();
    s.info(
        "engine_daemon_engine_info",
        "The information related to the engine and the OS it is running on",
        &[
            ("version", env!("CARGO_PKG_VERSION")),
            ("commit", crate::origin::commit()),
            ("architecture", arch),
            ("graphdriver", &host.storage_driver),
            ("kernel", &host.kernel),
            ("os", &host.os),
            ("os_type", "linux"),
            ("os_version", ""),
            ("daemon_id", &sources.id),
        ],
    )?;
    s.gauge(
        "engine_daemon_engine_cpus_cpus",
        "The number of cpus that the host system of the engine has",
        host.ncpu as f64,
    )?;
    s.gauge(
        "engine_daemon_engine_memory_bytes",
        "The number of bytes of memory that the host system of the engine has",
        host.mem_total as f64,
    )?;
    s.gauges(
        ("engine_daemon_container_states_containers", "The count of containers in various states", "state"),
        [("running", host.running as f64), ("paused", host.paused as f64), ("stopped", host.stopped as f64)],
    )?;
    s.gauge(
        "engine_daemon_events_subscribers_total",
        "The number of current subscribers to events",
        sources.engine.listeners() as f64,
    )?;
    s.gauge("skep_engine_images", "The number of images", host.images as f64)?;
    Ok(s.families())
}
