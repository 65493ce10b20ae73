//! Containers: from a configuration and an image to a supervised process, and its whole life.

mod adopt;
mod attach;
mod create;
mod files;
mod names;
mod remove;
mod resolve;
mod restart;
mod slot;
mod start;
mod stop;
mod supervise;
mod table;
mod tell;
mod volumes;
mod wait;

pub use attach::{AttachOptions, Attached};
pub use wait::{Exit, WaitCondition};

pub(crate) use slot::{Life, Record};
pub(crate) use table::Table;
