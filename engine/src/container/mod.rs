//! Containers: from a configuration and an image to a supervised process, and its whole life.

mod adopt;
mod attach;
mod changes;
mod commit;
mod connect;
mod copy;
mod create;
mod device_requests;
mod exec;
mod files;
mod health;
mod links;
mod mounts;
mod names;
pub(crate) mod pack;
mod pause;
mod processes;
mod prune;
mod remove;
mod resolve;
mod restart;
mod sharing;
mod slot;
mod start;
mod stats;
mod stop;
mod supervise;
mod table;
mod tell;
mod top;
mod update;
mod wait;

pub use attach::{AttachOptions, Attached};
pub use changes::Change;
pub use commit::Commit;
pub use connect::NetworkRef;
pub use copy::{CopyIn, PathStat};
pub use exec::{ExecConfig, ExecInfo};
pub use names::made_up_name;
pub use stats::{CpuUsage, InterfaceCounters, IoUsage, MemoryUsage, Stats, Usage};
pub use top::Top;
pub use wait::{Exit, WaitCondition};

pub(crate) use exec::Execs;
pub(crate) use slot::{Life, Record};
pub(crate) use table::Table;
