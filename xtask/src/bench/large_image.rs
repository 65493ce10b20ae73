//! An image of 300 MB in six layers, of real files: this machine's programs and libraries.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use super::peers::digest;

/// Its layers.
pub const LAYERS: usize = 6;
const LAYER: u64 = 50_000_000;
/// All of its files.
pub const MEGABYTES: u64 = LAYERS as u64 * LAYER / 1_000_000;

/// The image in Docker's archive format, in a file of this directory, to be loaded under a name.
pub fn archive(dir: &Path, name: &str) -> Result<PathBuf> {
    let mut files = Vec::new();
    for folder in
        ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/bin", "/usr/lib", "/usr/share"]
    {
        collect(Path::new(folder), &mut files)?;
    }
    files.sort();
    files.dedup();
    let mut files = files.into_iter();
    let folder = dir.join("image");
    std::fs::create_dir_all(&folder)?;
    let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
    for number in 0..LAYERS {
        let name = format!("{number}.tar");
        let path = folder.join(&name);
        let mut out = tar::Builder::new(std::fs::File::create(&path)?);
        out.follow_symlinks(false);
        let mut size = 0;
        while size < LAYER {
            let file = files.next().context("this machine has too few files for an image of 300 MB")?;
            size += std::fs::metadata(&file)?.len();
            out.append_path_with_name(&file, file.strip_prefix("/")?)?;
        }
        out.into_inner()?.sync_all()?;
        diff_ids.push(digest(&path)?);
        layers.push(name);
    }
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    std::fs::write(folder.join("config.json"), serde_json::to_vec(&config)?)?;
    let manifest = json!([{ "Config": "config.json", "RepoTags": [name], "Layers": layers }]);
    std::fs::write(folder.join("manifest.json"), serde_json::to_vec(&manifest)?)?;
    let path = dir.join("image.tar");
    let mut out = tar::Builder::new(std::fs::File::create(&path)?);
    out.append_dir_all(".", &folder)?;
    out.into_inner()?;
    std::fs::remove_dir_all(&folder)?;
    Ok(path)
}

/// Regular files that an archive can hold without more ado: of one link, and with short names.
fn collect(folder: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            collect(&entry.path(), into)?;
        } else if kind.is_file() && entry.path().as_os_str().as_bytes().len() < 100 {
            into.push(entry.path());
        }
    }
    Ok(())
}
