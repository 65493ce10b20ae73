//! The build context: an archive unpacked into a directory that goes when the build ends.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use tokio::io::AsyncRead;

use super::git::Repository;
use super::{fetch, left_out};
use crate::data_root::{make_dir, remove_tree};
use crate::dockerfile::Ignore;
use crate::engine::Engine;
use crate::error::{Error, blocking};
use crate::image::extract::{self, CopyRules};
use crate::image::{feed, unused_name};
use crate::runtime::resolve::Root;

/// Longest Dockerfile that is read, in bytes.
const LONGEST: u64 = 16 << 20;

/// Where a build has its files.
pub(super) struct Context {
    dir: PathBuf,
    ignore: Ignore,
}

impl Context {
    /// Unpacks the archive.
    pub(super) async fn receive(
        temporary: PathBuf,
        archive: impl AsyncRead + Send + Unpin,
    ) -> Result<Self, Error> {
        // The thread's, until it is done: nothing is removed while it still writes.
        feed::run(archive, move |input| {
            let dir = temporary.join(format!("build-{}", unused_name()));
            let context = Self { dir, ignore: Ignore::default() };
            let files = context.files();
            make_dir(&context.dir, 0o700)?;
            make_dir(&files, 0o755)?;
            let dir = std::fs::File::open(&files).map_err(Error::io("open", &files))?;
            extract::copy_in(input, dir.into(), CopyRules::default())?;
            Ok(context)
        })
        .await
        .map_err(|e| Error::Invalid(format!("the build context cannot be read: {e}")))
    }

    /// Fetches it: a repository, an archive, or a Dockerfile alone, which is then called `dockerfile`. What a
    /// `.dockerignore` in it names is left out.
    pub(super) async fn fetch(engine: &Engine, url: &str, dockerfile: &str) -> Result<Self, Error> {
        let dir = engine.root().temporary().join(format!("build-{}", unused_name()));
        let context = Self { dir, ignore: Ignore::default() };
        let (dir, files) = (context.dir.clone(), context.files());
        blocking({
            let dir = dir.clone();
            move || make_dir(&dir, 0o700)
        })
        .await?;
        if let Some(repository) = Repository::named(url) {
            let found = repository.fetch(&dir.join("repository"), false, None, None).await?;
            let to = files.clone();
            blocking(move || std::fs::rename(&found, &to).map_err(Error::io("move the context to", &to)))
                .await?;
        } else if fetch::is_url(url) {
            let got = dir.join("fetched");
            let described = |e: Error| Error::Invalid(format!("failed to fetch the build context: {e}"));
            fetch::download(engine, url, &got).await.map_err(described)?;
            let (to, name) = (files.clone(), dockerfile.to_owned());
            blocking(move || {
                make_dir(&to, 0o755)?;
                let file = |path: &Path| std::fs::File::open(path).map_err(Error::io("open", path));
                if extract::is_tar(file(&got)?) {
                    return extract::copy_in(file(&got)?, file(&to)?.into(), CopyRules::default());
                }
                if name.contains('/') {
                    return Err(Error::Invalid(format!(
                        "Cannot locate specified Dockerfile: {name}: the URL is a file"
                    )));
                }
                let to = to.join(name);
                std::fs::rename(&got, &to).map_err(Error::io("move the Dockerfile to", &to))
            })
            .await?;
        } else {
            return Err(Error::Invalid(format!(
                "a build context from {url} is neither a repository nor a URL: want http://, https://, git://, ssh:// or git@"
            )));
        }
        let dockerfile = dockerfile.to_owned();
        blocking(move || {
            let Some(ignore) = ignored(&files, &dockerfile) else { return Ok(()) };
            leave_out(&ignore, &files, "", &dockerfile).map_err(Error::io("leave files out of", &files))
        })
        .await?;
        Ok(context)
    }

    /// The directory of its files.
    pub(super) fn files(&self) -> PathBuf {
        self.dir.join("context")
    }

