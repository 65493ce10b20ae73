//! A file's type and permissions as Go's `os.FileMode` has them.

/// Bits of `st_mode` (inode(7)) and what Go makes of them.
const TYPES: [(u32, u32); 6] = [
    (0o040_000, 1 << 31),
    (0o120_000, 1 << 27),
    (0o060_000, 1 << 26),
    (0o020_000, 1 << 26 | 1 << 21),
    (0o010_000, 1 << 25),
    (0o140_000, 1 << 24),
];

/// Set-user-ID, set-group-ID, sticky.
const SPECIAL: [(u32, u32); 3] = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];

/// Converts `st_mode`.
pub fn go(mode: u32) -> u32 {
    let kind = TYPES.iter().find(|(unix, _)| mode & 0o170_000 == *unix).map_or(0, |(_, go)| *go);
    let special = SPECIAL.iter().filter(|(unix, _)| mode & unix != 0).fold(0, |all, (_, go)| all | go);
    kind | special | mode & 0o777
}

/// Converts permissions back; none if there is anything else.
pub fn unix(go: u32) -> Option<u32> {
    let special = SPECIAL.iter().filter(|(_, bit)| go & bit != 0);
    let mode = special.fold(go & 0o777, |all, (unix, _)| all | unix);
    (self::go(mode) == go).then_some(mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_gos() {
        for (unix, wanted) in
            [(0o100_644, 0o644), (0o041_777, 1 << 31 | 1 << 20 | 0o777), (0o104_755, 1 << 23 | 0o755)]
        {
            assert_eq!(go(unix), wanted, "{unix:o}");
        }
        for mode in [0, 0o444, 0o4755, 0o1777] {
            assert_eq!(unix(go(mode)), Some(mode), "{mode:o}");
        }
        assert_eq!((unix(0o4755), unix(1 << 31 | 0o755)), (None, None));
        assert_eq!(go(0o020_666), 1 << 26 | 1 << 21 | 0o666);
    }
}
