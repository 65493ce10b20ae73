//! The runtimes that containers can be made by: our own, and programs with the command line of an OCI runtime
//! (`runc`, `crun`, ...) that the daemon's configuration names.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Name of our own runtime.
pub const OWN: &str = "skep";

/// A program with the command line of an OCI runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalRuntime {
    /// The executable.
    pub path: PathBuf,
    /// Arguments before all others.
    pub args: Vec<String>,
}

/// What there is to choose from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtimes {
    /// Name of the one for containers that ask for none.
    pub default: String,
    /// Those beside ours, by name.
    pub external: BTreeMap<String, ExternalRuntime>,
}

impl Default for Runtimes {
    fn default() -> Self {
        Self { default: OWN.into(), external: BTreeMap::new() }
    }
}

impl Runtimes {
    /// Whether containers that ask for no runtime have ours.
    pub fn default_is_own(&self) -> bool {
        self.default == OWN
    }

    /// All names there are.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(OWN).chain(self.external.keys().map(String::as_str))
    }

    /// The program of that name; none for our own runtime. The error begins with Docker's words.
    pub fn find(&self, name: &str) -> Result<Option<&ExternalRuntime>, Error> {
        match self.external.get(name) {
            Some(found) => Ok(Some(found)),
            None if name == OWN => Ok(None),
            None => Err(Error::Invalid(format!(
                "unknown or invalid runtime name: {name}: the daemon has {} (its --add-runtime NAME=PATH names others)",
                self.names().collect::<Vec<_>>().join(", ")
            ))),
        }
    }
}
