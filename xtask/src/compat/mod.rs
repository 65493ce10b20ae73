//! `cargo xtask compat`: how much of what Docker's users rely on Skep does, by what others wrote to test Docker.
//!
//! Runs the integration tests of the crate `bollard`, a client of the Engine API, against a `skep daemon` of its own,
//! and asks that daemon for each operation of the API. Both are counted.

use anyhow::{Context, Result, bail};
use clap::Args;
use skep_e2e::registry::{Registry, RegistryOptions};
use skep_e2e::{Host, Lab, LabOptions};

use crate::{build, packages};

mod bollard;
mod images;
mod operations;
mod suite;

#[derive(Args, Default)]
pub struct CompatArgs {
    /// Run only tests with this in their name, and show what they write.
    #[arg(long)]
    only: Option<String>,
}

/// Where the images come from that the tests pull: the address they have built in.
const REGISTRY: &str = "localhost:5000";

pub fn run(args: CompatArgs) -> Result<()> {
    packages::install(packages::LAB)?;
    packages::install(packages::TEST)?;
    packages::unpack(packages::UNPACKED)?;
    let tests = bollard::tests()?;
    let skep = build::binary("skep", "skep", false)?;
    let init = build::binary("skep-lab-init", "skep-e2e", false)?;
    let lab =
        Lab::up(LabOptions { name: format!("k{}", std::process::id() % 1_000_000), hosts: 1, skep, init })?;
    let outcome = on(lab.host(1), &tests, &args);
    lab.down()?;
    outcome
}

fn on(host: &Host, tests: &[bollard::Test], args: &CompatArgs) -> Result<()> {
    let operations = operations::ask(host)?;
    let registry = Registry::start(host, REGISTRY, &RegistryOptions::default())?;
    images::push(host, REGISTRY).context("supply the images that the tests pull")?;
    host.docker(&["swarm", "init", "--advertise-addr", &host.addr])?;
    let suite = suite::run(host, tests, args.only.as_deref())?;
    drop(registry);
    println!("\nOperations of the Engine API that answer: {}/{}", operations.there, operations.all);
    for missing in &operations.missing {
        println!("  missing: {missing}");
    }
    println!("Tests of bollard {} that pass: {}/{}", bollard::VERSION, suite.passed, suite.all);
    if suite.wrong.is_empty() { Ok(()) } else { bail!("{}", suite.wrong.join("\n")) }
}
