//! Who the command runs as: `user[:group]` by name or number, looked up in the container's own
//! /etc/passwd and /etc/group (read after pivot_root, so no link can lead out of the container).

use std::io::Read;
use std::path::Path;

use nix::fcntl::OFlag;
use nix::unistd::{Gid, Uid};

use super::error::{Context, Error};
use super::resolve::Root;
use crate::userns::IdMaps;

/// A database larger than this is not one.
const MAX_DATABASE: u64 = 4 << 20;

/// How the refusal of a user or group that is not there begins.
const UNKNOWN: &str = "unable to find";
/// That of a number that is none of a user or group.
const OUT_OF_RANGE: &str = "uids and gids must be in range";

/// Whether this is the refusal of a user or group, which Docker looks up itself.
pub fn refuses_user(reason: &str) -> bool {
    reason.starts_with(UNKNOWN) || reason.starts_with(OUT_OF_RANGE)
}

/// A resolved user.
#[derive(Debug, PartialEq, Eq)]
pub struct User {
    /// User ID.
    pub uid: Uid,
    /// Primary group.
    pub gid: Gid,
    /// Supplementary groups.
    pub groups: Vec<Gid>,
    /// Home directory.
    pub home: String,
}

impl User {
    /// Resolves `user[:group]` and further `groups` inside `root`.
    pub fn resolve(root: &Root, user: &str, groups: &[String]) -> Result<Self, Error> {
        let passwd = read(root, "/etc/passwd")?;
        let group = read(root, "/etc/group")?;
        Self::from_databases(user, groups, &passwd, &group)
    }

    /// Refuses IDs that the container's user namespace has not.
    pub fn check(&self, ids: Option<&IdMaps>) -> Result<(), Error> {
        let Some(ids) = ids else { return Ok(()) };
        let (uid, gid) = (self.uid.as_raw(), self.gid.as_raw());
        let unmapped =
            |kind: &str| Err(Error::Refused(format!("cannot set {kind} to unmapped user in user namespace")));
        if ids.to_host(uid, 0).is_none() {
            return unmapped("uid");
        }
        let groups = self.groups.iter().map(|g| g.as_raw());
        if groups.chain([gid]).any(|g| ids.to_host(0, g).is_none()) {
            return unmapped("gid");
        }
        Ok(())
    }

    fn from_databases(spec: &str, further: &[String], passwd: &str, group: &str) -> Result<Self, Error> {
        let (name, group_name) = spec.split_once(':').map_or((spec, None), |(u, g)| (u, Some(g)));
        let name = if name.is_empty() { "0" } else { name };
        let entry = passwd.lines().map(fields).find(|f| f.len() >= 6 && f[0] == name).or_else(|| {
            let id = name.parse::<u32>().ok()?;
            passwd.lines().map(fields).find(|f| f.len() >= 6 && f[2].parse() == Ok(id))
        });
        let (uid, default_gid, login, home) = match &entry {
            Some(f) => (number("user", f[2])?, number("group", f[3])?, Some(f[0]), f[5]),
            None => (number("user", name).map_err(|_| absent("user", name))?, 0, None, "/"),
        };
        let gid = match group_name.filter(|g| !g.is_empty()) {
            Some(g) => find_group(group, g)?,
            None => default_gid,
        };
        // Among the supplementary ones too, or files could tell the process from its group's members.
        let mut groups = vec![gid];
        // As Docker does: a group named explicitly replaces the user's memberships.
        if group_name.is_none_or(str::is_empty)
            && let Some(login) = login
        {
            for f in group.lines().map(fields).filter(|f| f.len() >= 4) {
                if f[3].split(',').any(|m| m == login) {
                    groups.push(number("group", f[2])?);
                }
            }
        }
        for g in further {
            groups.push(find_group(group, g)?);
        }
        groups.sort_unstable();
        groups.dedup();
        let home = if home.is_empty() { "/" } else { home };
        Ok(Self {
            uid: Uid::from_raw(uid),
            gid: Gid::from_raw(gid),
            groups: groups.into_iter().map(Gid::from_raw).collect(),
            home: home.to_owned(),
        })
    }
}

fn fields(line: &str) -> Vec<&str> {
    line.split(':').collect()
}

fn unknown(kind: &str, name: &str) -> Error {
    let file = if kind == "user" { "passwd" } else { "group" };
    Error::Refused(format!("{UNKNOWN} {kind} {name}: no matching entries in {file} file"))
}

/// A name that is not there, or a number that is no ID.
fn absent(kind: &str, name: &str) -> Error {
    match name.parse::<i64>() {
        Ok(_) => Error::Refused(format!("{OUT_OF_RANGE} 0-{}", u32::MAX - 1)),
        Err(_) => unknown(kind, name),
    }
}

fn number(kind: &str, text: &str) -> Result<u32, Error> {
    // The kernel takes the highest number as "no change", so it is no ID.
    text.parse()
        .ok()
        .filter(|n| *n != u32::MAX)
        .ok_or_else(|| Error::Refused(format!("{kind} ID {text:?} is not valid")))
}

fn find_group(database: &str, name: &str) -> Result<u32, Error> {
    match database.lines().map(fields).find(|f| f.len() >= 3 && f[0] == name) {
        Some(f) => number("group", f[2]),
        None => number("group", name).map_err(|_| absent("group", name)),
    }
}

fn read(root: &Root, path: &str) -> Result<String, Error> {
    // Nonblocking: a FIFO in that place must not hold us up.
    let fd = match root.open(Path::new(path), OFlag::O_RDONLY | OFlag::O_NONBLOCK, 0) {
        Ok(fd) => fd,
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)) => {
            return Ok(String::new());
        }
        Err(e) => return Err(e).on("read", path),
    };
    let file = std::fs::File::from(fd);
    if !file.metadata().on("read", path)?.is_file() {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    file.take(MAX_DATABASE).read_to_end(&mut bytes).on("read", path)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:Web:/var/www:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nweb:x:33:\nlogs:x:40:web,root\n";

    #[test]
    fn users_resolve_as_docker_does() {
        let cases: [(&str, (u32, u32, &[u32], &str)); 7] = [
            ("", (0, 0, &[0, 40], "/root")),
            ("web", (33, 33, &[33, 40], "/var/www")),
            ("33", (33, 33, &[33, 40], "/var/www")),
            ("web:logs", (33, 40, &[40], "/var/www")),
            ("web:7", (33, 7, &[7], "/var/www")),
            ("1000", (1000, 0, &[0], "/")),
            ("1000:1000", (1000, 1000, &[1000], "/")),
        ];
        for (spec, (uid, gid, groups, home)) in cases {
            let user = User::from_databases(spec, &[], PASSWD, GROUP).expect("resolves");
            let found: Vec<u32> = user.groups.iter().map(|g| g.as_raw()).collect();
            assert_eq!(
                (user.uid.as_raw(), user.gid.as_raw(), &found[..], &user.home[..]),
                (uid, gid, groups, home),
                "{spec}"
            );
        }
        for (bad, why) in [
            ("nobody", "unable to find user nobody: no matching entries in passwd file"),
            ("web:none", "unable to find group none: no matching entries in group file"),
            ("4294967295", "uids and gids must be in range 0-4294967294"),
            ("web:99999999999", "uids and gids must be in range 0-4294967294"),
            ("-1", "uids and gids must be in range 0-4294967294"),
        ] {
            let error = User::from_databases(bad, &[], PASSWD, GROUP).expect_err(bad);
            assert_eq!(error.to_string(), why, "{bad}");
        }
    }
}
