//! Containers: from a configuration and an image to a supervised process, and its whole life.

mod adopt;
mod attach;
mod changes;
mod commit;
mod connect;
mod copy;
mod create;
mod files;
mod links;
mod mounts;
mod names;
mod pack;
mod prune;
mod remove;
mod resolve;
mod restart;
mod slot;
mod start;
mod stop;
mod supervise;
mod table;
mod tell;
mod wait;

pub use attach::{AttachOptions, Attached};
pub use changes::Change;
pub use commit::Commit;
pub use connect::NetworkRef;
pub use copy::{CopyIn, PathStat};
pub use wait::{Exit, WaitCondition};

pub(crate) use slot::{Life, Record};
pub(crate) use table::Table;
