//! Volumes: directories that outlive the containers that use them.

mod copy;
mod local;
mod mounted;
mod store;

pub use store::{NewVolume, Pruned, Volume, Volumes};
