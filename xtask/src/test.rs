//! `cargo xtask test`: everything that must hold before a change lands.

use anyhow::{Result, anyhow, ensure};

use crate::{build, compat, deny, packages, proto, sdks, software, vm};

/// Fetches what the tests need, unless it is there.
pub fn packages() -> Result<()> {
    packages::install(packages::LAB)?;
    packages::install(packages::TEST)?;
    packages::unpack(packages::UNPACKED)?;
    packages::compose()?;
    sdks::unpack()?;
    software::images()
}

pub fn run() -> Result<()> {
    // What is fetched keeps the network busy, what is checked and built the processors.
    std::thread::scope(|scope| {
        let packages = scope.spawn(packages);
        let built = build();
        let fetched = packages.join().map_err(|_| anyhow!("fetching packages panicked"))?;
        built.and(fetched)
    })?;
    // One that fails does not hide what the others would find.
    let failures: Vec<String> = [
        ("the tests", build::cargo(&["test", "--workspace", "--no-fail-fast"])),
        ("compatibility", compat::run(compat::CompatArgs::default())),
        ("the virtual machine", vm::run(vm::VmArgs::default())),
    ]
    .into_iter()
    .filter_map(|(what, outcome)| Some(format!("{what}: {:#}", outcome.err()?)))
    .collect();
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

/// Checks what can be checked without running it, and builds the tests.
fn build() -> Result<()> {
    proto::generate(true)?;
    deny::run()?;
    build::cargo(&["fmt", "--all", "--check"])?;
    build::cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])?;
    build::cargo(&["clippy", "--package", "skep-e2e", "--test", "vm", "--quiet", "--", "-D", "warnings"])?;
    // The end-to-end tests run the product itself: it has to be there before them.
    build::binary("skep", "skep", false)?;
    build::cargo(&["test", "--workspace", "--no-run", "--quiet"])
}
