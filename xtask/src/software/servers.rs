//! Real servers: nginx, redis, PostgreSQL.

use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result};

use super::{Software, directories, write};

pub const SERVERS: Software = Software {
    name: "software",
    packages: &["nginx-light", "redis-server", "postgresql", "bash", "dash", "coreutils"],
    settle,
};

/// What maintainer scripts would have made.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nwww-data:x:33:33::/var/www:/bin/false\n\
                      redis:x:101:101::/var/lib/redis:/bin/false\npostgres:x:102:102::/var/lib/postgresql:/bin/bash\n";
const GROUP: &str = "root:x:0:\nadm:x:4:\nwww-data:x:33:\nredis:x:101:\npostgres:x:102:\n";
const SITE: &str = "server {\n    listen 80;\n    root /srv;\n}\n";

fn settle(root: &Path) -> Result<()> {
    // For PostgreSQL's compiler of queries, which runs without.
    for entry in std::fs::read_dir(root.join("usr/lib/x86_64-linux-gnu"))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("libLLVM") {
            std::fs::remove_file(entry.path())?;
        }
    }
    write(
        root,
        &[
            ("etc/passwd", PASSWD),
            ("etc/group", GROUP),
            ("etc/nginx/sites-enabled/default", SITE),
            ("srv/index.html", ""),
        ],
    )?;
    directories(
        root,
        &[
            ("tmp", 0, 0o1777),
            ("run", 0, 0o755),
            ("root", 0, 0o700),
            ("var/lib/nginx", 33, 0o755),
            ("var/log/nginx", 33, 0o755),
            ("var/lib/redis", 101, 0o750),
            ("var/lib/postgresql", 102, 0o755),
            ("run/postgresql", 102, 0o775),
        ],
    )?;
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
