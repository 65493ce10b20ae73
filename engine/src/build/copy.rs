//! `COPY` and `ADD`: what is copied, found in a context, a stage or an image; what it is known by; and the copying.
//! All of it blocks.

use std::io::{self, BufWriter, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use sha2::{Digest, Sha256};

use super::files::{Files, Kind};
use super::layer::make_directories;
use super::left_out::LeftOut;
use crate::container::pack::{Pack, Told};
use crate::dockerfile::{Glob, Ignore};
use crate::error::Error;
use crate::image::extract::{self, CopyRules};
use crate::permissions::Permissions;
use crate::runtime::User;
use crate::runtime::resolve::Root;

/// One thing to be copied.
#[derive(Clone, Debug)]
pub(super) enum Item {
    /// What is in a directory.
    Content { path: PathBuf },
    /// A file, link or whole directory, by the name it gets.
    Entry { path: PathBuf, name: PathBuf },
    /// An archive that is unpacked.
    Archive { path: PathBuf },
    /// A file that was written in the Dockerfile.
    Written { name: PathBuf, text: String },
}

/// How it is copied.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    /// What the context was sent without; nothing where the source is no context.
    pub(super) left_out: LeftOut,
    /// `COPY` or `ADD`.
    pub(super) keyword: &'static str,
    /// Owner as it was written.
    pub(super) chown: Option<String>,
    pub(super) mode: Option<Permissions>,
    /// Owners are those of the source.
    pub(super) keep_owner: bool,
    /// Keep the directories above sources.
    pub(super) parents: bool,
    /// What is below is not looked at.
    pub(super) linked: bool,
    /// Unpack archives.
    pub(super) unpack: bool,
    /// What is left out.
    pub(super) exclude: Vec<String>,
    pub(super) latest: Option<i64>,
}

impl Rules {
    /// Those of `RUN --mount=type=bind`: all as it is.
    pub(super) fn of_bind() -> Self {
        Self {
            left_out: LeftOut::default(),
            keyword: "--mount=type=bind",
            chown: None,
            mode: None,
            keep_owner: true,
            parents: false,
            linked: false,
            unpack: false,
            exclude: Vec::new(),
            latest: None,
        }
    }
}

impl Item {
    /// What a path is that is no pattern.
    pub(super) fn exactly(files: Files<'_>, path: &Path, rules: &Rules) -> io::Result<Self> {
        item(files, path, 0, rules)
    }

    /// Where it is; what is nowhere yet has its name.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Content { path } | Self::Entry { path, .. } | Self::Archive { path } => path,
            Self::Written { name, .. } => name,
        }
    }
}

/// Finds what a list of paths and patterns means.
pub(super) fn find(files: Files<'_>, sources: &[String], rules: &Rules) -> Result<Vec<Item>, Error> {
    let mut items = Vec::new();
    for source in sources {
        let before = items.len();
        // Where the kept part of the path begins: at `/./`, else at the top.
        let pivot = source.find("/./").map_or("", |i| &source[..i]);
        let pattern: Vec<String> = clean(source);
        let skip = clean(pivot).len();
        let (mut found, top) = (Vec::new(), PathBuf::from("/"));
        let deep = rules.parents && pattern.iter().any(|part| part == "**");
        match deep {
            true => descend(files, top, &pattern, &mut found),
            false => expand(files, top, &pattern, &mut found),
        }
        .map_err(|e| unreadable(source, &e))?;
        for path in found {
            // Of what was found anywhere below, links stay links: they may lead to what is not there.
            let is_link = deep && files.kind(&path).is_ok_and(|kind| kind == Kind::Other);
            items.push(match is_link {
                true => Item::Entry { name: kept(&path, skip), path },
                false => item(files, &path, skip, rules).map_err(|e| unreadable(source, &e))?,
            });
        }
        if items.len() == before {
            return Err(Error::Invalid(format!(
                "{} failed: file not found in build context or excluded by .dockerignore: stat {source}: file does not exist{}{}",
                rules.keyword,
                rules.left_out.blame(source),
                if leads_out(source) { LEADS_OUT } else { "" },
            )));
        }
    }
    Ok(items)
}

/// What is said of a link that leads out, or nowhere.
const LINK_TO_NOTHING: &str = " (it is a link, or there is one on the way, and what that leads to is not there: no link leads out of what is copied from)";

/// What is said of a path that begins above what it is a path in.
const LEADS_OUT: &str = " (no `..` leads out of what is copied from)";

/// Whether a path goes further up than it came down.
pub(super) fn leads_out(path: &str) -> bool {
    let mut depth = 0_usize;
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => match depth.checked_sub(1) {
                Some(up) => depth = up,
                None => return true,
            },
            _ => depth += 1,
        }
    }
    false
}

fn unreadable(source: &str, e: &io::Error) -> Error {
    // What was found, and is not there, can only be a link.
    let link = if e.kind() == io::ErrorKind::NotFound { LINK_TO_NOTHING } else { "" };
    Error::Invalid(format!("cannot copy {source}: {e}{link}"))
}

