//! Docker's JSON on one side, the engine's and the swarm's own types on the other. Pure.

pub mod cluster;
pub mod container;
pub mod dependency;
pub mod file_mode;
pub mod image;
pub mod mounts;
pub mod names;
pub mod network;
pub mod node;
pub mod service;
pub mod task;
pub mod time;
pub mod volume;

use serde_json::Value;

/// An object's `Version`.
pub fn version(meta: Option<&skep_proto::v1::Meta>) -> Value {
    serde_json::json!({ "Index": meta.map_or(0, |m| m.version) })
}

/// An object's `CreatedAt`.
pub fn created(meta: Option<&skep_proto::v1::Meta>) -> String {
    time::from_ms(meta.map_or(0, |m| m.created_at_ms))
}

/// An object's `UpdatedAt`.
pub fn updated(meta: Option<&skep_proto::v1::Meta>) -> String {
    time::from_ms(meta.map_or(0, |m| m.updated_at_ms))
}
