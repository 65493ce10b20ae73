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

/// The file that says what is left out where no Dockerfile has one of its own.
const COMMON: &str = ".dockerignore";

/// What is sent.
pub(super) struct Sent {
    pub(super) body: Body,
    /// Path of the Dockerfile in it.
    pub(super) dockerfile: String,
    /// Path of the file by which others were left out, where that is not `.dockerignore`.
    pub(super) dockerignore: Option<String>,
}

impl Sent {
    /// What nothing was left out of here.
    pub(super) fn whole(body: Body, dockerfile: impl Into<String>) -> Self {
        Self { body, dockerfile: dockerfile.into(), dockerignore: None }
    }
}

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

/// A directory, or what comes on standard input.
pub(super) fn open(path: &Path, file: Option<&Path>, along: Vec<Along>) -> Result<Sent> {
    if path == Path::new("-") {
        if !along.is_empty() {
            bail!("a directory or a layout as --build-context does not go with a context on standard input");
        }
        return from_stdin(file);
    }
    let root = root(path)?;
    let dockerfile = Dockerfile::find(&root, file)?;
    send(root, dockerfile, along)
}

/// What is sent along with a context that is not sent.
pub(super) fn alone(along: Vec<Along>) -> Result<Body> {
    if along.is_empty() {
        return Ok(api::full(Vec::new()));
    }
    archive(Vec::new(), along)
}

/// A directory with a Dockerfile that is in no file.
pub(super) fn with_dockerfile(path: &Path, text: &str, along: Vec<Along>) -> Result<Sent> {
    send(root(path)?, Dockerfile::of(text.as_bytes().to_vec()), along)
}

fn root(path: &Path) -> Result<PathBuf> {
    let shown = path.display().to_string();
    if !path.is_dir() {
        bail!("unable to prepare context: path {shown:?} not found or not a directory");
    }
    fs::canonicalize(path).with_context(|| format!("unable to prepare context: {shown}"))
}

fn send(root: PathBuf, dockerfile: Dockerfile, along: Vec<Along>) -> Result<Sent> {
    let Dockerfile { name, text, own } = dockerfile;
    let rules = match own {
        Some(own) => own,
        None => Rules::of(&root, &name)?,
    };
    let (dockerfile, file) = (name.clone(), rules.file.clone());
    let given = text.map(|text| (text, rules.text));
    let needed = Needed { dockerfile: Some(name), dockerignore: rules.file, given };
    let part = Part { root, at: PathBuf::new(), ignore: rules.ignore, needed };
    let body = archive(vec![part], along)?;
    Ok(Sent { body, dockerfile, dockerignore: Some(file).filter(|file| file != COMMON) })
}

