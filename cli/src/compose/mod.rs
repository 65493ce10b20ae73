//! The front end of Compose files: from YAML to one checked tree in long forms, with the place of everything in it.
//!
//! `load` goes file by file: `yaml` reads, `interpolate` puts variables in, `shape` checks against the tables of
//! `schema`, `canonical` (with `short`) makes short forms long, `extends` resolves, `merge` joins it to the files before.
//! What a swarm makes of the tree is in `client/stacks`.

mod canonical;
mod emit;
mod env_file;
mod extends;
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
pub use interpolate::Variables;
pub use load::{Error, Options, Project, load};
pub use node::{Key, Node, Problem};
