//! Which repositories there are, and what is in each.

use std::path::Path;

use super::Store;
use super::files::entries;
use crate::error::Error;
use crate::name::{is_name, is_tag};

/// Deepest path looked into: a name has at most 128 components.
const DEEPEST: usize = 130;

impl Store {
    /// All repositories that have a manifest, sorted.
    pub(crate) fn repositories(&self) -> Result<Vec<String>, Error> {
        let all = self.folders()?;
        Ok(all.into_iter().filter(|name| !self.manifests_empty(name)).collect())
    }

    fn manifests_empty(&self, name: &str) -> bool {
        entries(&self.repository(name).join("_manifests")).map_or(true, |all| all.is_empty())
    }

    /// All that has any folder of a repository's, sorted.
    pub(crate) fn folders(&self) -> Result<Vec<String>, Error> {
        let root = self.root().join("repositories");
        let mut found = Vec::new();
        let mut open = vec![(String::new(), 0)];
        while let Some((name, depth)) = open.pop() {
            let dir = if name.is_empty() { root.clone() } else { root.join(&name) };
            let all = entries(&dir)?;
            if !name.is_empty() && all.iter().any(|e| e.starts_with('_')) {
                found.push(name.clone());
            }
            for below in all.into_iter().filter(|e| !e.starts_with('_') && depth < DEEPEST) {
                let below = if name.is_empty() { below } else { format!("{name}/{below}") };
                if is_name(&below) {
                    open.push((below, depth + 1));
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// Tags of a repository, sorted; none if there is no such repository.
    pub(crate) fn tags(&self, name: &str) -> Result<Option<Vec<String>>, Error> {
        if !self.repository(name).join("_manifests").is_dir() {
            return Ok(None);
        }
        let all = entries(&self.repository(name).join("_tags"))?;
        Ok(Some(all.into_iter().filter(|t| is_tag(t)).collect()))
    }

    /// Hex digests of a repository's manifests, or of its blobs.
    pub(crate) fn links(&self, name: &str, folder: &str) -> Result<Vec<String>, Error> {
        entries(&self.repository(name).join(folder))
    }

    /// Hex digests of all blobs.
    pub(crate) fn all_blobs(&self) -> Result<Vec<String>, Error> {
        entries(&self.blobs())
    }

    /// Removes the folders of a repository that hold nothing any more, and of the path to it.
    pub(crate) fn remove_if_empty(&self, name: &str) {
        let own = self.repository(name);
        let root = self.root().join("repositories");
        for folder in entries(&own.join("_referrers")).unwrap_or_default() {
            let _ = std::fs::remove_dir(own.join("_referrers").join(folder));
        }
        for folder in ["_referrers", "_tags", "_blobs", "_manifests"] {
            let _ = std::fs::remove_dir(own.join(folder));
        }
        let mut at: &Path = &own;
        // Ends at the first that is not empty.
        while at != root && std::fs::remove_dir(at).is_ok() {
            let Some(parent) = at.parent() else { break };
            at = parent;
        }
    }
}
