//! The container engine of one host: images, layers, containers, their shims and logs.
//!
//! Knows nothing of the swarm nor of networks: whoever embeds it supplies a [`Networking`], which
//! hands over a prepared network namespace for containers that ask for one.

mod build;
mod cdi;
pub mod config;
mod container;
mod data_root;
mod defaults;
pub mod descriptor_limit;
mod disk_usage;
pub mod dockerfile;
mod duration;
mod engine;
mod error;
mod events;
#[cfg(test)]
mod fuzz;
mod health;
mod host;
mod image;
mod log_config;
mod log_entry;
mod logs;
pub mod lsm;
mod metadata;
mod metrics;
mod modes;
mod mount;
pub mod network;
mod outflow;
mod permissions;
mod quota;
mod reserve;
mod root_lock;
pub mod runtime;
mod runtimes;
pub mod shim;
mod userns;
mod volume;
mod xattr;

pub use build::{BuildEvent, BuildRequest, CacheLimits, CacheUsage, CredentialsOf, PruneBuilds};
pub use cdi::{CDI_SPEC_DIRS, Registry as CdiRegistry};
pub use config::*;
pub use container::{
    AttachOptions, AttachSpan, Attached, Change, Commit, CopyIn, CpuUsage, ExecConfig, ExecInfo, Exit,
    FileContent, InterfaceCounters, IoUsage, MemoryUsage, MetricSource, NetworkRef, PathStat, Stats, Top,
    Usage, WaitCondition, extra_host, made_up_name,
};
pub use defaults::Defaults;
pub use duration::parse_duration;
pub use engine::{Engine, EngineOptions};
pub use error::Error;
pub use events::Event;
pub use health::{Health, HealthConfig, HealthResult, HealthStatus};
pub use host::HostInfo;
pub use image::{
    History, Image, ImageConfig, ImageUsage, Images, ImportRequest, LoadedImage, LocatedImage, Makeup, PIECE,
    Partial, Progress, PullRequest, Pulled, PushRequest, Reference, Removed, Share,
};
pub use log_config::{LOG_DRIVERS, LogConfig, LogSubject};
pub use logs::{LogFrame, LogOptions, StdStream};
pub use metrics::Metrics;
pub use modes::{cgroup_namespace, ipc_mode};
pub use mount::*;
pub use network::*;
pub use outflow::SavedArchive;
pub use root_lock::{Root, RootLocks};
pub use runtime::cgroup::real_time::available as has_real_time_groups;
pub use runtime::init_main;
pub use runtimes::*;
pub use shim::shim_main;
pub use shim::spec::HostFiles;
pub use userns::{IdMaps, IdRange};
pub use volume::{NewVolume, Pruned, Volume, Volumes};
