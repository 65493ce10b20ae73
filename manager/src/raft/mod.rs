//! Replication between managers: the encrypted log, the raft node, its membership and its transport.

pub mod state_machine;

pub use state_machine::{Encode, Rejected, StateMachine};
