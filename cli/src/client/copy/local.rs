//! This host's side of `cp`: archives made of local files and unpacked into them.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use tar::EntryType;

use super::paths::{base, clean, means_content, parent_and_base};

/// Counts what passes.
pub struct Counted<T> {
    pub inner: T,
    pub bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.bytes += n as u64;
        Ok(n)
    }
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Whether a path can be written at all.
pub fn check_output(path: &str) -> Result<()> {
    let above = parent_and_base(path).0;
    if !Path::new(&above).exists() {
        bail!("invalid output path: directory {above:?} does not exist");
    }
    match fs::metadata(path) {
        Ok(m) if !m.is_dir() && !m.is_file() => {
            bail!("invalid output path: {path:?} must be a directory or a regular file")
        }
        _ => Ok(()),
    }
}

/// Where an archive is unpacked, and what becomes of the name its entries begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    directory: PathBuf,
    from: String,
    to: String,
}

/// Decides it for an archive whose entries begin with `name`, to be called `renamed` if given.
pub fn placed(name: &str, renamed: Option<&str>, is_dir: bool, to: &str) -> Result<Placed> {
    let (above, last) = parent_and_base(to);
    let found = fs::metadata(to);
    let own = renamed.unwrap_or(name);
    let (directory, to) = match &found {
        Ok(m) if m.is_dir() => (to.to_owned(), own.to_owned()),
        Ok(_) if is_dir => bail!("cannot copy directory"),
        Err(_) if !is_dir && (to.ends_with('/') || means_content(to)) => bail!("no such directory"),
        _ => (above, last),
    };
    // The root of the container has no name: its content goes where it is asked to.
    let to = if to == "/" { ".".to_owned() } else { to };
    let from = if name == "/" { String::new() } else { name.to_owned() };
    Ok(Placed { directory: directory.into(), from, to })
}

impl Placed {
    /// An entry's path below the directory; none for one that is not of this archive's making.
    fn path(&self, entry: &Path) -> Option<PathBuf> {
        let mut parts: Vec<&std::ffi::OsStr> = Vec::new();
        for part in entry.components() {
            match part {
                Component::Normal(p) => parts.push(p),
                Component::CurDir | Component::RootDir => {}
                Component::ParentDir | Component::Prefix(_) => return None,
            }
        }
        let named = !self.from.is_empty() && self.from != ".";
        if named {
            if parts.first().is_none_or(|p| *p != self.from.as_str()) {
                return None;
            }
            parts.remove(0);
        }
        let mut path = if self.to == "." { PathBuf::new() } else { PathBuf::from(&self.to) };
        path.extend(parts);
        Some(path)
    }
}

/// Unpacks an archive. Nothing is written outside the directory, whatever links it holds.
pub fn unpack(archive: impl Read, place: &Placed) -> Result<()> {
    let root =
        fs::canonicalize(&place.directory).with_context(|| format!("open {}", place.directory.display()))?;
    let mut archive = tar::Archive::new(archive);
    let mut directories = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.into_owned();
        let Some(relative) = place.path(&name) else {
            bail!("the archive holds {:?}, which does not belong to what is copied", name.display())
        };
        let path = root.join(&relative);
        let kind = entry.header().entry_type();
        if path == root {
            continue;
        }
        stays(&root, &path)?;
        let above = path.parent().unwrap_or(&root);
        fs::create_dir_all(above).with_context(|| format!("make {}", above.display()))?;
        make_way(&path, kind.is_dir())?;
        let failed = || format!("write {}", path.display());
        match kind {
            EntryType::Directory => {
                if !path.is_dir() {
                    fs::create_dir(&path).with_context(failed)?;
                }
                directories.push((path.clone(), entry.header().mode()?));
            }
            EntryType::Link => {
                let link = entry.link_name()?.context("a hard link without a target")?;
                let target = root.join(place.path(&link).context("a hard link that leads elsewhere")?);
                stays(&root, &target)?;
                fs::hard_link(&target, &path).with_context(failed)?;
            }
            _ => {
                entry.set_preserve_permissions(true);
                entry.set_preserve_mtime(true);
                entry.unpack(&path).with_context(failed)?;
            }
        }
    }
    // Last, since a directory may be one that we could not have written into.
    for (path, mode) in directories.into_iter().rev() {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode & 0o7777))
            .with_context(|| format!("set the mode of {}", path.display()))?;
    }
    Ok(())
}

/// Refuses a path that a link above it would take out of the root; what is missing above it may then be made.
fn stays(root: &Path, path: &Path) -> Result<()> {
    let above = path.ancestors().skip(1).find(|p| fs::symlink_metadata(p).is_ok()).unwrap_or(root);
    match fs::canonicalize(above) {
        Ok(real) if real.starts_with(root) => Ok(()),
        _ => bail!("the archive would reach {} through a link that leads elsewhere", path.display()),
    }
}

/// What is there gives way, save that a directory and something else do not take each other's place.
fn make_way(path: &Path, to_dir: bool) -> Result<()> {
    let Ok(there) = fs::symlink_metadata(path) else { return Ok(()) };
    let shown = path.display();
    match (there.is_dir(), to_dir) {
        (true, true) => Ok(()),
        (true, false) => bail!("cannot overwrite directory \"{shown}\" with non-directory \"{shown}\""),
        (false, true) => bail!("cannot overwrite non-directory \"{shown}\" with directory \"{shown}\""),
        (false, false) => fs::remove_file(path).with_context(|| format!("replace {shown}")),
    }
}

