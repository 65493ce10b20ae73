//! How many bytes a directory holds, as Docker counts: sizes of files, hard links once, other file systems left out.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Bytes below `path`. What vanishes or cannot be read meanwhile counts nothing.
pub(crate) fn of(path: &Path) -> u64 {
    let Ok(top) = std::fs::symlink_metadata(path) else { return 0 };
    let (mut seen, mut bytes) = (HashSet::new(), 0);
    let mut waiting = vec![path.to_path_buf()];
    while let Some(dir) = waiting.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.dev() != top.dev() {
                continue;
            }
            if meta.is_dir() {
                waiting.push(entry.path());
            } else if meta.nlink() > 1 && !seen.insert(meta.ino()) {
                continue;
            } else if meta.is_file() {
                bytes += meta.size();
            }
        }
    }
    bytes
}
