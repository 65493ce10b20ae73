//! Gets the `bollard` crate with its tests from crates.io, and builds them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::build;

/// The version whose tests are run.
pub const VERSION: &str = "0.21.1";

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// One test.
pub struct Test {
    /// `file::name`.
    pub name: String,
    /// The program it is in.
    pub program: PathBuf,
}

/// Every test of the package that needs no optional feature.
pub fn tests() -> Result<Vec<Test>> {
    let dir = unpacked()?;
    // In the workspace's own target: what both need of dependencies is built once.
    let args = ["test", "--quiet", "--no-run", "--test", "*", "--message-format", "json"];
    println!("+ cargo {} (bollard {VERSION})", args.join(" "));
    let output = cargo(&dir).args(args).stderr(Stdio::inherit()).output().context("run cargo")?;
    ensure!(output.status.success(), "the tests of bollard do not build ({})", output.status);
    let mut tests = Vec::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let message: Value = serde_json::from_str(line).with_context(|| format!("cargo said {line:?}"))?;
        let (Some(program), Some(name)) =
            (message["executable"].as_str(), message["target"]["name"].as_str())
        else {
            continue;
        };
        let listed = Command::new(program).args(["--list", "--format", "terse"]).output()?;
        let listed = String::from_utf8(listed.stdout)?;
        tests.extend(
            listed
                .lines()
                .filter_map(|l| l.strip_suffix(": test"))
                .map(|test| Test { name: format!("{name}::{test}"), program: program.into() }),
        );
    }
    if tests.is_empty() {
        bail!("the package bollard {VERSION} came without tests");
    }
    tests.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(tests)
}

/// A copy of the package that can be built in: cargo's own must stay as it is.
fn unpacked() -> Result<PathBuf> {
    let scratch = build::target().join("compat");
    let dir = scratch.join(format!("bollard-{VERSION}"));
    let lock = std::fs::read(build::root().join("Cargo.lock"))?;
    let used = dir.join("workspace.lock");
    if std::fs::read(&used).ok().as_ref() == Some(&lock) {
        return Ok(dir);
    }
    if !dir.join("Cargo.toml").exists() {
        let half = scratch.join("unpacking");
        // What an interrupted run left.
        let _ = std::fs::remove_dir_all(&half);
        copy(&fetched(&scratch)?, &half)?;
        let manifest = half.join("Cargo.toml");
        let text = std::fs::read_to_string(&manifest)?;
        // Dependencies are built as the workspace builds them, to be the same ones.
        std::fs::write(
            &manifest,
            format!(
                "{text}\n[workspace]\n[profile.dev]\ndebug = false\n[profile.dev.package.\"*\"]\ndebug = false\nopt-level = 1\n"
            ),
        )?;
        std::fs::rename(&half, &dir)?;
    }
    std::fs::write(dir.join("Cargo.lock"), &lock)?;
    std::fs::write(&used, &lock)?;
    Ok(dir)
}

/// Where cargo keeps the package, once it has fetched it.
fn fetched(scratch: &Path) -> Result<PathBuf> {
    let dir = scratch.join("fetch");
    std::fs::create_dir_all(dir.join("src"))?;
    std::fs::write(dir.join("src/lib.rs"), "")?;
    let manifest = format!(
        "[package]\nname = \"fetch\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[dependencies]\nbollard = \"={VERSION}\"\n[workspace]\n"
    );
    std::fs::write(dir.join("Cargo.toml"), manifest)?;
    println!("+ fetching bollard {VERSION}");
    let metadata = ["metadata", "--format-version", "1", "--filter-platform", TARGET];
    let output = cargo(&dir).args(metadata).stderr(Stdio::inherit()).output().context("run cargo")?;
    ensure!(output.status.success(), "bollard {VERSION} cannot be fetched ({})", output.status);
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().context("cargo metadata told of no packages")?;
    let package = packages.iter().find(|p| p["name"] == "bollard").context("bollard is not among them")?;
    let manifest = Path::new(package["manifest_path"].as_str().context("bollard has no manifest")?);
    Ok(manifest.parent().context("a manifest lies in a directory")?.to_owned())
}

fn cargo(dir: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(dir).env("CARGO_TARGET_DIR", build::target()).stdin(Stdio::null());
    command
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("make {}", to.display()))?;
    for entry in std::fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy(&path, &to)?;
        } else {
            std::fs::copy(&path, &to).with_context(|| format!("copy {}", path.display()))?;
        }
    }
    Ok(())
}
