//! The shim: one small process per container that owns its stdio, log, exit status and cgroup.

pub mod spec;

pub use spec::*;
