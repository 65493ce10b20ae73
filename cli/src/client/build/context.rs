//! The build context as an archive: a directory without what `.dockerignore` leaves out, or what comes on standard input.

use std::fs;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use skep_engine::dockerfile::Ignore;

use super::super::api::{self, Body};
use super::along::{Along, Beside};
use super::layout::Layout;

/// Name of a Dockerfile that is sent along from elsewhere.
const SENT: &str = ".dockerfile.sent";

/// Whether the daemon is to fetch what a path means.
pub(super) fn is_far(path: &str) -> bool {
    let far = ["http://", "https://", "git://", "git@", "ssh://", "github.com/"];
    far.iter().any(|p| path.starts_with(p)) && !Path::new(path).is_dir()
}

/// Where the daemon is to fetch the context from, if that is what a path is; and the path of the Dockerfile in it.
pub(super) fn remote(path: &Path, file: Option<&Path>) -> Result<Option<(String, String)>> {
    let shown = path.display().to_string();
    if !is_far(&shown) {
        return Ok(None);
    }
    if file == Some(Path::new("-")) {
        bail!(
            "a Dockerfile on standard input does not go with a context from {shown}: the daemon fetches that"
        );
    }
    Ok(Some((shown, file.map_or_else(|| "Dockerfile".to_owned(), slashes))))
}

/// What is sent, and the path of the Dockerfile in it.
pub(super) fn open(path: &Path, file: Option<&Path>, along: Vec<Along>) -> Result<(Body, String)> {
    if path == Path::new("-") {
        if !along.is_empty() {
            bail!("a directory or a layout as --build-context does not go with a context on standard input");
        }
        return from_stdin(file);
    }
    let root = root(path)?;
    let (text, name) = dockerfile(&root, file)?;
    send(Some(root), text, name, along)
}

/// What is sent along with a context that is not sent.
pub(super) fn alone(along: Vec<Along>) -> Result<Body> {
    if along.is_empty() {
        return Ok(api::full(Vec::new()));
    }
    send(None, None, String::new(), along).map(|(body, _)| body)
}

/// A directory with a Dockerfile that is in no file.
pub(super) fn with_dockerfile(path: &Path, text: &str, along: Vec<Along>) -> Result<(Body, String)> {
    send(Some(root(path)?), Some(text.as_bytes().to_vec()), SENT.to_owned(), along)
}

fn root(path: &Path) -> Result<PathBuf> {
    let shown = path.display().to_string();
    if !path.is_dir() {
        bail!("unable to prepare context: path {shown:?} not found or not a directory");
    }
    fs::canonicalize(path).with_context(|| format!("unable to prepare context: {shown}"))
}

fn send(
    root: Option<PathBuf>,
    text: Option<Vec<u8>>,
    name: String,
    along: Vec<Along>,
) -> Result<(Body, String)> {
    let sent = name.clone();
    let mut parts = Vec::new();
    if let Some(root) = root {
        let ignore = ignore(&root, &name)?;
        parts.push(Part { root, at: PathBuf::new(), ignore, needed: Some(name), text });
    }
    let mut layouts = Vec::new();
    for Along { what, at } in along {
        match what {
            Beside::Directory(root) => {
                let ignore = read_ignore(&root, ".dockerignore")?.unwrap_or_default();
                parts.push(Part { root, at, ignore, needed: None, text: None });
            }
            Beside::Layout(layout) => layouts.push((layout, at)),
        }
    }
    let (reader, writer) = io::pipe()?;
    let from = tokio::fs::File::from_std(fs::File::from(std::os::fd::OwnedFd::from(reader)));
    std::thread::spawn(move || {
        // The daemon's refusal says more than a broken pipe.
        if let Err(e) = pack(&parts, &layouts, writer)
            && e.downcast_ref::<io::Error>().is_none_or(|e| e.kind() != io::ErrorKind::BrokenPipe)
        {
            eprintln!("ERROR: the build context cannot be sent whole: {e:#}");
            std::process::exit(1);
        }
    });
    Ok((api::reader(from), sent))
}

/// The text of a Dockerfile that is not in the context, and the name it has there.
fn dockerfile(root: &Path, file: Option<&Path>) -> Result<(Option<Vec<u8>>, String)> {
    let Some(file) = file else {
        let found = ["Dockerfile", "dockerfile"].iter().find(|n| root.join(n).exists());
        let Some(name) = found else {
            bail!(
                "unable to prepare context: unable to evaluate symlinks in Dockerfile path: lstat {}: no such file or directory",
                root.join("Dockerfile").display()
            );
        };
        return Ok((None, (*name).to_owned()));
    };
    if file == Path::new("-") {
        let mut text = Vec::new();
        io::stdin().read_to_end(&mut text).context("read the Dockerfile from standard input")?;
        return Ok((Some(text), SENT.to_owned()));
    }
    let found = [file.to_path_buf(), root.join(file)].into_iter().find(|p| p.exists());
    let found = found.with_context(|| {
        format!("unable to prepare context: unable to evaluate symlinks in Dockerfile path: lstat {}: no such file or directory", file.display())
    })?;
    let real = fs::canonicalize(&found)?;
    match real.strip_prefix(root) {
        Ok(inside) => Ok((None, slashes(inside))),
        Err(_) => Ok((Some(fs::read(&real)?), SENT.to_owned())),
    }
}

