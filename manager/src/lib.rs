//! Everything raft-replicated: the store, the log, the leader's logic, the services managers offer.
//! Knows nothing of Linux.

#![forbid(unsafe_code)]

mod ca;
pub mod consensus;
mod context;
pub mod control;
mod dispatcher;
pub mod logs;
pub mod raft;
pub mod store;
pub mod allocator;
pub mod leader;
pub mod orchestrator;
pub mod reaper;
pub mod restart;
pub mod scheduler;
pub mod updater;
