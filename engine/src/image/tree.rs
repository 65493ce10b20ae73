//! An archive as a tree of files that are read from where they lie in it. A build context is mostly read once, or not at all
//! where all steps are kept: making its files, only to remove them again, would cost more than all else.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Component, Path};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::compression::decoder;
use super::extract::{self, CopyRules};
use super::tar::{Entry, Kind, TarReader};
use crate::error::Error;

/// Links that are followed in one path (path_resolution(7)).
const MOST_LINKS: usize = 40;
/// Bytes of a path, and of a name in it, that a file system takes.
const LONGEST_PATH: usize = 4095;
const LONGEST_NAME: usize = 255;
/// Entries that are kept in memory.
const MOST_NODES: usize = 1 << 20;
const ROOT: usize = 0;

/// Files, directories and links of an archive.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    nodes: Arc<Vec<Node>>,
    archive: Arc<File>,
    /// Its directory.
    root: usize,
    /// What is not in it any more.
    gone: Vec<usize>,
}

/// One that is being read.
struct Growing(Vec<Node>);

/// One of them.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) content: Content,
    /// Permissions, without the kind.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since the Unix epoch.
    pub(crate) mtime: i64,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What it is.
#[derive(Debug)]
pub(crate) enum Content {
    /// Names and their nodes.
    Directory(BTreeMap<Vec<u8>, usize>),
    /// Where its bytes begin in the archive, and how many they are.
    File {
        at: u64,
        size: u64,
    },
    Symlink(Vec<u8>),
}

/// An archive that came whole.
#[derive(Debug)]
pub(crate) enum Arrived {
    Tree(Tree),
    /// Something in it is only told by a file system: hard links, devices, sparse files, ways through links.
    Odd(Odd),
}

/// An archive that has to be unpacked.
#[derive(Debug)]
pub(crate) struct Odd(File);

impl Arrived {
    /// Reads an archive, plain or compressed, and keeps it in the empty file `kept`.
    pub(crate) fn read(from: impl Read + Send, kept: File) -> Result<Self, Error> {
        let unreadable = |e: io::Error| Error::Archive(format!("it cannot be read: {e}"));
        let (_, reader) = decoder(from).map_err(unreadable)?;
        let copy = kept.try_clone().map_err(unreadable)?;
        let out = BufWriter::with_capacity(256 << 10, copy);
        let mut archive = TarReader::new(Keeping { reader, out, bytes: 0, failed: None }, false);
        let mut nodes = Growing(vec![Node::made()]);
        let mut plain = true;
        loop {
            let next = archive.next();
            let Keeping { bytes: at, failed, .. } = archive.source();
            let (at, entry) = match (next, failed) {
                (Ok(Some(entry)), _) => (*at, entry),
                (Ok(None), _) => break,
                // Not the archive is to blame.
                (Err(_), Some(why)) => return Err(unkept(why)),
                (Err(e), None) => return Err(e),
            };
            plain = plain && nodes.add(&entry, at);
        }
        archive.into_inner().out.flush().map_err(|e| unkept(&e))?;
        if !plain {
            return Ok(Self::Odd(Odd(kept)));
        }
        Ok(Self::Tree(Tree {
            nodes: Arc::new(nodes.0),
            archive: Arc::new(kept),
            root: ROOT,
            gone: Vec::new(),
        }))
    }
}

impl Odd {
    /// Unpacks it into a directory.
    pub(crate) fn unpack(self, to: OwnedFd) -> Result<(), Error> {
        extract::copy_plain(Part { file: &self.0, at: 0, left: u64::MAX }, to, CopyRules::default())
    }
}

impl Node {
    /// A directory that the archive has no entry of.
    fn made() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            content: Content::Directory(BTreeMap::new()),
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: i64::try_from(now.as_secs()).unwrap_or(0),
            xattrs: Vec::new(),
        }
    }

    /// Whether it is a directory.
    pub(crate) fn is_directory(&self) -> bool {
        matches!(self.content, Content::Directory(_))
    }
}

