//! Files that are in a container and on no disk (a service's secrets and configs). Whoever starts the container
//! gives their content. It lies in a tmpfs in the bundle, where the shim binds it from, and which is taken off again
//! once the container has it: from then on the files live as long as the container's mounts do. The same holds for
//! variables that only the processes of one run are to know.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::mount::{MntFlags, umount2};

use crate::config::MemoryFile;
use crate::engine::Engine;
use crate::error::Error;
use crate::mount::{MountConfig, MountKind};
use crate::runtime::mount_api::{self, NODEV, NOEXEC, NOSUID};
use crate::runtime::{mountinfo, mounts};
use crate::shim::spec::VARIABLES_FILE;
use crate::userns::IdMaps;

/// Where in the bundle the tmpfs is, [`VARIABLES_FILE`] with it.
const DIRECTORY: &str = "files";

/// What a file holds. Its Debug tells only how much.
#[derive(Clone, PartialEq, Eq)]
pub struct FileContent(Arc<[u8]>);

impl From<Vec<u8>> for FileContent {
    fn from(data: Vec<u8>) -> Self {
        Self(data.into())
    }
}

impl fmt::Debug for FileContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileContent({} bytes)", self.0.len())
    }
}

impl Engine {
    /// Starts a container that has [`MemoryFile`]s, which hold `contents`, in the same order.
    pub async fn start_with_files(&self, id: &str, contents: Vec<FileContent>) -> Result<(), Error> {
        let slot = self.table().find(id)?;
        slot.volatile().contents = Some(contents);
        let started = self.start(&slot.id).await;
        slot.volatile().contents = None;
        started
    }

    /// Has a container that somebody else starts hold `contents`, as long as it is there.
    pub(crate) fn give_files(&self, id: &str, contents: Vec<FileContent>) -> Result<(), Error> {
        self.table().find(id)?.volatile().contents = Some(contents);
        Ok(())
    }

    /// Has the next start of a container know `NAME=VALUE`s that are in none of what is kept or told of it.
    pub(crate) fn give_variables(&self, id: &str, variables: Vec<String>) -> Result<(), Error> {
        self.table().find(id)?.volatile().variables = variables;
        Ok(())
    }
}

/// The tmpfs while it is on the host. Dropping it takes it off.
pub(super) struct Placed {
    at: PathBuf,
    /// The files as the shim is to bind them.
    pub(super) mounts: Vec<MountConfig>,
}

impl Placed {
    /// Mounts a tmpfs in the bundle and writes the files, owned by the host's IDs of a container's where those are given, and
    /// the variables for the shim.
    pub(super) fn new(
        bundle: &Path,
        files: &[MemoryFile],
        contents: Option<&[FileContent]>,
        variables: &[String],
        ids: Option<&IdMaps>,
    ) -> Result<Option<Self>, Error> {
        if files.is_empty() && variables.is_empty() {
            return Ok(None);
        }
        let Some(contents) = contents.or(Some(&[])).filter(|c| c.len() == files.len()) else {
            let what: Vec<&str> = files.iter().map(|f| f.what.as_str()).collect();
            return Err(Error::Conflict(format!(
                "the container needs {}, which no disk keeps: only its service can start it",
                what.join(", ")
            )));
        };
        let at = bundle.join(DIRECTORY);
        let failed = |operation| Error::io(operation, &at);
        std::fs::create_dir(&at).map_err(failed("make directory"))?;
        let place = OwnedFd::from(File::open(&at).map_err(failed("open"))?);
        mount_api::attach(&memory()?, place).map_err(failed("mount a tmpfs on"))?;
        // From here on dropping it takes the tmpfs off.
        let mut placed = Self { at: at.clone(), mounts: Vec::new() };
        for (i, (file, content)) in files.iter().zip(contents).enumerate() {
            let path = at.join(i.to_string());
            let owner = match ids {
                None => Some((file.uid, file.gid)),
                Some(ids) => ids.to_host(file.uid, file.gid),
            };
            let owner = owner.ok_or_else(|| {
                Error::Invalid(format!(
                    "{}: its owner {}:{} is none that the container's user namespace has",
                    file.what, file.uid, file.gid
                ))
            })?;
            write(&path, file, owner, content).map_err(Error::io("write", &path))?;
            placed.mounts.push(MountConfig::new(MountKind::bind(path), file.target.clone(), true));
        }
        if !variables.is_empty() {
            let path = bundle.join(VARIABLES_FILE);
            let json = serde_json::to_vec(variables).map_err(std::io::Error::from);
            json.and_then(|json| std::fs::write(&path, json)).map_err(Error::io("write", &path))?;
        }
        Ok(Some(placed))
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        if let Err(e) = umount2(&self.at, MntFlags::MNT_DETACH) {
            tracing::error!(path = %self.at.display(), error = %e, "a container's secrets and configs stay mounted on the host");
        }
    }
}

/// A tmpfs that is not swapped out, where the kernel can have it so (Linux 6.4).
fn memory() -> Result<OwnedFd, Error> {
    let attributes = NOSUID | NODEV | NOEXEC;
    mounts::kernel_tree("tmpfs", attributes, &[("mode", "700"), ("noswap", "")])
        .or_else(|_| mounts::kernel_tree("tmpfs", attributes, &[("mode", "700")]))
        .map_err(|e| Error::Invalid(e.to_string()))
}

fn write(
    path: &Path,
    file: &MemoryFile,
    (uid, gid): (u32, u32),
    content: &FileContent,
) -> std::io::Result<()> {
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o000).open(path)?;
    out.write_all(&content.0)?;
    fchown(&out, Some(uid), Some(gid))?;
    // After the owner, since a change of that takes set-user-ID bits away.
    out.set_permissions(std::fs::Permissions::from_mode(file.mode))
}

/// Takes off what a daemon left that was killed during a start. Nobody starts anything meanwhile.
pub(crate) fn sweep(bundles: &Path) -> Result<(), Error> {
    let bundles = std::fs::canonicalize(bundles).map_err(Error::io("resolve", bundles))?;
    let mounted = mountinfo::read().map_err(Error::io("read", "/proc/self/mountinfo"))?;
    let left = mounted.iter().map(|m| &m.mount_point);
    for path in left.filter(|p| p.starts_with(&bundles) && p.file_name().is_some_and(|n| n == DIRECTORY)) {
        umount2(path, MntFlags::MNT_DETACH)
            .map_err(|e| Error::io("unmount", path)(std::io::Error::from(e)))?;
        tracing::info!(path = %path.display(), "took off the secrets and configs of a start that was cut short");
    }
    Ok(())
}
