//! `cargo xtask vm`: the tests of what this machine's kernel may lack (WireGuard, cgroups v2, overlayfs
//! before Linux 6.7), on Debian's kernel in a virtual machine. Part of `cargo xtask test`.
//!
//! The machine has no disk and no network: an archive is its root, two serial ports are its way out.
//! It runs on qemu's interpreter, which needs nothing of the processor, at a tenth of the speed.

mod cpio;
mod foreign;
mod image;
mod kernel;
mod machine;
mod programs;

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use clap::Args;

use self::machine::{Machine, Report};
use crate::{build, packages};

/// Several times what everything takes on two busy cores.
const LIMIT: Duration = Duration::from_secs(20 * 60);

#[derive(Args, Default)]
pub struct VmArgs {
    /// Only these test programs [default: all].
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(programs::TESTS.iter().map(|(n, _)| *n)))]
    tests: Vec<String>,
    /// A shell in the machine instead of the tests.
    #[arg(long)]
    shell: bool,
    /// Arguments for each test program: names of cases, --nocapture.
    #[arg(last = true)]
    arguments: Vec<String>,
}

pub fn run(args: VmArgs) -> Result<()> {
    packages::install(packages::LAB)?;
    packages::install(packages::TEST)?;
    packages::install(packages::VM)?;
    packages::unpack(packages::VM_UNPACKED)?;
    let dir = build::target().join("vm");
    let kernel = kernel::fetch(&dir)?;
    let all = args.tests.is_empty();
    let wanted = |name: &str| all || args.tests.iter().any(|a| a == name);
    let wanted: Vec<_> = programs::TESTS.iter().copied().filter(|(name, _)| wanted(name)).collect();
    let tests = programs::build_tests(&wanted)?;
    let names: Vec<&str> = tests.iter().map(|t| t.name).collect();
    let image = dir.join("initramfs.cpio");
    let foreign = foreign::fetch(&dir)?;
    image::write(&image, &kernel, &tests, foreign, &args.arguments)?;
    let machine = Machine { kernel: &kernel, image: &image, dir: &dir };
    if args.shell {
        return machine.shell();
    }
    println!("+ qemu: Linux {} runs {}", kernel.version, names.join(", "));
    let start = Instant::now();
    let report = machine.run(LIMIT)?;
    judge(&names, &report, args.arguments.is_empty())?;
    println!("virtual machine: all passed in {:.0} s", start.elapsed().as_secs_f32());
    Ok(())
}

/// Every test must have said that it passed; one that had no case to run proves nothing.
fn judge(names: &[&str], report: &Report, whole: bool) -> Result<()> {
    let failed: Vec<String> = names
        .iter()
        .filter_map(|name| match report.statuses.get(*name) {
            Some(0) if whole && !report.passed.contains_key(*name) => Some(format!("{name} ran no case")),
            Some(0) => None,
            Some(status) => Some(format!("{name} ended with {status}")),
            None => Some(format!("{name} did not end")),
        })
        .collect();
    if !failed.is_empty() {
        bail!("in the virtual machine: {} (its console: {})", failed.join(", "), report.console.display());
    }
    ensure!(whole || !report.passed.is_empty(), "no case has such a name");
    Ok(())
}
