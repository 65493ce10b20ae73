//! The machine's root file system: an archive of everything it needs.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::cpio::Archive;
use super::kernel::Kernel;
use super::programs::{Test, commands, stripped};
use crate::build;

const INIT: &str = include_str!("init.sh");
/// tcpdump becomes the user of that name.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\ntcpdump:x:100:100::/:/bin/false\n";
const GROUP: &str = "root:x:0:\ntty:x:5:\ntcpdump:x:100:\n";
/// Empty directories, and those that files are put in before their parents would be known.
const DIRECTORIES: &[&str] = &["mnt", "proc", "sys", "dev", "tmp", "run", "root", "sbin", "var"];
/// Where the programs lie in the machine, beside each other as in `target/debug`.
const PROGRAMS: &str = "/skep";

/// Writes the archive to `to`. `foreign` are files of another platform, and `arguments` are given to each test.
pub fn write(
    to: &Path,
    kernel: &Kernel,
    tests: &[Test],
    foreign: Vec<(PathBuf, String)>,
    arguments: &[String],
) -> Result<()> {
    let cache = to.with_file_name("stripped");
    let skep = build::binary_path("skep", false);
    let beside = skep.parent().context("the folder of binaries")?;
    let mut files: Vec<(PathBuf, String)> = commands()?;
    files.extend(foreign);
    let programs = [
        ("", "skep"),
        ("", "skep-lab-init"),
        ("examples/", "shim"),
        ("examples/", "escape"),
        ("examples/", "crash"),
    ];
    for (folder, name) in programs {
        let program = stripped(&beside.join(folder).join(name), &cache)?;
        files.push((program, format!("{PROGRAMS}/{folder}{name}")));
    }
    let mut list = String::new();
    for test in tests {
        files.push((stripped(&test.path, &cache)?, format!("{PROGRAMS}/deps/{}", test.name)));
        let quoted: String = arguments.iter().map(|a| format!(" '{}'", a.replace('\'', r"'\''"))).collect();
        list += &format!("{} {} {PROGRAMS}/deps/{}{quoted}\n", test.name, test.group, test.name);
    }
    let modules = format!("/lib/modules/{}", kernel.version);
    for module in kernel.wanted()? {
        files.push((kernel.modules.join(&module), format!("{modules}/{module}")));
    }

    let file = File::create(to).with_context(|| format!("make {}", to.display()))?;
    let mut archive = Archive::new(BufWriter::with_capacity(1 << 20, file));
    let mut made = BTreeSet::new();
    for directory in DIRECTORIES {
        parents(&mut archive, &mut made, &format!("/{directory}/x"))?;
    }
    archive.device("dev/console", 0o600, (5, 1))?;
    archive.link("var/run", "../run")?;
    archive.link("sbin/modprobe", "/usr/bin/kmod")?;
    let texts = [
        ("init", 0o755, INIT),
        ("tests", 0o644, &list),
        ("etc/passwd", 0o644, PASSWD),
        ("etc/group", 0o644, GROUP),
        ("etc/hostname", 0o644, "vm\n"),
        ("etc/hosts", 0o644, "127.0.0.1 localhost vm\n"),
    ];
    for (path, mode, text) in texts {
        parents(&mut archive, &mut made, &format!("/{path}"))?;
        archive.file(path, mode, text.as_bytes())?;
    }
    for (from, path) in files {
        parents(&mut archive, &mut made, &path)?;
        let content = std::fs::read(&from).with_context(|| format!("read {}", from.display()))?;
        archive.file(path.trim_start_matches('/'), 0o755, &content)?;
    }
    archive.finish().with_context(|| format!("write {}", to.display()))
}

/// The directories above a path, once each.
fn parents<W: std::io::Write>(
    archive: &mut Archive<W>,
    made: &mut BTreeSet<String>,
    path: &str,
) -> Result<()> {
    let path = path.trim_start_matches('/');
    for (end, _) in path.match_indices('/') {
        if made.insert(path[..end].to_owned()) {
            archive.directory(&path[..end], 0o755)?;
        }
    }
    Ok(())
}
