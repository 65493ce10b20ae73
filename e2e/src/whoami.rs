//! Makes an image out of skep's own static binary: no network, no registry.

use std::path::Path;

use anyhow::{Context, Result};

/// A plain tar for `docker import`: `/skep`, whose `whoami` command serves HTTP.
pub fn whoami_image(skep: &Path, to: &Path) -> Result<()> {
    let file = std::fs::File::create(to).with_context(|| format!("make {}", to.display()))?;
    let mut tar = tar::Builder::new(std::io::BufWriter::new(file));
    for dir in ["etc", "proc", "sys", "dev", "tmp"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o755);
        header.set_size(0);
        tar.append_data(&mut header, dir, std::io::empty())?;
    }
    tar.append_path_with_name(skep, "skep").with_context(|| format!("read {}", skep.display()))?;
    tar.into_inner()?.into_inner()?.sync_all()?;
    Ok(())
}
