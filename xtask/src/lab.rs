//! `cargo xtask lab`: a laboratory that stays up between commands.

use anyhow::Result;
use clap::Subcommand;
use skep_e2e::{Lab, LabOptions};

use crate::{build, packages};

#[derive(Subcommand)]
pub enum LabCommand {
    /// Start hosts, each with its own daemon, joined by a bridge.
    Up {
        /// How many hosts.
        #[arg(long, default_value_t = 3)]
        hosts: u32,
        /// Use the release build.
        #[arg(long)]
        release: bool,
    },
    /// Remove every trace.
    Down,
    /// Pull a host's plug: every process of it dies at once.
    Kill {
        /// Host number.
        host: u32,
    },
    /// Unplug a host's network cable.
    Cut {
        /// Host number.
        host: u32,
    },
    /// Plug a host's network cable in again.
    Heal {
        /// Host number.
        host: u32,
    },
    /// Boot a dead host again, or restart the daemon of one that lives.
    Restart {
        /// Host number.
        host: u32,
    },
    /// Show each host's address and DOCKER_HOST.
    Show,
}

/// The laboratory of this command has one name; tests make others.
const NAME: &str = "xtask";

pub fn run(command: LabCommand) -> Result<()> {
    match command {
        LabCommand::Up { hosts, release } => {
            packages::install(packages::LAB)?;
            let skep = build::binary("skep", "skep", release)?;
            let init = build::binary("skep-lab-init", "skep-e2e", release)?;
            let lab = Lab::up(LabOptions { name: NAME.into(), hosts, skep, init })?;
            show(&lab);
            lab.keep()
        }
        LabCommand::Down => Lab::open(NAME)?.down(),
        LabCommand::Kill { host } => Lab::open(NAME)?.kill(host),
        LabCommand::Cut { host } => Lab::open(NAME)?.cut(host),
        LabCommand::Heal { host } => Lab::open(NAME)?.heal(host),
        LabCommand::Restart { host } => Lab::open(NAME)?.restart(host),
        LabCommand::Show => {
            show(&Lab::open(NAME)?);
            Ok(())
        }
    }
}

fn show(lab: &Lab) {
    for host in lab.hosts() {
        let state = if host.init.is_some() { "" } else { "  (dead)" };
        println!("host {}  {}  export DOCKER_HOST={}{state}", host.number, host.addr, host.docker_host());
    }
}
