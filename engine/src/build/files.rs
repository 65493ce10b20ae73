//! The files that steps take from elsewhere: a directory, mounted layers, or an archive that was not unpacked.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use crate::container::pack::{Pack, names};
use crate::container::{evaluate, evaluate_by};
use crate::image::tree::{Content, Tree};
use crate::runtime::resolve::Root;

/// Where they are looked up. Links on the way are followed and stay within. All of it blocks.
#[derive(Clone, Copy)]
pub(super) enum Files<'a> {
    /// Below a root.
    Root(&'a Root),
    /// In an archive.
    Tree(&'a Tree),
}

/// What something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
    Other,
}

impl<'a> Files<'a> {
    /// Whether there is something at a path, be it a link.
    pub(super) fn exists(self, path: &Path) -> io::Result<bool> {
        match self.kind(path) {
            Ok(_) => Ok(true),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// What is at a path; a link at its end is itself.
    pub(super) fn kind(self, path: &Path) -> io::Result<Kind> {
        match self {
            Self::Root(root) => {
                let opened = root.open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW, 0)?;
                Ok(match nix::sys::stat::fstat(&opened)?.st_mode & libc::S_IFMT {
                    libc::S_IFDIR => Kind::Directory,
                    libc::S_IFREG => Kind::File,
                    _ => Kind::Other,
                })
            }
            Self::Tree(tree) => Ok(match tree.find_itself(path)?.content {
                Content::Directory(_) => Kind::Directory,
                Content::File { .. } => Kind::File,
                Content::Symlink(_) => Kind::Other,
            }),
        }
    }

    /// The names in a directory, in order.
    pub(super) fn names(self, path: &Path) -> io::Result<Vec<OsString>> {
        match self {
            Self::Root(root) => names(&root.open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0)?),
            Self::Tree(tree) => {
                let node = tree.find(path)?;
                if !node.is_directory() {
                    return Err(io::Error::from_raw_os_error(libc::ENOTDIR));
                }
                Ok(tree.children(node).map(|(name, _)| name.to_owned()).collect())
            }
        }
    }

    /// A path without links.
    pub(super) fn evaluate(self, path: &Path) -> io::Result<PathBuf> {
        match self {
            Self::Root(root) => evaluate(root, path),
            Self::Tree(tree) => evaluate_by(path, |at| tree.link(at)),
        }
    }

    /// The content of a file.
    pub(super) fn open(self, path: &Path) -> io::Result<Box<dyn Read + Send + 'a>> {
        Ok(match self {
            Self::Root(root) => {
                Box::new(File::from(root.open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK, 0)?))
            }
            Self::Tree(tree) => {
                let node = tree.find(path)?;
                if node.is_directory() {
                    return Err(io::Error::from_raw_os_error(libc::EISDIR));
                }
                Box::new(tree.content(node))
            }
        })
    }

    /// Adds what is in a directory to an archive.
    pub(super) fn pack_content(self, pack: &mut Pack<'_, impl Write>, path: &Path) -> io::Result<()> {
        match self {
            Self::Root(root) => {
                pack.children(&root.open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0)?, None)
            }
            Self::Tree(tree) => pack.tree_children(tree, tree.find(path)?, None),
        }
    }

    /// Adds what is at a path to an archive, with all below it, as `name`.
    pub(super) fn pack_entry(
        self,
        pack: &mut Pack<'_, impl Write>,
        path: &Path,
        name: &OsStr,
    ) -> io::Result<()> {
        match self {
            Self::Root(root) => {
                let above = path.parent().unwrap_or(Path::new("/"));
                let parent = root.open(above, OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0)?;
                pack.entry(&parent, path.file_name().unwrap_or(OsStr::new(".")), name.as_bytes())
            }
            Self::Tree(tree) => pack.tree_entry(tree, tree.find_itself(path)?, name.as_bytes()),
        }
    }
}
