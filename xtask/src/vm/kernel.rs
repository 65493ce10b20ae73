//! Debian's cloud kernel, unpacked below `target/vm`: nothing is installed on this machine.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Depends on the present kernel of the release.
const META: &str = "linux-image-cloud-amd64";

/// What the tests may ask the kernel for: modules, and folders of them. It loads them itself, as on any
/// machine.
const MODULES: &[&str] = &[
    "kernel/fs/overlayfs/",
    "kernel/fs/binfmt_misc.ko",
    "kernel/fs/nfs/",
    "kernel/fs/nfsd/",
    "kernel/fs/ext4/",
    "kernel/fs/quota/",
    "kernel/net/netfilter/",
    "kernel/net/ipv4/netfilter/",
    "kernel/net/ipv6/netfilter/",
    "kernel/net/bridge/bridge.ko",
    "kernel/net/8021q/",
    "kernel/drivers/net/veth.ko",
    "kernel/drivers/net/dummy.ko",
    "kernel/drivers/net/macvlan.ko",
    "kernel/drivers/net/ipvlan/",
    "kernel/drivers/net/tun.ko",
    "kernel/drivers/net/wireguard/",
    "kernel/drivers/net/vxlan/",
    "kernel/drivers/block/zram/",
    "kernel/crypto/",
];

/// A kernel and its modules.
pub struct Kernel {
    /// To boot.
    pub image: PathBuf,
    /// `lib/modules/VERSION`.
    pub modules: PathBuf,
    /// As `uname -r` says it.
    pub version: String,
}

/// The kernel, fetched if it is not there.
pub fn fetch(dir: &Path) -> Result<Kernel> {
    let package = package()?;
    let version = package.trim_start_matches("linux-image-").to_owned();
    let home = dir.join(&package);
    let modules = home.join("lib/modules").join(&version);
    if !modules.join("modules.dep").exists() {
        println!("+ fetching {package}");
        let _ = std::fs::remove_dir_all(&home);
        std::fs::create_dir_all(&home)?;
        run(Command::new("apt-get")
            .args(["-qq", "-o", "APT::Sandbox::User=root", "download", &package])
            .current_dir(&home))?;
        let archive = std::fs::read_dir(&home)?
            .filter_map(|e| Some(e.ok()?.path()))
            .find(|p| p.extension().is_some_and(|e| e == "deb"))
            .with_context(|| format!("apt-get downloaded no {package}"))?;
        run(Command::new("dpkg").arg("-x").arg(&archive).arg(&home))?;
        std::fs::remove_file(archive)?;
        // Last, and so the mark of a whole one.
        run(Command::new("/sbin/depmod").arg("-b").arg(&home).arg(&version))?;
    }
    Ok(Kernel { image: home.join("boot").join(format!("vmlinuz-{version}")), modules, version })
}

/// The package that brings the kernel itself.
fn package() -> Result<String> {
    let ask = || -> Result<Option<String>> {
        let out = Command::new("apt-cache").args(["show", META]).output().context("run apt-cache")?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let depends = text.lines().find_map(|l| l.strip_prefix("Depends: "));
        Ok(depends.and_then(|d| d.split([' ', ',']).next()).map(str::to_owned))
    };
    if let Some(found) = ask()? {
        return Ok(found);
    }
    run(Command::new("apt-get").args(["update", "-qq"]))?;
    ask()?.with_context(|| format!("apt knows no package {META}: the VM tests need Debian's"))
}

impl Kernel {
    /// The modules wanted and all that they need, and depmod's tables: paths below
    /// [`modules`](Self::modules).
    pub fn wanted(&self) -> Result<BTreeSet<String>> {
        let path = self.modules.join("modules.dep");
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        // Each line has a module and everything below it.
        let lines = text.lines().filter(|l| MODULES.iter().any(|m| l.starts_with(m)));
        let modules = lines.flat_map(|l| l.split([':', ' '])).filter(|w| !w.is_empty()).map(str::to_owned);
        let mut found: BTreeSet<String> = modules.collect();
        // Where modprobe looks them up.
        for entry in std::fs::read_dir(&self.modules)?.flatten() {
            found.extend(entry.file_name().into_string().ok().filter(|n| n.starts_with("modules.")));
        }
        Ok(found)
    }
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed ({status})");
    }
    Ok(())
}
