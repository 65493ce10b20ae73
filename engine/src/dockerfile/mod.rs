//! The Dockerfile front end: text into instructions that know where they were written. Nothing in here looks at
//! files, images or the network. Grammar: <https://docs.docker.com/reference/dockerfile/>.

mod command;
mod error;
mod expand;
mod flags;
#[cfg(test)]
mod fuzz;
mod glob;
mod healthcheck;
mod heredoc;
mod ignore;
mod instruction;
mod lines;
mod mount;
mod parse;
mod split;
#[cfg(test)]
mod tests;

pub use error::SyntaxError;
pub use expand::Expander;
pub use glob::Glob;
pub use heredoc::Heredoc;
pub use ignore::Ignore;
pub use instruction::{Command, Copy, Dockerfile, FromImage, Instruction, Kind, Run, Security};
pub use mount::{Mount, MountKind};
pub use parse::{parse, parse_instructions, parse_one};
