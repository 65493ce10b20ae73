//! Replication between managers: the encrypted log, the raft node, its membership and its transport.

mod codec;
mod core;
pub mod disk;
mod error;
mod freeze;
mod grpc;
mod handle;
mod lacking;
pub mod log;
mod logger;
mod members;
mod membership;
mod node;
mod reads;
mod ready;
mod service;
pub mod state_machine;
mod status;
mod storage;
mod transport;
mod waiter;

pub use codec::BadMessage;
pub use error::{MembershipError, ProposeError, ReadError, StartError};
pub use grpc::{Connect, GrpcTransport, MESSAGE_LIMIT};
pub use handle::Raft;
pub use node::{Clock, RaftOptions, Start, Timing};
pub use service::{Authorize, Decide, LEADER, RaftService};
pub use state_machine::{Encode, Rejected, StateMachine};
pub use status::{Leadership, MemberStatus, RaftStatus, Role};
pub use transport::{Reports, Transport};