    /// Takes away what `.dockerignore` leaves out of what was sent all the same. The Dockerfile has been read.
    pub(super) async fn take_away(&mut self, dockerfile: &str) -> Result<(), Error> {
        let (files, dockerfile) = (self.files(), dockerfile.to_owned());
        self.ignore = blocking(move || left_out::take_away(&files, &dockerfile)).await?;
        Ok(())
    }

    /// What the context's `.dockerignore` says.
    pub(super) fn ignore(&self) -> &Ignore {
        &self.ignore
    }

    /// A new directory for a step.
    pub(super) async fn scratch(&self) -> Result<PathBuf, Error> {
        let dir = self.dir.join(unused_name());
        blocking(move || {
            make_dir(&dir, 0o700)?;
            Ok(dir)
        })
        .await
    }

    /// The text of a Dockerfile of it.
    pub(super) async fn dockerfile(&self, name: &str) -> Result<String, Error> {
        let (files, name) = (self.files(), name.to_owned());
        blocking(move || {
            let missing = |e: io::Error| match e.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Error::Invalid(format!(
                    "Cannot locate specified Dockerfile: {name}: it is not in the build context"
                )),
                _ => Error::io("open in the build context", &name)(e),
            };
            let file = open(&files, &name).map_err(missing)?;
            let mut text = Vec::new();
            let mut limited = io::Read::take(std::fs::File::from(file), LONGEST + 1);
            io::Read::read_to_end(&mut limited, &mut text).map_err(missing)?;
            if text.len() as u64 > LONGEST {
                return Err(Error::Invalid(format!("the Dockerfile {name} is longer than {LONGEST} bytes")));
            }
            String::from_utf8(text).map_err(|_| Error::Invalid(format!("the Dockerfile {name} is not UTF-8")))
        })
        .await
    }
}

/// What is left out of files that were fetched: `NAME.dockerignore` beside the Dockerfile, else `.dockerignore`.
fn ignored(files: &Path, dockerfile: &str) -> Option<Ignore> {
    [format!("{dockerfile}.dockerignore"), ".dockerignore".to_owned()].into_iter().find_map(|name| {
        let mut text = String::new();
        let mut limited = io::Read::take(std::fs::File::from(open(files, &name).ok()?), LONGEST);
        io::Read::read_to_string(&mut limited, &mut text).ok()?;
        Ignore::parse(&text).ok()
    })
}

/// Removes it from a directory. The Dockerfile and `.dockerignore` stay until they have been read.
fn leave_out(ignore: &Ignore, dir: &Path, at: &str, dockerfile: &str) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        let path = if at.is_empty() { name } else { format!("{at}/{name}") };
        let is_dir = entry.file_type()?.is_dir();
        let needed = path == dockerfile || path == ".dockerignore";
        let out = ignore.excluded_by(&path).is_some() && !needed;
        let within = dockerfile.starts_with(&format!("{path}/")) || ignore.may_keep_below(&path);
        if is_dir && (!out || within) {
            leave_out(ignore, &entry.path(), &path, dockerfile)?;
            // What of it is left is kept; an empty one is not.
            if out && std::fs::read_dir(entry.path())?.next().is_none() {
                std::fs::remove_dir(entry.path())?;
            }
        } else if out {
            remove_tree(&entry.path()).map_err(io::Error::other)?;
        }
    }
    Ok(())
}

/// Links in the context stay in it.
fn open(files: &Path, name: &str) -> io::Result<OwnedFd> {
    Root::at(files)?.open(&Path::new("/").join(name), OFlag::O_RDONLY | OFlag::O_NONBLOCK, 0)
}

impl Drop for Context {
    fn drop(&mut self) {
        let dir = std::mem::take(&mut self.dir);
        // Off the runtime: a context may have many files.
        let remove = move || {
            if let Err(e) = remove_tree(&dir) {
                tracing::warn!(error = %e, "the files of a build are left to be swept at the next start");
            }
        };
        if let Err(e) = std::thread::Builder::new().name("skep-sweep".into()).spawn(remove) {
            tracing::warn!(error = %e, "the files of a build are left to be swept at the next start");
        }
    }
}