impl Growing {
    /// Takes an entry in, whose content begins `at` bytes into the archive. False = it takes a file system to tell what
    /// it means.
    fn add(&mut self, entry: &Entry, at: u64) -> bool {
        let known = |key: &[u8]| {
            key == b"security.capability" || key.starts_with(b"user.") && !key.starts_with(b"user.overlay.")
        };
        let Ok(path) = extract::clean(&entry.path, "") else { return false };
        if path.len() > LONGEST_PATH
            || entry.extents.is_some()
            || !entry.xattrs.iter().all(|(key, _)| known(key))
            || self.0.len() > MOST_NODES
        {
            return false;
        }
        if path.is_empty() {
            // Where files are copied to stays as it is.
            return entry.kind == Kind::Directory;
        }
        let (above, last) = extract::split(&path);
        let Some(parent) = self.make_directories(above) else { return false };
        let content = match entry.kind {
            Kind::Directory => Content::Directory(BTreeMap::new()),
            Kind::File => Content::File { at, size: entry.size },
            Kind::Symlink if !entry.link.is_empty() && entry.link.len() <= LONGEST_PATH => {
                Content::Symlink(entry.link.clone())
            }
            _ => return false,
        };
        let node = Node {
            content,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime.0,
            xattrs: entry.xattrs.clone(),
        };
        self.put(parent, last, node)
    }

    /// A later entry replaces an earlier one, but a directory keeps what is in it.
    fn put(&mut self, parent: usize, name: &[u8], mut node: Node) -> bool {
        if name.len() > LONGEST_NAME {
            return false;
        }
        let there = match &self.0[parent].content {
            Content::Directory(children) => children.get(name).copied(),
            _ => return false,
        };
        match there {
            Some(n) => {
                let old = &mut self.0[n];
                if let (Content::Directory(new), Content::Directory(kept)) =
                    (&mut node.content, &mut old.content)
                {
                    std::mem::swap(new, kept);
                }
                *old = node;
            }
            None => {
                let number = self.0.len();
                self.0.push(node);
                if let Content::Directory(children) = &mut self.0[parent].content {
                    children.insert(name.to_vec(), number);
                }
            }
        }
        true
    }

    /// The directory `path`, made where it is missing. None = something else is in the way.
    fn make_directories(&mut self, path: &[u8]) -> Option<usize> {
        let mut at = ROOT;
        for name in path.split(|b| *b == b'/').filter(|n| !n.is_empty()) {
            let Content::Directory(children) = &self.0[at].content else { return None };
            at = match children.get(name) {
                Some(n) => *n,
                None => {
                    let next = self.0.len();
                    if !self.put(at, name, Node::made()) {
                        return None;
                    }
                    next
                }
            };
        }
        self.0[at].is_directory().then_some(at)
    }
}

impl Tree {
    /// What is at a path; links are followed and stay within the tree.
    pub(crate) fn find(&self, path: &Path) -> io::Result<&Node> {
        self.look_up(path, true).map(|n| &self.nodes[n])
    }

    /// The same, but for a link at its end.
    pub(crate) fn find_itself(&self, path: &Path) -> io::Result<&Node> {
        self.look_up(path, false).map(|n| &self.nodes[n])
    }

    fn look_up(&self, path: &Path, follow: bool) -> io::Result<usize> {
        let failed = |errno| io::Error::from_raw_os_error(errno);
        let mut left: Vec<OsString> = path.iter().rev().map(OsStr::to_owned).collect();
        let (mut way, mut links) = (vec![self.root], 0);
        while let Some(part) = left.pop() {
            match Path::new(&part).components().next() {
                Some(Component::Normal(name)) => {
                    let here = way.last().copied().unwrap_or(self.root);
                    let Content::Directory(children) = &self.nodes[here].content else {
                        return Err(failed(libc::ENOTDIR));
                    };
                    let found = children.get(name.as_bytes()).filter(|n| !self.gone.contains(n));
                    let found = *found.ok_or_else(|| failed(libc::ENOENT))?;
                    match &self.nodes[found].content {
                        Content::Symlink(to) if follow || !left.is_empty() => {
                            links += 1;
                            if links > MOST_LINKS {
                                return Err(failed(libc::ELOOP));
                            }
                            left.extend(Path::new(OsStr::from_bytes(to)).iter().rev().map(OsStr::to_owned));
                        }
                        _ => way.push(found),
                    }
                }
                Some(Component::ParentDir) if way.len() > 1 => drop(way.pop()),
                Some(Component::RootDir) => way.truncate(1),
                _ => {}
            }
        }
        Ok(way.last().copied().unwrap_or(self.root))
    }

