//! `--build-context`: contexts by names. Those that the daemon finds by itself are told to it; directories and images of
//! layouts are sent along with the context. <https://docs.docker.com/reference/cli/docker/buildx/build/#build-context>

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::context::{is_far, slashes};
use super::layout::{self, Layout};

/// What is sent along, as a context of its own.
pub(super) struct Along {
    pub(super) what: Beside,
    /// Where in the archive it is.
    pub(super) at: PathBuf,
}

/// What it is.
pub(super) enum Beside {
    Directory(PathBuf),
    Layout(Layout),
}

/// Reads `NAME=VALUE` of other contexts: what the daemon is told of them, and what is sent along.
pub(super) fn named(given: &[String]) -> Result<(BTreeMap<String, String>, Vec<Along>)> {
    let (mut told, mut along) = (BTreeMap::new(), Vec::new());
    // Whatever the context has, it has nothing of that name.
    let unused = format!(".skep-context-{:016x}", rand::random::<u64>());
    for text in given {
        let read = text.split_once('=').filter(|(name, value)| !name.is_empty() && !value.is_empty());
        let (name, value) =
            read.with_context(|| format!("invalid context value: {text}, expected key=value"))?;
        let mut send = |kind: &str, what| {
            let at = PathBuf::from(format!("{unused}-{}", along.len()));
            let told = format!("{kind}:{}", slashes(&at));
            along.push(Along { what, at });
            told
        };
        let value = if let Some(layout) = value.strip_prefix(layout::SCHEME) {
            let found =
                Layout::find(layout).with_context(|| format!("failed to get build context {name}"))?;
            send("layout", Beside::Layout(found))
        } else if value.contains("://") || is_far(value) {
            value.to_owned()
        } else {
            let root = Path::new(value);
            if !root.is_dir() {
                bail!("failed to get build context {name}: {value:?} not found or not a directory");
            }
            send("sent", Beside::Directory(fs::canonicalize(root)?))
        };
        told.insert(name.to_owned(), value);
    }
    Ok((told, along))
}
