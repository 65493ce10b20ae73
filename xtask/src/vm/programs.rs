//! What runs in the virtual machine: the tests, as cargo built them, and the host's own programs that
//! they use.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::build;

/// The tests whose kernel the machine below may not have, in this order; and the control group that each
/// is started in: the root of all, or one such as systemd gives a service.
pub const TESTS: &[(&str, &str)] = &[
    ("runtime", "/"),
    ("containers", SERVICE),
    ("files", SERVICE),
    ("volumes", SERVICE),
    ("wireguard_tunnel", SERVICE),
    ("overlay", SERVICE),
    ("bridge6", SERVICE),
    ("gateway", SERVICE),
    ("direct", SERVICE),
    ("vm", SERVICE),
];
const SERVICE: &str = "/system.slice/tests.service";

/// Commands that the tests call, besides busybox; and the kernel: two of busybox's modprobe at a time, and
/// one is done before the module is there.
const COMMANDS: &[&str] = &[
    "ip",
    "bridge",
    "nsenter",
    "nft",
    "curl",
    "tcpdump",
    "docker",
    "kmod",
    "runc",
    "crun",
    "apparmor_parser",
    "mkfs.ext4",
];

/// A test program.
pub struct Test {
    /// As in [`TESTS`].
    pub name: &'static str,
    /// Its control group.
    pub group: &'static str,
    /// What cargo built.
    pub path: PathBuf,
}

/// Builds the tests, and what they look for beside themselves.
pub fn build_tests(wanted: &[(&'static str, &'static str)]) -> Result<Vec<Test>> {
    // The whole workspace each time: with other sets of packages cargo would build the dependencies anew.
    let helpers = ["--bin", "skep", "--bin", "skep-lab-init", "--examples"];
    build::cargo(&[&["build", "--quiet", "--workspace"][..], &helpers].concat())?;
    let mut args = vec!["test", "--quiet", "--workspace", "--no-run", "--message-format=json"];
    for (name, _) in wanted {
        args.extend(["--test", name]);
    }
    println!("+ cargo {}", args.join(" "));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let out = Command::new(cargo).args(&args).current_dir(build::root()).stderr(Stdio::inherit()).output()?;
    if !out.status.success() {
        bail!("cargo {} failed ({})", args.join(" "), out.status);
    }
    let built: Vec<serde_json::Value> =
        out.stdout.split(|b| *b == b'\n').filter_map(|l| serde_json::from_slice(l).ok()).collect();
    let find = |name: &str| {
        let ours = |m: &&serde_json::Value| m["target"]["name"] == name && m["target"]["kind"][0] == "test";
        let path = built.iter().find(ours).and_then(|m| m["executable"].as_str());
        path.map(PathBuf::from).with_context(|| format!("cargo built no test {name}"))
    };
    wanted.iter().map(|(name, group)| Ok(Test { name, group, path: find(name)? })).collect()
}

/// The commands, and the libraries they are linked with: where each is here, and where it belongs there.
pub fn commands() -> Result<Vec<(PathBuf, String)>> {
    // busybox's own shell would take its applets for these commands.
    let shell = find("sh")?;
    let mut libraries = BTreeSet::from_iter(linked(&shell)?);
    let mut found = vec![(find("busybox")?, "/bin/busybox".to_owned()), (shell, "/bin/sh".to_owned())];
    for command in COMMANDS {
        let path = find(command)?;
        libraries.extend(linked(&path)?);
        found.push((path, format!("/usr/bin/{command}")));
    }
    found.extend(libraries.into_iter().map(|l| (PathBuf::from(&l), l)));
    Ok(found)
}

fn find(command: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let unpacked = build::target().join("tools/sbin");
    dirs.chain([unpacked])
        .find_map(|d| Some(d.join(command)).filter(|p| p.is_file()))
        .with_context(|| format!("there is no {command} on this machine"))
}

fn linked(program: &Path) -> Result<Vec<String>> {
    // A static program is "not a dynamic executable", and ldd fails.
    let out = Command::new("ldd").arg(program).output().context("run ldd")?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    Ok(text.split_whitespace().filter(|w| w.starts_with('/')).map(str::to_owned).collect())
}

/// A copy without debugging information, made when it is missing or old.
pub fn stripped(program: &Path, dir: &Path) -> Result<PathBuf> {
    let name = program.file_name().context("a program has a name")?;
    let copy = dir.join(name);
    let changed = |p: &Path| p.metadata().and_then(|m| m.modified());
    if changed(&copy).is_ok_and(|at| changed(program).is_ok_and(|now| now < at)) {
        return Ok(copy);
    }
    std::fs::create_dir_all(dir)?;
    let status = Command::new("strip").arg("-o").arg(&copy).arg(program).status();
    let status = status.context("run strip (of the Debian package binutils)")?;
    if !status.success() {
        bail!("strip {} failed ({status})", program.display());
    }
    Ok(copy)
}
