//! Containers: the body of `create` read, and `inspect` and `ps` written.

mod health;
mod host_config;
mod inspect;
mod networking;
mod read;
mod resources;
mod select;
mod stats;
mod summary;
#[cfg(test)]
mod tests;

pub use health::{config as health_json, read_health};
pub use host_config::{log_config, read_host_config};
pub use inspect::inspect;
pub use networking::{check_join, check_port_key, read_join, read_network};
pub use read::{Create, read};
pub use resources::{read_ulimits, read_update};
pub(crate) use select::TASK_LABEL;
pub use select::{FILTERS, Select};
pub use stats::stats;
pub use summary::{human_duration, summary};
