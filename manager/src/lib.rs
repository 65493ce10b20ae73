//! Everything raft-replicated: the store, the log, the leader's logic, the services managers offer.
//! Knows nothing of Linux.

#![forbid(unsafe_code)]

pub mod allocator;
mod authority;
mod autolock;
pub mod autoscaler;
mod ca;
mod clock;
pub mod consensus;
mod context;
pub mod control;
pub mod cron;
mod dispatcher;
mod error;
pub mod explain;
pub mod forecast;
mod genesis;
pub mod homes;
mod images;
pub mod leader;
mod listeners;
pub mod logs;
mod manager;
mod metrics;
pub mod orchestrator;
pub mod prerequisites;
pub mod raft;
mod readdress;
pub mod reaper;
pub mod rebalancer;
mod recall;
mod replica;
pub mod restart;
pub mod scheduler;
mod services;
#[cfg(test)]
mod services_tests;
pub mod store;
pub mod tunnels;
pub mod updater;

pub use autolock::key_file;
pub use error::Error;
pub use genesis::InitOptions;
pub use manager::{Manager, ManagerOptions, Start};
pub use metrics::Metrics;
pub use raft::Timing;
