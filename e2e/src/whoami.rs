//! Makes an image out of skep's own static binary: no network, no registry.

use std::path::Path;

use anyhow::{Context, Result};

/// A plain tar for `docker import`: `/skep`, whose `whoami` command serves HTTP.
pub fn whoami_image(skep: &Path, to: &Path) -> Result<()> {
    image(skep, false, to)
}

/// The same with a shell and `wget`, for health checks.
pub fn whoami_image_with_busybox(skep: &Path, to: &Path) -> Result<()> {
    image(skep, true, to)
}

fn image(skep: &Path, busybox: bool, to: &Path) -> Result<()> {
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
    if busybox {
        tar.append_path_with_name("/bin/busybox", "bin/busybox").context("busybox-static is installed")?;
        for applet in ["sh", "wget"] {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            header.set_size(0);
            tar.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
        }
    }
    tar.into_inner()?.into_inner()?.sync_all()?;
    Ok(())
}
