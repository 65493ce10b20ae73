//! Images of Debian's own packages for the tests: unpacked, not installed, and kept under `target/tools` as plain tars
//! for `docker import`.

mod languages;
mod servers;
mod toolchains;

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::build;

/// An image to make.
struct Software {
    /// `NAME.tar`.
    name: &'static str,
    /// What it has, besides all that these depend on.
    packages: &'static [&'static str],
    /// Does what the packages' own scripts would have done, as far as the tests need it.
    settle: fn(&Path) -> Result<()>,
}

/// Nobody reads these in a test, and they are most of it.
const LEFT_OUT: &[&str] =
    &["usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/perl"];

/// Of gcc, link-time optimisation, sanitizers and other tools that nothing here calls.
const OF_GCC: &[&str] = &[
    "usr/lib/gcc/x86_64-linux-gnu/12/lto1",
    "usr/lib/gcc/x86_64-linux-gnu/12/libasan.a",
    "usr/lib/gcc/x86_64-linux-gnu/12/liblsan.a",
    "usr/lib/gcc/x86_64-linux-gnu/12/libtsan.a",
    "usr/lib/gcc/x86_64-linux-gnu/12/libubsan.a",
    "usr/bin/x86_64-linux-gnu-lto-dump-12",
    "usr/bin/x86_64-linux-gnu-dwp",
    "usr/lib/x86_64-linux-gnu/libasan.so.8.0.0",
    "usr/lib/x86_64-linux-gnu/liblsan.so.0.0.0",
    "usr/lib/x86_64-linux-gnu/libtsan.so.2.0.0",
    "usr/lib/x86_64-linux-gnu/libubsan.so.1.0.0",
    "usr/lib/x86_64-linux-gnu/libgprofng.so.0.0.0",
];

/// Makes all images that are not there.
pub fn images() -> Result<()> {
    image(&servers::SERVERS)?;
    image(&toolchains::TOOLCHAINS)?;
    image(&languages::LANGUAGES)
}

fn image(software: &Software) -> Result<()> {
    let tools = build::target().join("tools");
    let file = format!("{}.tar", software.name);
    let done = tools.join(&file);
    if done.exists() {
        return Ok(());
    }
    let scratch = tools.join(software.name);
    // What an interrupted run left.
    let _ = std::fs::remove_dir_all(&scratch);
    let (archives, root) = (scratch.join("archives"), scratch.join("root"));
    std::fs::create_dir_all(archives.join("partial"))?;
    std::fs::create_dir_all(&root)?;
    println!("+ unpacking {} and what they need", software.packages.join(", "));
    // As on a machine that has nothing: all that is needed is fetched, whatever this one has.
    let nothing = scratch.join("status");
    std::fs::write(&nothing, "")?;
    let option = |name: &str, path: &Path| format!("{name}={}", path.display());
    let download = || {
        let mut command = Command::new("apt-get");
        command.args(["-qq", "-y", "--no-install-recommends", "--download-only"]);
        command.args([
            "-o",
            &option("Dir::State::status", &nothing),
            "-o",
            &option("Dir::Cache::archives", &archives),
        ]);
        command.arg("install").args(software.packages).env("DEBIAN_FRONTEND", "noninteractive");
        command.stdin(Stdio::null()).stdout(Stdio::null()).status().context("run apt-get")
    };
    if !download()?.success() {
        run(Command::new("apt-get").args(["update", "-qq"]))?;
        let status = download()?;
        if !status.success() {
            bail!("apt-get --download-only install {} failed ({status})", software.packages.join(" "));
        }
    }
    for entry in std::fs::read_dir(&archives)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "deb") {
            run(Command::new("dpkg-deb").arg("-x").arg(&path).arg(&root))?;
        }
    }
    without(&root, LEFT_OUT);
    (software.settle)(&root)?;
    let half = scratch.join(&file);
    let mut tar = tar::Builder::new(std::io::BufWriter::new(std::fs::File::create(&half)?));
    tar.follow_symlinks(false);
    tar.append_dir_all(".", &root)?;
    tar.into_inner()?.into_inner()?.sync_all()?;
    std::fs::rename(&half, &done)?;
    std::fs::remove_dir_all(&scratch)?;
    Ok(())
}

/// Removes what is there of these: another release has other versions of some.
fn without(root: &Path, paths: &[&str]) {
    for path in paths.iter().map(|path| root.join(path)) {
        let _ = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    }
}

/// Writes files, for each a path below the root and its text.
fn write(root: &Path, files: &[(&str, &str)]) -> Result<()> {
    for (path, text) in files {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().context("a file lies in a directory")?)?;
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// Makes directories, for each a path below the root, its owner and mode.
fn directories(root: &Path, wanted: &[(&str, u32, u32)]) -> Result<()> {
    for (path, owner, mode) in wanted {
        let path = root.join(path);
        std::fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        chown(&path, Some(*owner), Some(*owner))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(*mode))?;
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("run {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed ({status})");
    }
    Ok(())
}
