//! The file system of a stage, written to: what is written becomes a layer.

use std::path::PathBuf;

use crate::container::pack::write_layer;
use crate::data_root::{make_dir, remove_tree};
use crate::error::Error;
use crate::image::{Held, Images};
use crate::runtime::Parts;
use crate::runtime::View;
use crate::runtime::resolve::Root;
use crate::shim::spec::{HostFiles, Rootfs};

/// Goes, with what is written, when it is dropped. All of it blocks.
pub(super) struct Workspace {
    dir: PathBuf,
    view: Option<View>,
}

impl Workspace {
    /// Layers (topmost first) below a directory that takes what is written. `dir` is empty.
    pub(super) fn open(dir: PathBuf, lowers: Vec<PathBuf>) -> Result<Self, Error> {
        let (upper, work) = (dir.join("upper"), dir.join("work"));
        let mut space = Self { dir, view: None };
        make_dir(&upper, 0o755)?;
        make_dir(&work, 0o755)?;
        let rootfs = match lowers.is_empty() {
            true => Rootfs::Directory(upper),
            false => Rootfs::Overlay { lowers, upper, work },
        };
        let parts = Parts::Container { rootfs, mounts: Vec::new(), host_files: HostFiles::default() };
        space.view = Some(View::assemble(parts, None, &space.dir).map_err(failed)?);
        Ok(space)
    }

    /// Where paths are looked up.
    pub(super) fn root(&self) -> Result<&Root, Error> {
        self.view.as_ref().map(View::root).ok_or(Error::ShuttingDown)
    }

    /// What was written as one more layer on an image; none = nothing was.
    pub(super) fn into_layer(
        mut self,
        images: &Images,
        base: Option<&str>,
        latest: Option<i64>,
    ) -> Result<Option<Held>, Error> {
        self.view = None;
        let upper = self.dir.join("upper");
        images.add_layer_blocking(base, |file| write_layer(&upper, file, &[], latest))
    }
}

/// The files of layers alone.
pub(super) fn files(lowers: Vec<PathBuf>, scratch: &std::path::Path) -> Result<View, Error> {
    View::assemble(Parts::Image(lowers), None, scratch).map_err(failed)
}

fn failed(e: crate::runtime::Error) -> Error {
    Error::Invalid(format!("cannot put the file system of a stage together: {e}"))
}

impl Drop for Workspace {
    fn drop(&mut self) {
        self.view = None;
        if let Err(e) = remove_tree(&self.dir) {
            tracing::warn!(error = %e, "the files of a step are left to be swept at the next start");
        }
    }
}
