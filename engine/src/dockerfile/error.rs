//! What is wrong with a Dockerfile, and where.

use std::fmt;

/// An error with its place. Lines and columns count from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
    /// What is wrong, and where it is known, what to do about it.
    pub message: String,
}

impl SyntaxError {
    pub(super) fn new(at: (usize, usize), message: impl Into<String>) -> Self {
        Self { line: at.0, column: at.1, message: message.into() }
    }
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dockerfile parse error on line {}, column {}: {}", self.line, self.column, self.message)
    }
}

impl std::error::Error for SyntaxError {}

/// ` (did you mean X?)`, where one of the known words is close to what was written.
pub(super) fn meant<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    // No more of it than any word is long.
    let written: String = written.chars().take(64).flat_map(char::to_lowercase).collect();
    let near = known.into_iter().map(|k| (strsim::osa_distance(&written, &k.to_lowercase()), k));
    match near.min().filter(|(d, k)| *d <= 2 && *d < k.len()) {
        Some((_, k)) => format!(" (did you mean {k}?)"),
        None => String::new(),
    }
}
