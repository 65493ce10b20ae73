//! The build context: an archive unpacked into a directory that goes when the build ends.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use tokio::io::AsyncRead;

use super::left_out;
use crate::data_root::{make_dir, remove_tree};
use crate::dockerfile::Ignore;
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
