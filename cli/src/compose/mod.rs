//! The front end of Compose files: from YAML to one checked tree in long forms, with the place of everything in it.
//!
//! `load` goes file by file: `yaml` reads, `interpolate` puts variables in, `shape` checks against the tables of
//! `schema`, `canonical` (with `short`) makes short forms long, `include` and `extends` resolve, `merge` joins it to the
//! files before. What a swarm makes of the tree is in `client/stacks`, what one host makes of it in `client/compose`.

mod canonical;
pub mod depends;
pub mod dotenv;
mod emit;
mod env_file;
mod extends;
#[cfg(test)]
mod fuzz;
mod include;
mod interpolate;
mod load;
mod merge;
mod node;
mod references;
mod schema;
mod shape;
mod short;
#[cfg(test)]
mod tests;
pub mod units;
mod yaml;

pub use emit::document as to_yaml;
pub use interpolate::{Used, Variables, used};
pub use load::{Dialect, Error, Options, Project, declared_name, directory, load};
pub use node::{At, Key, Kind, Node, Problem, Type};

/// Puts a project into the order of the schema.
pub fn sort(root: &mut Node) {
    shape::sort(root, &schema::FILE);
}
