//! Everything raft-replicated: the store, the log, the leader's logic, the services managers offer.
//! Knows nothing of Linux.

#![forbid(unsafe_code)]

pub mod store;
pub mod raft;
