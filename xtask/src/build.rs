//! Building the binaries that the other chores use.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Root of the workspace.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the workspace")
}

/// Runs cargo in the workspace; fails when it does.
pub fn cargo(args: &[&str]) -> Result<()> {
    println!("+ cargo {}", args.join(" "));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo).args(args).current_dir(root()).status().context("run cargo")?;
    if !status.success() {
        bail!("cargo {} failed ({status})", args.join(" "));
    }
    Ok(())
}

/// Where cargo puts what it builds.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Where the binary `name` is, once built.
pub fn binary_path(name: &str, release: bool) -> PathBuf {
    let profile = if release { "release" } else { "debug" };
    target().join(TARGET).join(profile).join(name)
}

/// Builds the binaries; the path of `name` among them.
pub fn binary(name: &str, package: &str, release: bool) -> Result<PathBuf> {
    // Debug builds are those of the tests, whose dependencies have the features of the whole workspace: not built twice.
    let args = if release {
        vec!["build", "--quiet", "--package", package, "--bin", name, "--release"]
    } else {
        vec!["build", "--quiet", "--workspace", "--bin", name]
    };
    cargo(&args)?;
    let path = binary_path(name, release);
    if !path.exists() {
        bail!("cargo built no {}", path.display());
    }
    Ok(path)
}
