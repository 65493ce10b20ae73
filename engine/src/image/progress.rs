//! What a pull or a push says of itself, as Docker's clients show it.

use serde_json::Value;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A line of its own; `about` is what it begins with, if anything.
    Line {
        /// A tag or digest.
        about: Option<String>,
        /// The words.
        text: String,
    },
    /// Where a layer has got to.
    Layer {
        /// First 12 characters of its digest.
        id: String,
        /// `Downloading`, `Pull complete`, ...
        text: String,
        /// Bytes done and bytes in all.
        bytes: Option<(u64, u64)>,
    },
    /// A result for programs.
    Aux(Value),
}

impl Progress {
    pub(super) fn line(text: impl Into<String>) -> Self {
        Self::Line { about: None, text: text.into() }
    }

    pub(super) fn layer(id: &str, text: impl Into<String>) -> Self {
        Self::Layer { id: short(id).to_owned(), text: text.into(), bytes: None }
    }

    pub(super) fn bytes(id: &str, text: &str, done: u64, all: u64) -> Self {
        Self::Layer { id: short(id).to_owned(), text: text.to_owned(), bytes: Some((done, all)) }
    }
}

fn short(digest: &str) -> &str {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    hex.get(..12).unwrap_or(hex)
}
