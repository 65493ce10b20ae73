//! Makes an image of Debian's static busybox.

use std::path::Path;

use anyhow::{Context, Result};

/// A plain tar for `docker import`: `/bin/busybox` and links to it by these names.
pub fn busybox_image(applets: &[&str], to: &Path) -> Result<()> {
    busybox_image_of(Path::new("/bin/busybox"), applets, to).context("busybox-static is installed")
}

/// The same of a busybox from elsewhere.
pub fn busybox_image_of(busybox: &Path, applets: &[&str], to: &Path) -> Result<()> {
    let file = std::fs::File::create(to).with_context(|| format!("make {}", to.display()))?;
    let mut tar = tar::Builder::new(std::io::BufWriter::new(file));
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o1777);
    header.set_size(0);
    tar.append_data(&mut header, "tmp", std::io::empty())?;
    tar.append_path_with_name(busybox, "bin/busybox")
        .with_context(|| format!("read {}", busybox.display()))?;
    for applet in applets {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
    }
    tar.into_inner()?.into_inner()?.sync_all()?;
    Ok(())
}
