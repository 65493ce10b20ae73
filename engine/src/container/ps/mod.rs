//! What ps(1) shows of processes, and what its arguments ask for, as procps has them: read from /proc, without ps.

mod columns;
mod layout;
mod options;
mod process;

pub(super) use options::Asked;
pub(super) use process::{Host, Process};