    /// Where a link leads, if there is one at a path.
    pub(crate) fn link(&self, path: &Path) -> Option<OsString> {
        match &self.find_itself(path).ok()?.content {
            Content::Symlink(to) => Some(OsString::from_vec(to.clone())),
            _ => None,
        }
    }

    /// What is in a directory, by names in order. Nothing is in what is none.
    pub(crate) fn children<'a>(&'a self, node: &'a Node) -> impl Iterator<Item = (&'a OsStr, &'a Node)> {
        let children = match &node.content {
            Content::Directory(children) => Some(children),
            _ => None,
        };
        let there = children.into_iter().flatten().filter(|(_, n)| !self.gone.contains(n));
        there.map(|(name, n)| (OsStr::from_bytes(name), &self.nodes[*n]))
    }

    /// The content of a file. There is nothing to read in what is none.
    pub(crate) fn content(&self, node: &Node) -> Part<'_> {
        match node.content {
            Content::File { at, size } => Part { file: &self.archive, at, left: size },
            _ => Part { file: &self.archive, at: 0, left: 0 },
        }
    }

    /// Takes away what is at a path, if it is there and no directory.
    pub(crate) fn remove(&mut self, path: &Path) {
        if let Ok(n) = self.look_up(path, false)
            && !self.nodes[n].is_directory()
        {
            self.gone.push(n);
        }
    }

    /// Takes a directory out, as a tree of its own.
    pub(crate) fn detach(&mut self, path: &Path) -> io::Result<Self> {
        let n = self.look_up(path, false)?;
        if !self.nodes[n].is_directory() || n == self.root {
            return Err(io::Error::from_raw_os_error(libc::ENOTDIR));
        }
        self.gone.push(n);
        Ok(Self { root: n, gone: Vec::new(), ..self.clone() })
    }
}

/// A stretch of a file, read by its place: nobody else's reading moves it.
#[derive(Debug)]
pub(crate) struct Part<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        if want == 0 {
            return Ok(0);
        }
        let n = self.file.read_at(&mut buf[..want], self.at)?;
        self.at += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}

/// Keeps what is read.
struct Keeping<R> {
    reader: R,
    out: BufWriter<File>,
    bytes: u64,
    /// Why it cannot.
    failed: Option<io::Error>,
}

fn unkept(why: &io::Error) -> Error {
    Error::Archive(format!("it cannot be kept: {why}"))
}