/// A path as archives have it.
pub(super) fn slashes(path: &Path) -> String {
    let parts = path.components().filter_map(|c| match c {
        Component::Normal(n) => Some(n.to_string_lossy().into_owned()),
        _ => None,
    });
    parts.collect::<Vec<_>>().join("/")
}

/// `NAME.dockerignore` beside the Dockerfile, else `.dockerignore`.
pub fn ignore(root: &Path, dockerfile: &str) -> Result<Ignore> {
    for name in [format!("{dockerfile}.dockerignore"), ".dockerignore".to_owned()] {
        if let Some(found) = read_ignore(root, &name)? {
            return Ok(found);
        }
    }
    Ok(Ignore::default())
}

fn read_ignore(root: &Path, name: &str) -> Result<Option<Ignore>> {
    match fs::read_to_string(root.join(name)) {
        Ok(text) => Ignore::parse(&text).map(Some).map_err(|e| anyhow::anyhow!("{name}: {e}")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("read {name}")),
    }
}

/// A directory that is sent.
struct Part {
    root: PathBuf,
    /// Where in the archive it is.
    at: PathBuf,
    ignore: Ignore,
    /// Path of the Dockerfile in it, which the daemon needs.
    needed: Option<String>,
    /// The text of that, where it is in no file.
    text: Option<Vec<u8>>,
}

fn pack(parts: &[Part], layouts: &[(Layout, PathBuf)], to: impl Write) -> Result<()> {
    let mut out = tar::Builder::new(BufWriter::with_capacity(1 << 16, to));
    out.follow_symlinks(false);
    for part in parts {
        pack_part(part, &mut out)?;
    }
    for (layout, at) in layouts {
        layout.pack(at, &mut out)?;
    }
    out.into_inner()?.flush()?;
    Ok(())
}

fn pack_part(part: &Part, out: &mut tar::Builder<impl Write>) -> Result<()> {
    let Part { root, at: within, ignore, needed: name, text } = part;
    if !within.as_os_str().is_empty() {
        out.append_dir(within, root).with_context(|| format!("read {}", root.display()))?;
    }
    let mut walk = vec![PathBuf::new()];
    while let Some(dir) = walk.pop() {
        let at = root.join(&dir);
        let entries = fs::read_dir(&at).with_context(|| format!("read {}", at.display()))?;
        let mut entries: Vec<_> = entries.collect::<io::Result<_>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = dir.join(entry.file_name());
            let shown = slashes(&path);
            let is_dir = entry.file_type()?.is_dir();
            // The daemon needs the one, and may want to see the other.
            let needed = name.as_ref().is_some_and(|name| shown == *name || shown == ".dockerignore");
            if text.is_some() && shown == ".dockerignore" {
                continue;
            }
            if !needed && ignore.excluded_by(&shown).is_some() {
                if is_dir
                    && (ignore.may_keep_below(&shown)
                        || name.as_ref().is_some_and(|name| name.starts_with(&format!("{shown}/"))))
                {
                    walk.push(path);
                }
                continue;
            }
            let kind = entry.file_type()?;
            if !(is_dir || kind.is_file() || kind.is_symlink()) {
                // Sockets and their like are no part of a build.
                continue;
            }
            let source = entry.path();
            out.append_path_with_name(&source, within.join(&path))
                .with_context(|| format!("read {}", source.display()))?;
            if is_dir {
                walk.push(path);
            }
        }
    }
    if let (Some(text), Some(name)) = (text, name) {
        // The daemon takes away what this leaves out: no image gets the Dockerfile by a name that nobody gave it.
        let mut ignored = fs::read(root.join(".dockerignore")).unwrap_or_default();
        ignored.extend_from_slice(format!("\n.dockerignore\n{name}\n").as_bytes());
        written(out, ".dockerignore", &ignored)?;
        written(out, name, text)?;
    }
    Ok(())
}

/// Writes a file that is at no path.
pub(super) fn written(out: &mut tar::Builder<impl Write>, name: &str, text: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o600);
    header.set_size(text.len() as u64);
    out.append_data(&mut header, name, text)?;
    Ok(())
}

/// An archive as it is, or a Dockerfile alone.
fn from_stdin(file: Option<&Path>) -> Result<(Body, String)> {
    if super::is_typed() {
        bail!("\"skep build -\" wants an archive or a Dockerfile on standard input");
    }
    let mut head = vec![0; 512];
    let mut n = 0;
    let mut stdin = io::stdin().lock();
    while n < head.len() {
        match stdin.read(&mut head[n..])? {
            0 => break,
            more => n += more,
        }
    }
    head.truncate(n);
    let is_archive = head.starts_with(b"\x1f\x8b")
        || head.starts_with(b"\x28\xb5\x2f\xfd")
        || head.starts_with(b"BZh")
        || head.starts_with(b"\xfd7zXZ\0")
        || head.get(257..262).is_some_and(|m| m == b"ustar");
    if is_archive {
        drop(stdin);
        let rest = tokio::io::AsyncReadExt::chain(io::Cursor::new(head), tokio::io::stdin());
        let name = file.map_or_else(|| "Dockerfile".to_owned(), slashes);
        return Ok((api::reader(rest), name));
    }
    if file.is_some() {
        bail!("ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles");
    }
    stdin.read_to_end(&mut head)?;
    let mut out = tar::Builder::new(Vec::new());
    written(&mut out, "Dockerfile", &head)?;
    Ok((api::full(out.into_inner()?), "Dockerfile".to_owned()))
}