/// The parts of a path from the top, without `.` and `..` beyond it.
fn clean(path: &str) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part.to_owned()),
        }
    }
    parts
}

/// The paths that fit where `**` is any number of directories: all that is below the part without patterns is looked at,
/// and no link is gone through. <https://docs.docker.com/reference/dockerfile/#copy---parents>
fn descend(files: Files<'_>, top: PathBuf, parts: &[String], found: &mut Vec<PathBuf>) -> io::Result<()> {
    let plain = parts.iter().position(|part| Glob::is_pattern(part)).unwrap_or(parts.len());
    let mut above = Vec::new();
    expand(files, top, &parts[..plain], &mut above)?;
    let glob = Glob::path(&parts[plain..].join("/")).map_err(io::Error::other)?;
    above.iter().try_for_each(|dir| fitting(files, dir, "", &glob, found))
}

/// The paths below a directory that fit. What is in one that does comes with it.
fn fitting(
    files: Files<'_>,
    dir: &Path,
    below: &str,
    glob: &Glob,
    found: &mut Vec<PathBuf>,
) -> io::Result<()> {
    if files.kind(dir)? != Kind::Directory {
        return Ok(());
    }
    for name in files.names(dir)? {
        let path = dir.join(&name);
        // A name that is no UTF-8 fits with the signs that stand for what cannot be read.
        let below = format!("{below}{}", name.to_string_lossy());
        match glob.matches(&below) {
            true => found.push(path),
            false => fitting(files, &path, &format!("{below}/"), glob, found)?,
        }
    }
    Ok(())
}

/// The paths that fit; links on the way are followed inside the root.
fn expand(files: Files<'_>, at: PathBuf, parts: &[String], found: &mut Vec<PathBuf>) -> io::Result<()> {
    let Some((part, rest)) = parts.split_first() else {
        found.push(at);
        return Ok(());
    };
    if !Glob::is_pattern(part) {
        let next = at.join(plain(part));
        return if files.exists(&next)? { expand(files, next, rest, found) } else { Ok(()) };
    }
    let glob = Glob::path(part).map_err(io::Error::other)?;
    let names = match files.names(&at) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(()),
        other => other?,
    };
    for name in names {
        if glob.matches(&name.to_string_lossy()) {
            expand(files, at.join(name), rest, found)?;
        }
    }
    Ok(())
}

/// A part of a path without the signs that take special meanings away.
fn plain(part: &str) -> String {
    let (mut out, mut chars) = (String::new(), part.chars());
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
    }
    out
}

/// What of a path is kept with `--parents`: all but its first `skip` parts.
fn kept(path: &Path, skip: usize) -> PathBuf {
    path.components().skip(1 + skip).collect()
}

/// What a path is. One that is a link means what it leads to.
fn item(files: Files<'_>, path: &Path, skip: usize, rules: &Rules) -> io::Result<Item> {
    let real = files.evaluate(path)?;
    let kind = files.kind(&real)?;
    if rules.parents {
        let name = kept(path, skip);
        return Ok(match name.as_os_str().is_empty() {
            true => Item::Content { path: real },
            false => Item::Entry { path: real, name },
        });
    }
    if kind == Kind::Directory {
        return Ok(Item::Content { path: real });
    }
    // A tar, compressed or not.
    if rules.unpack && kind == Kind::File && extract::is_tar(files.open(&real)?) {
        return Ok(Item::Archive { path: real });
    }
    Ok(Item::Entry { path: real, name: path.file_name().unwrap_or_default().into() })
}

/// A digest of all that is copied: names, kinds, modes, owners, contents, links; not times.
pub(super) fn digest(files: Files<'_>, items: &[Item], rules: &Rules) -> Result<String, Error> {
    let mut hash = Sha256::new();
    let told = Told {
        owner: if rules.keep_owner { None } else { Some((0, 0)) },
        mode: rules.mode.clone(),
        latest: Some(0),
    };
    for item in items {
        let tag: &[u8] = match item {
            Item::Content { .. } => b"content",
            Item::Entry { .. } => b"entry",
            Item::Archive { .. } => b"archive",
            Item::Written { .. } => b"written",
        };
        hash.update(tag);
        pack(files, item, &mut hash, told.clone(), rules)
            .map_err(Error::io("read what is to be copied", "the context"))?;
    }
    Ok(hex::encode(hash.finalize()))
}

