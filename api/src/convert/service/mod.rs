//! Services: `ServiceSpec` read from and written to Docker's JSON.

mod read;
mod read_container;
mod write;

pub use read::read;
pub use write::{service, spec, status, task_template};

#[cfg(test)]
mod tests;
