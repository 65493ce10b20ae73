//! The Docker Engine REST API over the engine, the data plane and the swarm.
//!
//! [`convert`] holds the pure translations between Docker's JSON and Skep's own types, `routes` one
//! file per group of operations. The daemon supplies the handles in an [`ApiState`].

#![forbid(unsafe_code)]

pub mod convert;
mod error;
pub mod fields;
pub mod filters;
mod stdcopy;
pub mod swarm;
pub mod version;

pub use error::{ApiError, ApiResult};