/// Writes an item as an archive with the names it gets.
fn pack(files: Files<'_>, item: &Item, out: &mut impl Write, told: Told, rules: &Rules) -> io::Result<()> {
    let ignore = Ignore::of(rules.exclude.iter().map(String::as_str)).map_err(io::Error::other)?;
    let left_out = |path: &[u8], is_dir: bool| {
        let Ok(path) = std::str::from_utf8(path) else { return false };
        !ignore.is_empty() && ignore.excluded_by(path).is_some() && !(is_dir && ignore.may_keep_below(path))
    };
    let mut pack = Pack::files(out, None).told(told).without(&left_out);
    match item {
        Item::Content { path } => files.pack_content(&mut pack, path)?,
        Item::Entry { path, name } => files.pack_entry(&mut pack, path, name.as_os_str())?,
        Item::Archive { path } => {
            // Its bytes as they are.
            return io::copy(&mut files.open(path)?, pack.get_mut()).map(drop);
        }
        Item::Written { name, text } => {
            pack.written(name.as_os_str().as_encoded_bytes(), text.as_bytes())?;
        }
    }
    pack.finish()
}

/// Copies to a path of the target. `directory` says that the path ended in a slash.
pub(super) fn copy(
    from: Files<'_>,
    to: &Root,
    items: &[Item],
    destination: &str,
    directory: bool,
    rules: &Rules,
) -> Result<(), Error> {
    let owner = match &rules.chown {
        None => None,
        Some(text) => Some(owner(to, text).map_err(|e| match rules.linked {
            true => Error::Invalid(format!("{e} (--link copies into nothing, where only numbers are known)")),
            false => e,
        })?),
    };
    let made_owner = owner.unwrap_or((0, 0));
    let destination = Path::new(destination);
    let io_error = |e: io::Error| {
        Error::Invalid(format!("{} failed: cannot copy to {}: {e}", rules.keyword, destination.display()))
    };
    let is_dir = match to.open(destination, OFlag::O_PATH | OFlag::O_DIRECTORY, 0) {
        Ok(_) => true,
        Err(e) if e.kind() == io::ErrorKind::NotFound => false,
        Err(e) if e.kind() == io::ErrorKind::NotADirectory && !directory => false,
        Err(e) => return Err(io_error(e)),
    };
    for item in items {
        let (dir, item) = match item {
            Item::Entry { path, .. } if !directory && !is_dir && !rules.parents => {
                let name = PathBuf::from(destination.file_name().unwrap_or_default());
                (destination.parent().unwrap_or(Path::new("/")), Item::Entry { path: path.clone(), name })
            }
            Item::Written { text, .. } if !directory && !is_dir => {
                let name = PathBuf::from(destination.file_name().unwrap_or_default());
                (destination.parent().unwrap_or(Path::new("/")), Item::Written { name, text: text.clone() })
            }
            other => (destination, other.clone()),
        };
        let dir = make_directories(to, dir, made_owner).map_err(io_error)?;
        if let Item::Entry { name, .. } = &item
            && rules.parents
            && let Some(above) = name.parent()
        {
            let whole = destination.join(above);
            make_directories(to, &whole, made_owner).map_err(io_error)?;
        }
        place(from, &item, dir, owner, rules)?;
    }
    Ok(())
}

/// Through a pipe: one thread reads the files, this one writes them.
fn place(
    from: Files<'_>,
    item: &Item,
    dir: OwnedFd,
    owner: Option<(u32, u32)>,
    rules: &Rules,
) -> Result<(), Error> {
    if let Item::Archive { path } = item {
        let file = from.open(path).map_err(Error::io("open", path))?;
        let rules = CopyRules { owner, ..CopyRules::default() };
        return extract::copy_in(file, dir, rules);
    }
    let told = Told {
        owner: owner.or(if rules.keep_owner { None } else { Some((0, 0)) }),
        mode: rules.mode.clone(),
        latest: rules.latest,
    };
    let (reader, writer) = io::pipe().map_err(Error::io("make a pipe for", "copying"))?;
    std::thread::scope(|scope| {
        let packing = scope.spawn(move || {
            let mut out = BufWriter::with_capacity(64 << 10, writer);
            pack(from, item, &mut out, told, rules)?;
            out.flush()
        });
        let rules = CopyRules { keep_kinds: true, ..CopyRules::default() };
        let copied = extract::copy_in(reader, dir, rules);
        let packed =
            packing.join().unwrap_or_else(|_| Err(io::Error::other("the reading thread has stopped")));
        match (copied, packed) {
            // The reader's end explains a broken pipe of the other.
            (Err(e), _) => Err(e),
            (Ok(()), Err(e)) => Err(Error::Invalid(format!("{} failed: {e}", of(item)))),
            (Ok(()), Ok(())) => Ok(()),
        }
    })
}

fn of(item: &Item) -> String {
    let verb = if matches!(item, Item::Written { .. }) { "write" } else { "read" };
    format!("cannot {verb} {}", item.path().display())
}

/// `user[:group]`, looked up in the target. A user alone is the group's name too.
fn owner(root: &Root, text: &str) -> Result<(u32, u32), Error> {
    let both = if text.contains(':') { text.to_owned() } else { format!("{text}:{text}") };
    let user = User::resolve(root, &both, &[])
        .map_err(|e| Error::Invalid(format!("cannot find the owner {text:?} in the image: {e}")))?;
    Ok((user.uid.as_raw(), user.gid.as_raw()))
}
