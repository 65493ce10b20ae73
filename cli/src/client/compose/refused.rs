//! Commands of `docker compose` that are not served, each with the reason.

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

/// Whatever stands behind a command.
#[derive(Args)]
pub struct Anything {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _words: Vec<String>,
}

/// The commands.
#[derive(Subcommand)]
pub enum Refused {
    /// Docker's experiments
    #[command(hide = true)]
    Alpha(Anything),
    /// Models of other platforms
    #[command(hide = true)]
    Bridge(Anything),
    /// A project as an artifact of a registry
    #[command(hide = true)]
    Publish(Anything),
}

impl Refused {
    /// Says why, and what to do instead.
    pub fn refuse(&self) -> Result<()> {
        match self {
            Self::Alpha(_) => bail!(
                "compose alpha is not supported: its commands are Docker's experiments; watch, scale and --dry-run are here without it"
            ),
            Self::Bridge(_) => bail!(
                "compose bridge is not supported: it runs Docker's own transformation images; the same file runs as a stack with `skep stack deploy`"
            ),
            Self::Publish(_) => bail!(
                "compose publish is not supported: projects are not read from registries (oci://) either; push their images with `skep compose push` and hand the files on"
            ),
        }
    }
}
