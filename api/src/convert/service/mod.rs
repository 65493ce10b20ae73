//! Services: `ServiceSpec` read from and written to Docker's JSON.

mod defaults;
mod extras;
mod read;
mod read_container;
mod run;
mod write;

pub use defaults::insert as insert_defaults;
pub use extras::data_nodes;
pub use read::read;
pub use write::{service, spec, status, task_template};

#[cfg(test)]
mod tests;
