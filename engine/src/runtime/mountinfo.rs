//! The mounts of this process's mount namespace, as /proc/self/mountinfo tells of them (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountInfo {
    /// Where.
    pub mount_point: PathBuf,
    /// What is mounted in it passes to its peers.
    pub shared: bool,
    /// It takes over what is mounted in its master.
    pub slave: bool,
}

/// All mounts, in the order they were made.
pub fn read() -> io::Result<Vec<MountInfo>> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(text.split(|b| *b == b'\n').filter_map(parse).collect())
}

/// The mount that a path without symbolic links lies on.
pub fn of<'a>(mounts: &'a [MountInfo], path: &Path) -> Option<&'a MountInfo> {
    let below = mounts.iter().filter(|m| path.starts_with(&m.mount_point));
    // Of those on one place, the last hides the others.
    below.max_by_key(|m| m.mount_point.components().count())
}

pub(crate) fn parse(line: &[u8]) -> Option<MountInfo> {
    let mut fields = line.split(|b| *b == b' ');
    let mount_point = unescape(fields.nth(4)?);
    let optional: Vec<&[u8]> = fields.skip(1).take_while(|f| *f != b"-").collect();
    let has = |word: &[u8]| optional.iter().any(|f| f.starts_with(word));
    Some(MountInfo { mount_point, shared: has(b"shared:"), slave: has(b"master:") })
}

/// Blanks and the like are written `\040`.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let code = tail.get(..3).and_then(|t| std::str::from_utf8(t).ok());
        match code.and_then(|t| u8::from_str_radix(t, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                out.push(byte);
                rest = &tail[3..];
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(out).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_the_nearest_mount_is_found() {
        let lines = [
            "1 0 8:1 / / rw shared:1 - ext4 /dev/x rw",
            "2 1 0:5 / /mnt/a\\040b rw,nosuid master:4 - tmpfs tmpfs rw",
            "3 1 0:6 / /mnt rw - tmpfs tmpfs rw",
        ];
        let mounts: Vec<_> = lines.iter().filter_map(|l| parse(l.as_bytes())).collect();
        assert_eq!(mounts.len(), 3);
        assert_eq!(of(&mounts, Path::new("/mnt/a b/c")), Some(&mounts[1]));
        assert!(mounts[1].slave && !mounts[1].shared && mounts[0].shared);
        assert_eq!(of(&mounts, Path::new("/mnt/ab")), Some(&mounts[2]));
        assert_eq!(of(&mounts, Path::new("/srv")), Some(&mounts[0]));
        assert_eq!(parse(b""), None);
    }
}
