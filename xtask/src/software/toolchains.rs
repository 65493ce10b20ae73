//! What projects are built with and run by: gcc, make, Python, Node, Perl, shells, nginx.

use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result};

use super::{OF_GCC, Software, directories, without, write};

pub const TOOLCHAINS: Software = Software {
    name: "toolchains",
    packages: &[
        "bash",
        "dash",
        "coreutils",
        "findutils",
        "sed",
        "grep",
        "mawk",
        "tar",
        "gzip",
        "passwd",
        "busybox-static",
        "make",
        "gcc",
        "libc6-dev",
        "python3",
        "perl-base",
        "nodejs",
        "nginx-light",
    ],
    settle,
};

const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nwww-data:x:33:33::/var/www:/usr/sbin/nologin\n\
                      nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nadm:x:4:\nstaff:x:50:\nwww-data:x:33:\nnogroup:x:65534:\n";
/// For `useradd`; the package `login` would bring it.
const LOGIN: &str = "UID_MIN 1000\nUID_MAX 60000\nGID_MIN 1000\nGID_MAX 60000\nSYS_UID_MIN 100\nSYS_UID_MAX 999\n\
                     SYS_GID_MIN 100\nSYS_GID_MAX 999\nUSERGROUPS_ENAB yes\nUMASK 022\n";
const SITE: &str = "server {\n    listen 80;\n    root /usr/share/nginx/html;\n}\n";
fn settle(root: &Path) -> Result<()> {
    without(root, OF_GCC);
    without(root, &["usr/bin/x86_64-linux-gnu-ld.gold"]);
    write(
        root,
        &[
            ("etc/passwd", PASSWD),
            ("etc/group", GROUP),
            ("etc/login.defs", LOGIN),
            ("etc/nginx/sites-enabled/default", SITE),
        ],
    )?;
    directories(
        root,
        &[
            ("tmp", 0, 0o1777),
            ("run", 0, 0o755),
            ("root", 0, 0o700),
            ("home", 0, 0o755),
            ("var/lib/nginx", 33, 0o755),
            ("var/log/nginx", 33, 0o755),
        ],
    )?;
    // What Debian's alternatives would have linked.
    for (link, to) in [
        ("usr/bin/cc", "gcc"),
        ("usr/bin/awk", "mawk"),
        ("usr/bin/wget", "/bin/busybox"),
        ("usr/sbin/crond", "/bin/busybox"),
    ] {
        symlink(to, root.join(link)).with_context(|| format!("link {link}"))?;
    }
    Ok(())
}