/// What is copied into a container.
#[derive(Clone, Debug)]
pub struct Source {
    path: PathBuf,
    /// Name of its entry in the archive, unless the destination gives it another.
    pub name: String,
    pub is_dir: bool,
}

impl Source {
    /// Looks at a path. A link at its end is followed only if asked, or if the path means a directory.
    pub fn find(path: &str, follow: bool) -> Result<Self> {
        let directory = path.ends_with('/') || means_content(path);
        let shown = clean(path);
        let meta = match follow || directory {
            true => fs::metadata(path),
            false => fs::symlink_metadata(&shown),
        };
        let absolute = super::paths::absolute(path)?;
        let meta = meta.map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                anyhow::anyhow!("lstat {}: no such file or directory", clean(&absolute))
            }
            _ => anyhow::anyhow!("lstat {}: {e}", clean(&absolute)),
        })?;
        let real = match follow || directory {
            true => fs::canonicalize(path)?,
            false => shown.into(),
        };
        Ok(Self { path: real, name: base(&absolute), is_dir: meta.is_dir() })
    }

    /// Writes it as an archive whose root has this name; the bytes written.
    pub fn pack(self, to: impl Write, name: &str) -> Result<u64> {
        let mut out = tar::Builder::new(Counted { inner: to, bytes: 0 });
        out.follow_symlinks(false);
        if self.is_dir {
            out.append_dir_all(if name == "/" { "." } else { name }, &self.path)
        } else {
            out.append_path_with_name(&self.path, name)
        }
        .with_context(|| format!("read {}", self.path.display()))?;
        let mut counted = out.into_inner()?;
        counted.flush()?;
        Ok(counted.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
        let mut out = tar::Builder::new(Vec::new());
        for (name, kind, text) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o755);
            header.set_size(0);
            if *kind == EntryType::Regular {
                header.set_size(text.len() as u64);
            } else if *kind != EntryType::Directory {
                header.set_link_name(text).expect("fits");
            }
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            let data = if *kind == EntryType::Regular { text.as_bytes() } else { b"" };
            out.append(&header, data).expect("writes");
        }
        out.into_inner().expect("writes")
    }

    #[test]
    fn what_is_copied_takes_the_place_it_is_given_and_no_other() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let at = |name: &str| dir.path().join(name);
        let to = |name: &str| at(name).display().to_string();
        let tree = archive(&[
            ("etc/", EntryType::Directory, ""),
            ("etc/a", EntryType::Regular, "text"),
            ("etc/h", EntryType::Link, "etc/a"),
            ("etc/l", EntryType::Symlink, "/nowhere"),
        ]);
        // A new name, then into a directory that is there.
        unpack(tree.as_slice(), &placed("etc", None, true, &to("new")).expect("placed")).expect("unpacks");
        assert_eq!(fs::read_to_string(at("new/a")).expect("there"), "text");
        assert_eq!(fs::read_to_string(at("new/h")).expect("there"), "text");
        unpack(tree.as_slice(), &placed("etc", None, true, &to("new")).expect("placed")).expect("unpacks");
        assert!(at("new/etc/a").exists());
        let content = archive(&[("./", EntryType::Directory, ""), ("./b", EntryType::Regular, "b")]);
        unpack(content.as_slice(), &placed(".", None, true, &to("new")).expect("placed")).expect("unpacks");
        assert!(at("new/b").exists());
        let root = archive(&[("/", EntryType::Directory, ""), ("/bin", EntryType::Regular, "b")]);
        unpack(root.as_slice(), &placed("/", None, true, &to("whole")).expect("placed")).expect("unpacks");
        assert!(at("whole/bin").exists());
        let outside = tempfile::tempdir().expect("temporary directory");
        fs::write(outside.path().join("s"), "secret").expect("writes");
        let out = outside.path().to_str().expect("text");
        for (evil, name) in [
            (archive(&[("etc/../../x", EntryType::Regular, "x")]), "etc"),
            (archive(&[("other", EntryType::Regular, "x")]), "etc"),
            (
                archive(&[
                    ("etc/", EntryType::Directory, ""),
                    ("etc/out", EntryType::Symlink, out),
                    ("etc/out/x", EntryType::Regular, "x"),
                ]),
                "etc",
            ),
            (
                archive(&[("etc/out", EntryType::Symlink, out), ("etc/out/d/x", EntryType::Regular, "x")]),
                "etc",
            ),
            (
                archive(&[("etc/out", EntryType::Symlink, out), ("etc/h2", EntryType::Link, "etc/out/s")]),
                "etc",
            ),
        ] {
            let place = placed(name, None, true, &to("new")).expect("placed");
            assert!(unpack(evil.as_slice(), &place).is_err());
        }
        assert_eq!(fs::read_dir(outside.path()).expect("reads").count(), 1);
        assert!(!at("new/etc/h2").exists());
        assert!(placed("f", None, false, &to("none/")).is_err());
        assert!(placed("d", None, true, &to("new/a")).is_err());
    }
}
