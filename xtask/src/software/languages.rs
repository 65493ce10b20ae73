//! What projects in compiled languages are built with: Go, Rust with Cargo, a JDK.

use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result};

use super::{OF_GCC, Software, directories, without, write};

pub const LANGUAGES: Software = Software {
    name: "languages",
    packages: &[
        "bash",
        "dash",
        "coreutils",
        "findutils",
        "sed",
        "grep",
        "gcc",
        "libc6-dev",
        "golang-go",
        "rustc",
        "cargo",
        "openjdk-17-jdk-headless",
    ],
    settle,
};

const JDK: &str = "usr/lib/jvm/java-17-openjdk-amd64";
/// Of gcc, which only links here, the compiler itself; of the JDK what `jlink` would make others of; of Go its own tests,
/// and tools that nothing here calls, with their sources.
const LARGE: &[&str] = &[
    "usr/lib/gcc/x86_64-linux-gnu/12/cc1",
    "usr/lib/jvm/java-17-openjdk-amd64/jmods",
    "usr/share/go-1.19/test",
    "usr/share/go-1.19/src/cmd",
    "usr/lib/go-1.19/pkg/linux_amd64/cmd",
    "usr/lib/go-1.19/pkg/tool/linux_amd64/api",
    "usr/lib/go-1.19/pkg/tool/linux_amd64/cover",
    "usr/lib/go-1.19/pkg/tool/linux_amd64/doc",
    "usr/lib/go-1.19/pkg/tool/linux_amd64/objdump",
    "usr/lib/go-1.19/pkg/tool/linux_amd64/pprof",
    "usr/lib/go-1.19/pkg/tool/linux_amd64/trace",
    "usr/lib/go-1.19/pkg/tool/linux_amd64/vet",
    "usr/bin/rustdoc",
];

fn settle(root: &Path) -> Result<()> {
    without(root, OF_GCC);
    without(root, LARGE);
    write(root, &[("etc/passwd", "root:x:0:0:root:/root:/bin/bash\n"), ("etc/group", "root:x:0:\n")])?;
    directories(root, &[("tmp", 0, 0o1777), ("root", 0, 0o700)])?;
    // What Debian's alternatives would have linked.
    symlink("gcc", root.join("usr/bin/cc")).context("link cc")?;
    for tool in ["java", "javac", "jar"] {
        symlink(format!("/{JDK}/bin/{tool}"), root.join("usr/bin").join(tool))
            .with_context(|| format!("link {tool}"))?;
    }
    Ok(())
}