fn archive(mut parts: Vec<Part>, along: Vec<Along>) -> Result<Body> {
    let mut layouts = Vec::new();
    for Along { what, at } in along {
        match what {
            Beside::Directory(root) => {
                let ignore = Rules::read(&root.join(COMMON), COMMON)?.map(|rules| rules.ignore);
                // The daemon names the pattern that left out what is asked for, and takes the file away if it is to go.
                let needed = Needed { dockerfile: None, dockerignore: COMMON.into(), given: None };
                parts.push(Part { root, at, ignore: ignore.unwrap_or_default(), needed });
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
    Ok(api::reader(from))
}

/// A Dockerfile.
struct Dockerfile {
    /// Its path in the context.
    name: String,
    /// Its text, where it is in no file of the context.
    text: Option<Vec<u8>>,
    /// What the file of rules beside it says, where both are elsewhere.
    own: Option<Rules>,
}

impl Dockerfile {
    /// One that is in no file.
    fn of(text: Vec<u8>) -> Self {
        Self { name: SENT.to_owned(), text: Some(text), own: None }
    }

    fn find(root: &Path, file: Option<&Path>) -> Result<Self> {
        let Some(file) = file else {
            let found = ["Dockerfile", "dockerfile"].iter().find(|n| root.join(n).exists());
            let Some(name) = found else {
                bail!(
                    "unable to prepare context: unable to evaluate symlinks in Dockerfile path: lstat {}: no such file or directory",
                    root.join("Dockerfile").display()
                );
            };
            return Ok(Self { name: (*name).to_owned(), text: None, own: None });
        };
        if file == Path::new("-") {
            let mut text = Vec::new();
            io::stdin().read_to_end(&mut text).context("read the Dockerfile from standard input")?;
            return Ok(Self::of(text));
        }
        let found = [file.to_path_buf(), root.join(file)].into_iter().find(|p| p.exists());
        let found = found.with_context(|| {
            format!("unable to prepare context: unable to evaluate symlinks in Dockerfile path: lstat {}: no such file or directory", file.display())
        })?;
        let real = fs::canonicalize(&found)?;
        if let Ok(inside) = real.strip_prefix(root) {
            return Ok(Self { name: slashes(inside), text: None, own: None });
        }
        let mut beside = found.into_os_string();
        beside.push(COMMON);
        let own = Rules::read(Path::new(&beside), &format!("{SENT}{COMMON}"))?;
        Ok(Self { own, ..Self::of(fs::read(&real)?) })
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

/// What a file says of what is left out.
struct Rules {
    /// Its path in the context.
    file: String,
    text: String,
    ignore: Ignore,
}

impl Rules {
    /// `NAME.dockerignore` beside the Dockerfile, else `.dockerignore`, which may be missing.
    /// <https://docs.docker.com/build/concepts/context/#filename-and-location>
    fn of(root: &Path, dockerfile: &str) -> Result<Self> {
        for name in [format!("{dockerfile}{COMMON}"), COMMON.to_owned()] {
            if let Some(found) = Self::read(&root.join(&name), &name)? {
                return Ok(found);
            }
        }
        Ok(Self { file: COMMON.to_owned(), text: String::new(), ignore: Ignore::default() })
    }

    /// Reads what the context has, or is to have, as `file`.
    fn read(path: &Path, file: &str) -> Result<Option<Self>> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).with_context(|| format!("read {}", path.display())),
        };
        let ignore = Ignore::parse(&text).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))?;
        Ok(Some(Self { file: file.to_owned(), text, ignore }))
    }
}

/// What a context's files are left out by, for a Dockerfile in it.
pub fn ignore(root: &Path, dockerfile: &str) -> Result<Ignore> {
    Rules::of(root, dockerfile).map(|rules| rules.ignore)
}

/// A directory that is sent.
struct Part {
    root: PathBuf,
    /// Where in the archive it is.
    at: PathBuf,
    ignore: Ignore,
    needed: Needed,
}

/// What the daemon needs of a directory, whatever is left out.
struct Needed {
    /// Paths in it; there is no Dockerfile in one that is beside the build's own.
    dockerfile: Option<String>,
    dockerignore: String,
    /// The texts of both, where the Dockerfile is in no file of it.
    given: Option<(Vec<u8>, String)>,
}

impl Needed {
    fn has(&self, path: &str) -> bool {
        self.paths().any(|needed| needed == path)
    }

    /// Whether one of them is below a directory.
    fn is_below(&self, directory: &str) -> bool {
        let below = format!("{directory}/");
        self.paths().any(|needed| needed.starts_with(&below))
    }

    fn paths(&self) -> impl Iterator<Item = &str> {
        self.dockerfile.iter().chain([&self.dockerignore]).map(String::as_str)
    }
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
    let Part { root, at: within, ignore, needed } = part;
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
            let is_needed = needed.has(&shown);
            if is_needed && needed.given.is_some() {
                continue;
            }
            if !is_needed && ignore.excluded_by(&shown).is_some() {
                if is_dir && (ignore.may_keep_below(&shown) || needed.is_below(&shown)) {
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
    if let Needed { dockerfile: Some(dockerfile), dockerignore, given: Some((text, rules)) } = needed {
        // The daemon takes away what this leaves out: no image gets the Dockerfile by a name that nobody gave it.
        written(out, dockerignore, format!("{rules}\n{dockerignore}\n{dockerfile}\n").as_bytes())?;
        written(out, dockerfile, text)?;
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
fn from_stdin(file: Option<&Path>) -> Result<Sent> {
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
        return Ok(Sent::whole(api::reader(rest), name));
    }
    if file.is_some() {
        bail!("ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles");
    }
    stdin.read_to_end(&mut head)?;
    let mut out = tar::Builder::new(Vec::new());
    written(&mut out, "Dockerfile", &head)?;
    Ok(Sent::whole(api::full(out.into_inner()?), "Dockerfile"))
}
