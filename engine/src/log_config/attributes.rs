//! What is told with each message: the tag, and the labels and variables asked for.

use std::collections::BTreeMap;

use regex::Regex;

use super::{LogConfig, tag};

/// What Docker tags messages with unless told otherwise.
const DEFAULT_TAG: &str = "{{.ID}}";

/// The container whose messages they are.
#[derive(Clone, Debug, Default)]
pub struct LogSubject {
    /// Its ID.
    pub id: String,
    /// Its name, without a slash.
    pub name: String,
    /// Digest of its image's configuration.
    pub image_id: String,
    /// The image as it was asked for.
    pub image_name: String,
    /// The command.
    pub argv: Vec<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its environment.
    pub env: Vec<String>,
}

/// Refuses expressions and tags that cannot be read.
pub(super) fn check(options: &BTreeMap<String, String>) -> Result<(), String> {
    for name in ["labels-regex", "env-regex"] {
        regex(options, name)?;
    }
    options.get("tag").map_or(Ok(()), |t| tag::check(t))
}

fn regex(options: &BTreeMap<String, String>, name: &str) -> Result<Option<Regex>, String> {
    let given = options.get(name).filter(|v| !v.is_empty());
    given.map(|v| Regex::new(v).map_err(|e| format!("{name}={v:?}: {e}"))).transpose()
}

impl LogConfig {
    /// The tag of a container's messages.
    pub(crate) fn tag(&self, of: &LogSubject) -> Result<String, String> {
        let asked = self.options.get("tag").filter(|t| !t.is_empty());
        tag::expand(asked.map_or(DEFAULT_TAG, String::as_str), of)
    }

    /// The labels and variables that are told.
    pub(crate) fn attributes(&self, of: &LogSubject) -> Result<BTreeMap<String, String>, String> {
        let mut out = BTreeMap::new();
        let env = of.env.iter().filter_map(|e| e.split_once('='));
        let labels = of.labels.iter().map(|(k, v)| (k.as_str(), v.as_str()));
        let all: [(&str, Vec<(&str, &str)>); 2] = [("labels", labels.collect()), ("env", env.collect())];
        for (option, there) in all {
            let names: Vec<&str> = self.options.get(option).map_or(Vec::new(), |v| v.split(',').collect());
            let pattern = regex(&self.options, &format!("{option}-regex"))?;
            for (key, value) in there {
                if names.contains(&key) || pattern.as_ref().is_some_and(|p| p.is_match(key)) {
                    out.insert(key.to_owned(), value.to_owned());
                }
            }
        }
        // In files, only a tag that was asked for.
        if !self.is_remote() && self.options.get("tag").is_some_and(|t| !t.is_empty()) {
            out.insert("tag".into(), self.tag(of)?);
        }
        Ok(out)
    }
}
