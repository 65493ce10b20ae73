//! What Skep is measured against, got without changing the machine more than must be.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::json;
use skep_e2e::Host;

use crate::build;

/// Debian's Docker, unpacked into `target/bench/peers` and not installed: installing it would start a
/// daemon and put another `docker` on the PATH. Returns the unpacked root.
pub fn docker() -> Result<PathBuf> {
    let directory = build::target().join("bench/peers");
    let root = directory.join("root");
    if !root.join("usr/sbin/dockerd").exists() {
        println!("Unpacking Debian's docker.io ...");
        std::fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
        let packages = ["download", "docker.io", "containerd", "tini"];
        call(Command::new("apt-get").arg("-qq").args(packages).current_dir(&directory))?;
        for entry in std::fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "deb") {
                call(Command::new("dpkg-deb").arg("-x").arg(&path).arg(&root))?;
            }
        }
    }
    let daemon = root.join("usr/sbin/dockerd");
    let libraries = call(Command::new("ldd").arg(&daemon))?;
    if libraries.contains("not found") {
        let needed = ["install", "-y", "-qq", "--no-install-recommends", "libdevmapper1.02.1", "libsystemd0"];
        call(Command::new("apt-get").args(needed).env("DEBIAN_FRONTEND", "noninteractive"))?;
    }
    Ok(root)
}

/// Podman inside a host, with a store of its own below the host's directory.
pub fn podman(host: &Host) -> Result<Command> {
    let store = host.dir.join("podman");
    let mut command = host.command("podman")?;
    command.arg("--root").arg(store.join("root")).arg("--runroot").arg(store.join("run"));
    command.args(["--storage-driver", "overlay"]);
    Ok(command)
}

/// Runs a command; what it printed.
pub fn call(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The digest of a file, as images have it.
pub fn digest(path: &Path) -> Result<String> {
    let printed = call(Command::new("sha256sum").arg(path))?;
    let hex = printed.split_whitespace().next().context("sha256sum prints no digest")?;
    Ok(format!("sha256:{hex}"))
}

/// The image of the container benches: busybox, and links to what is run of it.
pub fn busybox() -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_path_with_name(BUSYBOX, "bin/busybox").context("read busybox")?;
    for name in APPLETS {
        let mut link = tar::Header::new_gnu();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        link.set_mode(0o777);
        tar.append_link(&mut link, format!("bin/{name}"), "busybox")?;
    }
    Ok(tar.into_inner()?)
}

const BUSYBOX: &str = "/bin/busybox";
const APPLETS: [&str; 3] = ["true", "sleep", "sh"];

/// The same root as a bundle for runc and crun, running `true`.
pub fn bundle(directory: &Path) -> Result<PathBuf> {
    let bundle = directory.join("bundle");
    let bin = bundle.join("rootfs/bin");
    std::fs::create_dir_all(&bin).with_context(|| format!("make {}", bin.display()))?;
    std::fs::copy(BUSYBOX, bin.join("busybox")).context("copy busybox")?;
    for name in APPLETS {
        std::os::unix::fs::symlink("busybox", bin.join(name))?;
    }
    call(Command::new("runc").args(["spec", "-b"]).arg(&bundle))?;
    let path = bundle.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = json!(["true"]);
    config["root"]["readonly"] = false.into();
    std::fs::write(&path, serde_json::to_vec(&config)?)?;
    Ok(bundle)
}
