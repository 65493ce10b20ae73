//! An image of Debian's own packages of real servers, for the tests: unpacked, not installed, and kept under `target`.

use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::build;

/// What the image has, besides all that these depend on.
const PACKAGES: &[&str] = &["nginx-light", "redis-server", "postgresql", "bash", "dash", "coreutils"];

/// Nobody reads these in a test, and they are most of it. LLVM is for PostgreSQL's compiler of queries, which runs
/// without.
const LEFT_OUT: &[&str] =
    &["usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/perl"];

/// What maintainer scripts would have made.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nwww-data:x:33:33::/var/www:/bin/false\n\
                      redis:x:101:101::/var/lib/redis:/bin/false\npostgres:x:102:102::/var/lib/postgresql:/bin/bash\n";
const GROUP: &str = "root:x:0:\nadm:x:4:\nwww-data:x:33:\nredis:x:101:\npostgres:x:102:\n";
const SITE: &str = "server {\n    listen 80;\n    root /srv;\n}\n";

/// Makes `target/tools/software.tar`, a plain tar for `docker import`, unless it is there.
pub fn image() -> Result<()> {
    let tools = build::target().join("tools");
    let done = tools.join("software.tar");
    if done.exists() {
        return Ok(());
    }
    let scratch = tools.join("software");
    // What an interrupted run left.
    let _ = std::fs::remove_dir_all(&scratch);
    let (archives, root) = (scratch.join("archives"), scratch.join("root"));
    std::fs::create_dir_all(archives.join("partial"))?;
    std::fs::create_dir_all(&root)?;
    println!("+ unpacking {} and what they need", PACKAGES.join(", "));
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
        command.arg("install").args(PACKAGES).env("DEBIAN_FRONTEND", "noninteractive");
        command.stdin(Stdio::null()).stdout(Stdio::null()).status().context("run apt-get")
    };
    if !download()?.success() {
        run(Command::new("apt-get").args(["update", "-qq"]))?;
        let status = download()?;
        if !status.success() {
            bail!("apt-get --download-only install {} failed ({status})", PACKAGES.join(" "));
        }
    }
    for entry in std::fs::read_dir(&archives)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "deb") {
            run(Command::new("dpkg-deb").arg("-x").arg(&path).arg(&root))?;
        }
    }
    settle(&root)?;
    let half = scratch.join("software.tar");
    let mut tar = tar::Builder::new(std::io::BufWriter::new(std::fs::File::create(&half)?));
    tar.follow_symlinks(false);
    tar.append_dir_all(".", &root)?;
    tar.into_inner()?.into_inner()?.sync_all()?;
    std::fs::rename(&half, &done)?;
    std::fs::remove_dir_all(&scratch)?;
    Ok(())
}

/// What the packages' own scripts would have done, as far as the servers need it.
fn settle(root: &Path) -> Result<()> {
    for path in LEFT_OUT {
        // Not every release has all of them.
        let _ = std::fs::remove_dir_all(root.join(path));
    }
    for entry in std::fs::read_dir(root.join("usr/lib/x86_64-linux-gnu"))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("libLLVM") {
            std::fs::remove_file(entry.path())?;
        }
    }
    for (path, text) in [
        ("etc/passwd", PASSWD),
        ("etc/group", GROUP),
        ("etc/nginx/sites-enabled/default", SITE),
        ("srv/index.html", ""),
    ] {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().context("a file lies in a directory")?)?;
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    for (path, owner, mode) in [
        ("tmp", 0, 0o1777),
        ("run", 0, 0o755),
        ("root", 0, 0o700),
        ("var/lib/nginx", 33, 0o755),
        ("var/log/nginx", 33, 0o755),
        ("var/lib/redis", 101, 0o750),
        ("var/lib/postgresql", 102, 0o755),
        ("run/postgresql", 102, 0o775),
    ] {
        let path = root.join(path);
        std::fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        chown(&path, Some(owner), Some(owner))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
    }
    // The release's own number is in the path.
    let servers = root.join("usr/lib/postgresql");
    let version =
        std::fs::read_dir(&servers)?.flatten().next().context("PostgreSQL came without a server")?;
    let programs = root.join("usr/local/bin");
    std::fs::create_dir_all(&programs)?;
    for program in ["initdb", "postgres", "psql"] {
        let to = Path::new("/usr/lib/postgresql").join(version.file_name()).join("bin").join(program);
        symlink(to, programs.join(program)).with_context(|| format!("link {program}"))?;
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