impl<R: Read> Read for Keeping<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(buf)?;
        if let Err(e) = self.out.write_all(&buf[..n]) {
            self.failed = Some(e);
            return Err(io::ErrorKind::Other.into());
        }
        self.bytes += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(entries: &[(&str, char, &str)]) -> Vec<u8> {
        let mut out = tar::Builder::new(Vec::new());
        for (path, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            match kind {
                'd' => header.set_entry_type(tar::EntryType::Directory),
                'l' => header.set_entry_type(tar::EntryType::Symlink),
                'h' => header.set_entry_type(tar::EntryType::Link),
                _ => header.set_size(content.len() as u64),
            }
            match kind {
                'l' | 'h' => out.append_link(&mut header, path, content).expect("written"),
                _ => out.append_data(&mut header, path, content.as_bytes()).expect("written"),
            }
        }
        out.into_inner().expect("written")
    }

    fn read(bytes: &[u8]) -> Result<Arrived, Error> {
        Arrived::read(bytes, tempfile::tempfile().expect("temporary file"))
    }

    fn tree(entries: &[(&str, char, &str)]) -> Tree {
        match read(&archive(entries)) {
            Ok(Arrived::Tree(tree)) => tree,
            other => panic!("{other:?}"),
        }
    }

    fn text(tree: &Tree, path: &str) -> Result<String, i32> {
        let node = tree.find(Path::new(path)).map_err(|e| e.raw_os_error().unwrap_or(0))?;
        let mut text = String::new();
        tree.content(node).read_to_string(&mut text).expect("read");
        Ok(text)
    }

    #[test]
    fn files_are_found_by_their_paths_and_links_lead_nowhere_else() {
        let mut tree = tree(&[
            ("./", 'd', ""),
            ("a/b/file", 'f', "one"),
            ("a/up", 'l', "../../../top"),
            ("a/abs", 'l', "/a/b"),
            ("top", 'f', "two"),
            ("loop", 'l', "loop"),
            ("a/b/file", 'f', "three"),
            ("a/b", 'd', ""),
        ]);
        assert_eq!(text(&tree, "/a/b/file").as_deref(), Ok("three"));
        assert_eq!(text(&tree, "/a/up").as_deref(), Ok("two"));
        assert_eq!(text(&tree, "/a/abs/../b/./file").as_deref(), Ok("three"));
        assert_eq!(text(&tree, "/loop"), Err(libc::ELOOP));
        assert_eq!(text(&tree, "/a/none"), Err(libc::ENOENT));
        assert_eq!(text(&tree, "/top/x"), Err(libc::ENOTDIR));
        assert_eq!(tree.link(Path::new("/a/abs")).as_deref(), Some(OsStr::new("/a/b")));
        let names: Vec<_> = tree.children(tree.find(Path::new("/a")).expect("there")).collect();
        assert_eq!(names.iter().map(|(n, _)| *n).collect::<Vec<_>>(), ["abs", "b", "up"]);
        tree.remove(Path::new("/a/abs/file"));
        tree.remove(Path::new("/a"));
        assert_eq!(text(&tree, "/a/b/file"), Err(libc::ENOENT));
        assert!(tree.find(Path::new("/a")).is_ok());
        let apart = tree.detach(Path::new("/a/b")).expect("a directory");
        assert!(apart.find(Path::new("/..")).is_ok_and(Node::is_directory));
        assert_eq!(text(&apart, "/a/b"), Err(libc::ENOENT));
        assert_eq!(text(&tree, "/a/b"), Err(libc::ENOENT));
    }

    #[test]
    fn what_only_a_file_system_tells_is_unpacked() {
        for odd in [
            &[("a", 'f', "x"), ("b", 'h', "a")][..],
            &[("a", 'l', "b"), ("a/c", 'f', "x")],
            &[("a", 'f', "x"), ("a/c", 'f', "x")],
        ] {
            assert!(matches!(read(&archive(odd)), Ok(Arrived::Odd(_))), "{odd:?}");
        }
        let hard = archive(&[("a", 'f', "same"), ("b", 'h', "a")]);
        let Ok(Arrived::Odd(odd)) = read(&hard) else { panic!("not odd") };
        let dir = tempfile::tempdir().expect("temporary directory");
        odd.unpack(File::open(dir.path()).expect("opened").into()).expect("unpacked");
        assert_eq!(std::fs::read_to_string(dir.path().join("b")).expect("read"), "same");
        assert!(read(&hard[..514]).is_err());
        // A disk that is full is not an archive that is damaged.
        let full = File::options().read(true).write(true).open("/dev/full").expect("opened");
        let said = Arrived::read(archive(&[("a", 'f', "x")]).as_slice(), full).map_err(|e| e.to_string());
        assert!(said.is_err_and(|e| e.contains("it cannot be kept: No space left on device")));
    }
}
