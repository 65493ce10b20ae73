//! A laboratory of Skep hosts on one machine: each host has its own network, process, host-name and
//! mount namespaces and its own `skep daemon`; a switch (a bridge in a namespace of its own) joins them.
//!
//! The same laboratory serves `cargo xtask lab` and the tests of this crate. It sees only the binary.

mod busybox;
mod capture;
mod exposition;
mod host;
mod lab;
mod load;
mod raw;
pub mod registry;
mod signing_server;
pub mod swarm;
pub mod tally;
mod terminal;
mod wait;
mod whoami;

pub use busybox::{busybox_image, busybox_image_of};
pub use capture::Capture;
pub use exposition::{Exposition, Sample};
pub use host::Host;
pub use lab::{Lab, LabOptions};
pub use load::{Load, Outcome};
pub use raw::Answer;
pub use signing_server::SigningServer;
pub use terminal::Terminal;
pub use wait::{eventually, eventually_some};
pub use whoami::{whoami_image, whoami_image_with_busybox};
