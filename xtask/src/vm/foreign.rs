//! Programs of another platform for the machine, and the emulator that runs them: two files of Debian's packages, unpacked
//! below `target/vm`. This machine learns nothing of that platform: apt's lists of it are set aside, and removed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Packages, the one file that is wanted of each, and where the tests look for it.
const FILES: &[(&str, &str, &str)] = &[
    ("busybox-static:arm64", "./bin/busybox", "/usr/bin/busybox.arm64"),
    ("qemu-user-static", "./usr/bin/qemu-aarch64-static", "/usr/bin/qemu-aarch64-static"),
];

/// The files, fetched if they are not there: where each is here, and where it belongs there.
pub fn fetch(dir: &Path) -> Result<Vec<(PathBuf, String)>> {
    let home = dir.join("foreign");
    let placed = |to: &str| Ok((home.join(Path::new(to).file_name().context("a file")?), to.to_owned()));
    let files: Vec<(PathBuf, String)> = FILES.iter().map(|(_, _, to)| placed(to)).collect::<Result<_>>()?;
    if files.iter().all(|(path, _)| path.exists()) {
        return Ok(files);
    }
    let packages: Vec<&str> = FILES.iter().map(|(package, ..)| *package).collect();
    println!("+ unpacking {}", packages.join(" "));
    let scratch = dir.join("foreign-archives");
    // What an interrupted run left.
    let _ = std::fs::remove_dir_all(&scratch);
    let lists = scratch.join("lists");
    std::fs::create_dir_all(lists.join("partial"))?;
    std::fs::create_dir_all(&home)?;
    let lists = format!("Dir::State::lists={}", lists.display());
    let apt = |words: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(["-qq", "-o", "APT::Sandbox::User=root", "-o", &lists]);
        for option in ["APT::Architectures::=amd64", "APT::Architectures::=arm64"] {
            command.args(["-o", option]);
        }
        // Kept for this machine's own lists.
        for cache in ["Dir::Cache::pkgcache=", "Dir::Cache::srcpkgcache="] {
            command.args(["-o", cache]);
        }
        run(command.args(words).current_dir(&scratch))
    };
    apt(&["update"])?;
    for ((package, member, _), (path, _)) in FILES.iter().zip(&files) {
        let dir = scratch.join(package.replace(':', "_"));
        std::fs::create_dir_all(&dir)?;
        apt(&["download", package])?;
        let archives = std::fs::read_dir(&scratch)?.flatten().map(|e| e.path());
        let archive = archives
            .into_iter()
            .find(|p| p.extension().is_some_and(|e| e == "deb"))
            .with_context(|| format!("apt-get downloaded no {package}"))?;
        let take = "dpkg-deb --fsys-tarfile \"$1\" | tar -x -C \"$2\" \"$3\"";
        run(Command::new("sh").args(["-c", take, "sh"]).arg(&archive).arg(&dir).arg(member))?;
        std::fs::remove_file(archive)?;
        std::fs::rename(dir.join(member), path).with_context(|| format!("{package} has no {member}"))?;
    }
    std::fs::remove_dir_all(&scratch)?;
    Ok(files)
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed ({status})");
    }
    Ok(())
}
