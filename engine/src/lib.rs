//! The container engine of one host: images, layers, containers, their shims and logs.
//!
//! Knows nothing of the swarm nor of networks: whoever embeds it supplies a [`Networking`], which
//! hands over a prepared network namespace for containers that ask for one.

pub mod config;
pub mod network;
pub mod shim;

pub use config::*;
pub use network::*;
