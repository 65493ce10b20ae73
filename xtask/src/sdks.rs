//! The SDKs that `e2e/tests/sdks` drives, docker-py and dockerode: fetched from PyPI and npm in the versions, and with the
//! hashes, of the files beside that test, and unpacked below `target/tools/sdks`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::build;

/// Unpacks both, unless they are there as wanted.
pub fn unpack() -> Result<()> {
    let wanted = build::root().join("e2e/tests/sdks");
    part("python", &[wanted.join("requirements.txt")], |dir| {
        let mut pip = Command::new("pip3");
        pip.args(["install", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:"]);
        // Nothing of the host's Python is touched.
        pip.args(["--root-user-action", "ignore", "--no-compile", "--target"]).arg(dir);
        pip.args(["-r", "requirements.txt"]).current_dir(dir);
        pip
    })?;
    part("node", &[wanted.join("package.json"), wanted.join("package-lock.json")], |dir| {
        let mut npm = Command::new("npm");
        npm.args(["ci", "--silent", "--ignore-scripts", "--omit", "optional", "--no-audit", "--no-fund"]);
        npm.current_dir(dir);
        npm
    })
}

/// Makes a directory with these files and what a command adds to it; whole, or not at all.
fn part(name: &str, files: &[PathBuf], install: impl Fn(&Path) -> Command) -> Result<()> {
    let sdks = build::target().join("tools/sdks");
    let (done, scratch) = (sdks.join(name), sdks.join(format!("{name}.new")));
    let file_name = |file: &Path| file.file_name().map(ToOwned::to_owned).context("a file");
    let mut same = true;
    for file in files {
        let text = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
        same &= std::fs::read(done.join(file_name(file)?)).is_ok_and(|held| held == text);
    }
    if same {
        return Ok(());
    }
    println!("+ unpacking the tests' SDKs for {name}");
    for old in [&done, &scratch] {
        if old.exists() {
            std::fs::remove_dir_all(old)?;
        }
    }
    std::fs::create_dir_all(&scratch)?;
    for file in files {
        std::fs::copy(file, scratch.join(file_name(file)?))?;
    }
    let mut command = install(&scratch);
    let status = command.stdout(Stdio::null()).status().with_context(|| format!("run {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed ({status})");
    }
    std::fs::rename(&scratch, &done)?;
    Ok(())
}
