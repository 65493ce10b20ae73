//! `cargo xtask test`: everything that must hold before a change lands.

use anyhow::Result;

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
    self::packages()?;
    proto::generate(true)?;
    deny::run()?;
    build::cargo(&["fmt", "--all", "--check"])?;
    build::cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])?;
    build::cargo(&["clippy", "--package", "skep-e2e", "--test", "vm", "--quiet", "--", "-D", "warnings"])?;
    // The end-to-end tests run the product itself: it has to be there before them.
    build::binary("skep", "skep", false)?;
    build::cargo(&["test", "--workspace", "--no-fail-fast"])?;
    compat::run(compat::CompatArgs::default())?;
    vm::run(vm::VmArgs::default())
}
