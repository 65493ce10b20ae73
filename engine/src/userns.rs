//! Which IDs of the host stand for those of a container that has a user namespace (user_namespaces(7)). On disk images
//! and containers have the container's own IDs: mounts translate them (mount_setattr(2), `MOUNT_ATTR_IDMAP`), so one
//! copy serves containers with and without.

use serde::{Deserialize, Serialize};

/// IDs of a container that follow each other, and those of the host that they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The first in the container.
    pub container: u32,
    /// The first on the host.
    pub host: u32,
    /// How many.
    pub count: u32,
}

impl IdRange {
    fn find(ranges: &[Self], id: u32, from: impl Fn(&Self) -> u32, to: impl Fn(&Self) -> u32) -> Option<u32> {
        let hit = ranges.iter().find(|r| id.checked_sub(from(r)).is_some_and(|n| n < r.count))?;
        Some(to(hit) + (id - from(hit)))
    }
}

/// The user and group IDs of containers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMaps {
    /// User IDs.
    pub uids: Vec<IdRange>,
    /// Group IDs.
    pub gids: Vec<IdRange>,
}

/// What an ID is that has no other (overflowuid, proc(5)).
const NOBODY: u32 = 65534;

impl IdMaps {
    /// The host's IDs that are root in a container.
    pub fn root(&self) -> (u32, u32) {
        self.to_host(0, 0).unwrap_or((NOBODY, NOBODY))
    }

    /// The host's IDs of a container's owner; none for IDs that containers do not have.
    pub fn to_host(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        let of = |ranges: &[IdRange], id| IdRange::find(ranges, id, |r| r.container, |r| r.host);
        Some((of(&self.uids, uid)?, of(&self.gids, gid)?))
    }

    /// The container's IDs of an owner on the host; those of nobody for what containers do not have.
    pub fn to_container(&self, uid: u32, gid: u32) -> (u32, u32) {
        let of =
            |ranges: &[IdRange], id| IdRange::find(ranges, id, |r| r.host, |r| r.container).unwrap_or(NOBODY);
        (of(&self.uids, uid), of(&self.gids, gid))
    }

    /// What is written to `uid_map` and `gid_map`.
    pub fn lines(&self) -> [String; 2] {
        [&self.uids, &self.gids].map(|ranges| {
            ranges.iter().map(|r| format!("{} {} {}\n", r.container, r.host, r.count)).collect::<String>()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_translated_both_ways() {
        let range = |container, host, count| IdRange { container, host, count };
        let maps = IdMaps {
            uids: vec![range(0, 1000, 1), range(1, 200_000, 10)],
            gids: vec![range(0, 100_000, 65536)],
        };
        assert_eq!(maps.root(), (1000, 100_000));
        assert_eq!(maps.to_host(5, 7), Some((200_004, 100_007)));
        assert_eq!(maps.to_host(11, 0), None);
        assert_eq!(maps.to_container(200_004, 100_007), (5, 7));
        assert_eq!(maps.to_container(0, 99_999), (NOBODY, NOBODY));
        assert_eq!(maps.lines(), ["0 1000 1\n1 200000 10\n".to_owned(), "0 100000 65536\n".to_owned()]);
    }
}
