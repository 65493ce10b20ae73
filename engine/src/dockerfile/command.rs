//! Commands: the JSON form as it stands, anything else for a shell.

use super::instruction::Command;
use super::split;

/// `["a", "b"]`, or a line for the shell.
pub(super) fn read(arguments: &str) -> Command {
    match split::json(arguments) {
        Some(list) => Command::Exec(list),
        None if arguments.is_empty() => Command::Exec(Vec::new()),
        None => Command::Shell(arguments.to_owned()),
    }
}

/// A list in JSON, or words divided by blanks.
pub(super) fn list(arguments: &str) -> Vec<String> {
    split::json(arguments).unwrap_or_else(|| arguments.split_whitespace().map(str::to_owned).collect())
}
