//! `cargo xtask deny`: whether everything Skep is built from is what `deny.toml` allows.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::build;

/// The version that is built where there is none.
const VERSION: &str = "0.20.2";

/// Checks licences, banned crates and sources. Not advisories: see `deny.toml`.
pub fn run() -> Result<()> {
    let tool = tool()?;
    println!("+ cargo deny check licenses bans sources");
    let status = Command::new(&tool)
        .args(["--workspace", "check", "--hide-inclusion-graph", "licenses", "bans", "sources"])
        .current_dir(build::root())
        .status()
        .with_context(|| format!("run {}", tool.display()))?;
    if !status.success() {
        bail!("a dependency is not what deny.toml allows ({status})");
    }
    Ok(())
}

/// cargo-deny: the one on PATH, or else one built under `target` (once; two minutes of processor time).
fn tool() -> Result<PathBuf> {
    const NAME: &str = "cargo-deny";
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(found) = std::env::split_paths(&path).map(|dir| dir.join(NAME)).find(|p| p.is_file()) {
        return Ok(found);
    }
    let home = build::target().join("tools");
    let built = home.join("bin").join(NAME);
    if !built.is_file() {
        let root = home.to_str().context("the path of target/ is not UTF-8")?;
        // Its features would fetch advisories. A debug build takes a third of the time and runs in a second.
        build::cargo(&[
            "install",
            NAME,
            "--version",
            VERSION,
            "--locked",
            "--no-default-features",
            "--debug",
            "--root",
            root,
        ])?;
    }
    Ok(built)
}
