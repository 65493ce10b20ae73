//! Files of an archive that was not unpacked, as an archive of their own.

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;

use tar::EntryType;

use super::{DEEPEST, Meta, Pack, Source};
use crate::image::tree::{Content, Node, Tree};

impl<W: Write> Pack<'_, W> {
    /// Adds what is in a directory of it, as [`Pack::children`] does.
    pub(crate) fn tree_children(
        &mut self,
        tree: &Tree,
        directory: &Node,
        prefix: Option<&[u8]>,
    ) -> io::Result<()> {
        if self.depth > DEEPEST {
            return Err(io::Error::other("its directories are nested too deep"));
        }
        self.depth += 1;
        for (name, node) in tree.children(directory) {
            let path = match prefix {
                None => name.as_bytes().to_vec(),
                Some(prefix) => [prefix, b"/", name.as_bytes()].concat(),
            };
            self.tree_entry(tree, node, &path)?;
        }
        self.depth -= 1;
        Ok(())
    }

    /// Adds one of its entries, with all below it, as `path`.
    pub(crate) fn tree_entry(&mut self, tree: &Tree, node: &Node, path: &[u8]) -> io::Result<()> {
        if self.leave_out.is_some_and(|out| out(path, node.is_directory())) {
            return Ok(());
        }
        let source = Source::Known(&node.xattrs);
        let meta = |kind: u32, size: u64| Meta {
            mode: kind | node.mode,
            uid: node.uid,
            gid: node.gid,
            mtime: node.mtime,
            size,
            device: 0,
        };
        match &node.content {
            Content::Directory(_) => {
                let name = [path, b"/"].concat();
                let meta = meta(libc::S_IFDIR, 0);
                self.put(EntryType::Directory, &meta, &name, b"", source, io::empty())?;
                self.tree_children(tree, node, Some(path))
            }
            Content::File { size, .. } => {
                let meta = meta(libc::S_IFREG, *size);
                self.put(EntryType::Regular, &meta, path, b"", source, tree.content(node))
            }
            Content::Symlink(to) => {
                let meta = meta(libc::S_IFLNK, 0);
                self.put(EntryType::Symlink, &meta, path, to, Source::None, io::empty())
            }
        }
    }
}
