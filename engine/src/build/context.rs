//! The build context: an archive that is kept as it came, or files that were fetched into a directory. Both go when the
//! build ends.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tokio::io::AsyncRead;

use super::authorization::Secrets;
use super::copy::{self, Item, Rules};
use super::files::Files;
use super::git::{Access, Repository};
use super::left_out::LeftOut;
use super::{BuildRequest, fetch, left_out};
use crate::container::evaluate;
use crate::data_root::{make_dir, remove_tree};
use crate::engine::Engine;
use crate::error::{Error, blocking};
use crate::image::extract::{self, CopyRules};
use crate::image::tree::{Arrived, Tree};
use crate::image::{feed, unused_name};
use crate::runtime::resolve::Root;

/// Longest Dockerfile that is read, in bytes.
const LONGEST: u64 = 16 << 20;

/// Where a build has its files.
pub(super) struct Context {
    held: Held,
    /// A sent one lies unpacked in its place.
    unpacked: Mutex<bool>,
    left_out: LeftOut,
    place: Place,
}

/// How it is kept.
enum Held {
    /// Unpacked.
    Directory(Root),
    /// As it came.
    Tree(Tree),
}

/// A directory that goes, with all that is in it, when this is dropped.
struct Place(PathBuf);

impl Place {
    /// The directory of the context's files.
    fn files(&self) -> PathBuf {
        self.0.join("context")
    }
}

impl Context {
    /// Takes an archive in.
    pub(super) async fn receive(
        temporary: PathBuf,
        archive: impl AsyncRead + Send + Unpin,
    ) -> Result<Self, Error> {
        // The thread's, until it is done: nothing is removed while it still writes.
        feed::run(archive, move |input| {
            let place = Place(temporary.join(format!("build-{}", unused_name())));
            make_dir(&place.0, 0o700)?;
            let kept = place.0.join("sent");
            let options = std::fs::File::options().read(true).write(true).create_new(true).open(&kept);
            let held = match Arrived::read(input, options.map_err(Error::io("create", &kept))?)? {
                Arrived::Tree(tree) => Held::Tree(tree),
                Arrived::Odd(odd) => {
                    let files = place.files();
                    make_dir(&files, 0o755)?;
                    let dir = std::fs::File::open(&files).map_err(Error::io("open", &files))?;
                    odd.unpack(dir.into())?;
                    Held::Directory(Root::at(&files).map_err(Error::io("open", &files))?)
                }
            };
            Ok(Self::new(held, place))
        })
        .await
        .map_err(|e| Error::Invalid(format!("the build context cannot be read: {e}")))
    }

