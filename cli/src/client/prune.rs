//! What the prunes share: asking first, and telling what was removed.

use std::io::BufRead;

use anyhow::Result;
use serde_json::Value;

use super::human;
use super::output::{say, write};

/// Whether to go on: with `force`, or when the user says so.
pub fn confirmed(warning: &str, force: bool) -> Result<bool> {
    if force {
        return Ok(true);
    }
    write(format_args!("{warning}\nAre you sure you want to continue? [y/N] "))?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}

/// A list under its heading, if there is one, and the space it gave back.
pub fn told(heading: &str, removed: &Value, pruned: &Value) -> Result<()> {
    listed(heading, removed)?;
    freed(pruned["SpaceReclaimed"].as_i64().unwrap_or(0))
}

/// A list under its heading; nothing if it is empty.
pub fn listed(heading: &str, removed: &Value) -> Result<()> {
    let removed: Vec<&str> = removed.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if removed.is_empty() {
        return Ok(());
    }
    say!("{heading}\n{}\n", removed.join("\n"))
}

/// The last line of a prune.
pub fn freed(bytes: i64) -> Result<()> {
    say!("Total reclaimed space: {}", human::size(bytes))
}
