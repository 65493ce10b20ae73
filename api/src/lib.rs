//! The Docker Engine REST API over the engine, the data plane and the swarm.
//!
//! [`convert`] holds the pure translations between Docker's JSON and Skep's own types, `routes` one
//! file per group of operations. The daemon supplies the handles in an [`ApiState`] and calls
//! [`serve`]; [`Swarm`] is what it implements for the part that starts and stops a manager.

#![forbid(unsafe_code)]

pub mod convert;
mod error;
pub mod fields;
pub mod filters;
#[cfg(test)]
mod fuzz_tests;
mod hijack;
mod link_path;
mod path;
mod reach;
mod routes;
mod server;
mod state;
mod stdcopy;
pub mod swarm;
mod target;
mod tls;
mod under_way;
pub mod version;
mod websocket;

pub use error::{ApiError, ApiResult};
pub use routes::router;
pub use server::{Listener, ServeError, group_id, serve, serve_task};
pub use state::{ApiState, DaemonInfo};
pub use swarm::Swarm;
pub use tls::{TlsError, TlsFiles};