    /// Fetches it: a repository, an archive, or a Dockerfile alone, which is then called `dockerfile`. What the
    /// `.dockerignore` that counts names is left out, and `.git`, unless it is to be kept.
    pub(super) async fn fetch(
        engine: &Engine,
        url: &str,
        secrets: &Secrets,
        dockerfile: &str,
        keep_git: bool,
    ) -> Result<Self, Error> {
        let place = Place(engine.root().temporary().join(format!("build-{}", unused_name())));
        let (dir, files) = (place.0.clone(), place.files());
        blocking({
            let dir = dir.clone();
            move || make_dir(&dir, 0o700)
        })
        .await?;
        if let Some(repository) = Repository::named(url) {
            let proxies = &engine.images().registries().options().proxies.clone();
            let access = Access { agent: None, proxies, secrets };
            let found = repository.fetch(&dir.join("repository"), keep_git, None, access).await?;
            let to = files.clone();
            blocking(move || std::fs::rename(&found, &to).map_err(Error::io("move the context to", &to)))
                .await?;
        } else if fetch::is_url(url) {
            let got = dir.join("fetched");
            let described = |e: Error| Error::Invalid(format!("failed to fetch the build context: {e}"));
            fetch::download(engine, url, secrets, &got).await.map_err(described)?;
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
            let root = Root::at(&files).map_err(Error::io("open", &files))?;
            let left_out = LeftOut::of(Files::Root(&root), &dockerfile)?;
            leave_out(&left_out, &files, "", &dockerfile).map_err(Error::io("leave files out of", &files))?;
            Ok(Self { left_out, ..Self::new(Held::Directory(root), place) })
        })
        .await
    }

    fn new(held: Held, place: Place) -> Self {
        Self { held, unpacked: Mutex::new(false), left_out: LeftOut::default(), place }
    }

    /// Its files.
    pub(super) fn files(&self) -> Files<'_> {
        match &self.held {
            Held::Directory(root) => Files::Root(root),
            Held::Tree(tree) => Files::Tree(tree),
        }
    }

    /// The directory of its files, for those who need one. Blocks.
    pub(super) fn unpacked(&self) -> Result<PathBuf, Error> {
        let dir = self.place.files();
        let mut unpacked = self.unpacked.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(self.held, Held::Tree(_)) && !*unpacked {
            // What an earlier attempt left is no part of it.
            remove_tree(&dir)?;
            make_dir(&dir, 0o755)?;
            let root = Root::at(&dir).map_err(Error::io("open", &dir))?;
            let all = Item::Content { path: PathBuf::from("/") };
            copy::copy(self.files(), &root, &[all], "/", true, &Rules::of_bind())?;
            *unpacked = true;
        }
        Ok(dir)
    }

    /// Takes away what is left out of the two files that are there all the same, as Docker does: no step sees them, and the
    /// random name that clients give a Dockerfile from elsewhere is in no image. The Dockerfile has been read.
    pub(super) async fn take_away(mut self, request: &BuildRequest) -> Result<Self, Error> {
        let (dockerfile, file) = (request.dockerfile.clone(), request.dockerignore.clone());
        let is_fetched = request.remote.is_some();
        blocking(move || {
            if !is_fetched {
                self.left_out = LeftOut::read(self.files(), file.as_deref());
            }
            self.hide(Some(&dockerfile))?;
            Ok(self)
        })
        .await
    }

    /// Takes the Dockerfile and the file of rules away, where those leave them out. Blocks.
    fn hide(&mut self, dockerfile: Option<&str>) -> Result<(), Error> {
        for name in [Some(self.left_out.file()), dockerfile].into_iter().flatten() {
            let name = name.trim_start_matches('/');
            if self.left_out.patterns.excluded_by(name).is_none() {
                continue;
            }
            let path = Path::new("/").join(name);
            match &mut self.held {
                Held::Directory(root) => left_out::remove(root, &path)
                    .map_err(|e| Error::io("leave a file out of", self.place.files())(e))?,
                Held::Tree(tree) => tree.remove(&path),
            }
        }
        Ok(())
    }

    /// Fetches what is no build's own context, without the file of rules that they leave out.
    pub(super) async fn fetch_beside(engine: &Engine, url: &str, secrets: &Secrets) -> Result<Self, Error> {
        let file = url.rsplit('/').next().unwrap_or_default();
        let mut fetched = Self::fetch(engine, url, secrets, file, false).await?;
        blocking(move || {
            fetched.hide(None)?;
            Ok(fetched)
        })
        .await
    }

    /// Takes a directory out of it, as a context of its own, which knows what it was sent without.
    pub(super) async fn detach(&mut self, path: &Path) -> Result<Self, Error> {
        let beside = self.place.0.parent().unwrap_or(Path::new("/"));
        let place = Place(beside.join(format!("build-{}", unused_name())));
        let missing = |e: io::Error| Error::Invalid(format!("a context was not sent along: {e}"));
        make_dir(&place.0, 0o700)?;
        let held = match &mut self.held {
            Held::Tree(tree) => Held::Tree(tree.detach(path).map_err(missing)?),
            Held::Directory(root) => {
                let real = evaluate(root, path).map_err(missing)?;
                let from = self.place.files().join(real.strip_prefix("/").unwrap_or(&real));
                let to = place.files();
                std::fs::rename(from, &to).map_err(missing)?;
                Held::Directory(Root::at(&to).map_err(missing)?)
            }
        };
        let mut detached = Self::new(held, place);
        detached.left_out = LeftOut::read(detached.files(), None);
        detached.hide(None)?;
        Ok(detached)
    }

    /// What it was sent or fetched without.
    pub(super) fn left_out(&self) -> &LeftOut {
        &self.left_out
    }

    /// A new directory for a step.
    pub(super) async fn scratch(&self) -> Result<PathBuf, Error> {
        let dir = self.place.0.join(unused_name());
        blocking(move || {
            make_dir(&dir, 0o700)?;
            Ok(dir)
        })
        .await
    }

    /// The text of a Dockerfile of it; and itself.
    pub(super) async fn dockerfile(self, name: &str) -> Result<(Self, String), Error> {
        let name = name.to_owned();
        blocking(move || {
            let missing = |e: io::Error| match e.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Error::Invalid(format!(
                    "Cannot locate specified Dockerfile: {name}: it is not in the build context"
                )),
                _ => Error::io("open in the build context", &name)(e),
            };
            let file = self.files().open(&Path::new("/").join(&name)).map_err(missing)?;
            let mut text = Vec::new();
            file.take(LONGEST + 1).read_to_end(&mut text).map_err(missing)?;
            if text.len() as u64 > LONGEST {
                return Err(Error::Invalid(format!("the Dockerfile {name} is longer than {LONGEST} bytes")));
            }
            let text = String::from_utf8(text)
                .map_err(|_| Error::Invalid(format!("the Dockerfile {name} is not UTF-8")))?;
            Ok((self, text))
        })
        .await
    }
}

/// Removes it from a directory. The Dockerfile and the file that says so stay until they have been read.
fn leave_out(left_out: &LeftOut, dir: &Path, at: &str, dockerfile: &str) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        let path = if at.is_empty() { name } else { format!("{at}/{name}") };
        let is_dir = entry.file_type()?.is_dir();
        let ignore = &left_out.patterns;
        let needed = [dockerfile, left_out.file()];
        let out = ignore.excluded_by(&path).is_some() && !needed.contains(&path.as_str());
        let below = format!("{path}/");
        let within = needed.iter().any(|n| n.starts_with(&below)) || ignore.may_keep_below(&path);
        if is_dir && (!out || within) {
            leave_out(left_out, &entry.path(), &path, dockerfile)?;
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

impl Drop for Place {
    fn drop(&mut self) {
        let dir = std::mem::take(&mut self.0);
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
