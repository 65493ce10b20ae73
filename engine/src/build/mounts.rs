//! `RUN --mount`: what is mounted while a command runs, and what of it is taken away from the layer again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::fstatat;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::caches::{self, InUse};
use super::context::Context;
use super::copy::{self, Item, Rules};
use super::files::Files;
use super::left_out::LeftOut;
use super::output::Output;
use super::settings::beneath;
use super::ssh::{self, Forwarded};
use crate::config::MemoryFile;
use crate::container::FileContent;
use crate::data_root::make_dir;
use crate::dockerfile::{Mount, MountKind as Kind};
use crate::error::{Error, blocking};
use crate::mount::{BindOptions, MountConfig, MountKind, TmpfsOptions};
use crate::runtime::resolve::{NO_SYMLINKS, Root};

/// What a command gets.
#[derive(Default)]
pub(super) struct Mounted {
    pub(super) mounts: Vec<MountConfig>,
    pub(super) files: Vec<MemoryFile>,
    pub(super) contents: Vec<FileContent>,
    pub(super) env: Vec<String>,
    /// Variables with secrets in them, which nothing but the command is to know.
    pub(super) secret_env: Vec<String>,
    /// Paths that are no part of the layer where the image does not have them.
    pub(super) stubs: Vec<PathBuf>,
    /// Its caches.
    pub(super) caches: InUse,
    /// Its sockets to agents.
    pub(super) agents: Vec<Forwarded>,
}

/// What mounts are of.
#[derive(Default)]
pub(super) struct Sources {
    /// Files that one may be from, by what `from` says: a root to read, which is kept as long as this lives.
    pub(super) files: HashMap<String, Arc<Source>>,
    /// What is known of that which caches begin with, by the mount's number.
    pub(super) seeds: BTreeMap<usize, String>,
}

/// The files of a context, a stage or an image.
pub(super) struct Source {
    pub(super) view: SourceRoot,
}

/// Where they are looked up.
pub(super) enum SourceRoot {
    /// A directory of the host.
    Directory(PathBuf, Root),
    /// A context as it was sent.
    Context(Arc<Context>),
    /// Layers, mounted.
    Layers(crate::runtime::View),
}

impl Source {
    /// The files of a directory.
    pub(super) async fn directory(dir: PathBuf) -> Result<Arc<Self>, Error> {
        blocking(move || {
            let root = Root::at(&dir).map_err(Error::io("open", &dir))?;
            Ok(Arc::new(Self { view: SourceRoot::Directory(dir, root) }))
        })
        .await
    }

    /// What it was sent or fetched without; nothing where it is no context.
    pub(super) fn left_out(&self) -> LeftOut {
        match &self.view {
            SourceRoot::Context(context) => context.left_out().clone(),
            SourceRoot::Directory(..) | SourceRoot::Layers(_) => LeftOut::default(),
        }
    }

    pub(super) fn files(&self) -> Files<'_> {
        match &self.view {
            SourceRoot::Directory(_, root) => Files::Root(root),
            SourceRoot::Context(context) => context.files(),
            SourceRoot::Layers(view) => Files::Root(view.root()),
        }
    }
}

/// Makes ready what the mounts want. `dir` has the caches, and `scratch` is the step's own. Of agents, those that are
/// forwarded, and where the client is told of them.
pub(super) async fn prepare(
    mounts: &[Mount],
    sources: &Sources,
    secrets: &BTreeMap<String, Vec<u8>>,
    agents: (&BTreeSet<String>, &Output),
    working_dir: &str,
    dir: &Path,
    scratch: &Path,
) -> Result<Mounted, Error> {
    let cached = mounts.iter().enumerate().filter(|(_, m)| m.kind == Kind::Cache);
    let cached = cached.map(|(n, m)| {
        let target = PathBuf::from(beneath(working_dir, &m.target));
        (m, caches::directory(m, &target, sources.seeds.get(&n).map(String::as_str), dir))
    });
    let mut cached: Vec<_> = cached.collect();
    let mut out = Mounted { caches: caches::take(&mut cached).await, ..Mounted::default() };
    let mut cached = cached.into_iter();
    for (n, m) in mounts.iter().enumerate() {
        let target = PathBuf::from(beneath(working_dir, &m.target));
        match m.kind {
            Kind::Bind => {
                let source = sources.files.get(&m.from).ok_or_else(|| missing(&m.from))?.clone();
                let (m, to) = (m.clone(), scratch.join(format!("bind-{n}")));
                let found = blocking(move || bind(&m, &source, &to)).await?;
                out.mounts.push(MountConfig::new(
                    of_build(found),
                    target.clone(),
                    mounts[n].read_only.unwrap_or(true),
                ));
            }
            Kind::Cache => {
                let Some((_, cache)) = cached.next() else { continue };
                let seed = match m.from.is_empty() {
                    true => None,
                    false => Some(sources.files.get(&m.from).ok_or_else(|| missing(&m.from))?.clone()),
                };
                let (wanted, at, new, above) = (m.clone(), target.clone(), cache.clone(), dir.to_path_buf());
                blocking(move || {
                    caches::make(&wanted, &at, &new, &above, |to| match seed {
                        Some(source) => fill(&wanted, &source, to),
                        None => Ok(()),
                    })
                })
                .await?;
                out.mounts.push(MountConfig::new(
                    of_build(cache),
                    target.clone(),
                    m.read_only.unwrap_or(false),
                ));
            }
            Kind::Tmpfs => out.mounts.push(MountConfig::new(
                MountKind::Tmpfs { size: m.size, mode: m.mode, options: TmpfsOptions::default() },
                target.clone(),
                false,
            )),
            Kind::Secret => {
                let Some(secret) = secrets.get(&m.id) else {
                    if m.required {
                        return Err(Error::Invalid(format!(
                            "secret {}: not found: give it with --secret",
                            m.id
                        )));
                    }
                    continue;
                };
                if !m.env.is_empty() {
                    let text = String::from_utf8(secret.clone()).map_err(|_| {
                        Error::Invalid(format!("secret {} cannot be a variable: it is not UTF-8", m.id))
                    })?;
                    out.secret_env.push(format!("{}={text}", m.env));
                }
                if m.target.is_empty() {
                    continue;
                }
                out.files.push(MemoryFile {
                    what: format!("secret {}", m.id),
                    target: target.clone(),
                    uid: m.uid.unwrap_or(0),
                    gid: m.gid.unwrap_or(0),
                    mode: m.mode.unwrap_or(0o400),
                });
                out.contents.push(secret.clone().into());
            }
            Kind::Ssh => {
                let id = if m.id.is_empty() { "default" } else { &m.id };
                if !agents.0.contains(id) {
                    if m.required {
                        return Err(Error::Invalid(format!(
                            "no agent {id} of ssh is forwarded, which --mount=type=ssh requires: build with `skep build --ssh {id}` \
                             (`docker build` of the classic builder cannot forward one)"
                        )));
                    }
                    continue;
                }
                let target = match m.target.is_empty() {
                    true => PathBuf::from(format!("/run/buildkit/ssh_agent.{}", out.agents.len())),
                    false => target,
                };
                let socket = ssh::forward(Some(m), id, scratch, &format!("agent-{n}"), agents.1)?;
                out.mounts.push(MountConfig::new(of_build(socket.path.clone()), target.clone(), false));
                if out.agents.is_empty() {
                    out.env.push(format!("SSH_AUTH_SOCK={}", target.display()));
                }
                out.agents.push(socket);
                out.stubs.push(target);
                continue;
            }
        }
        out.stubs.push(target);
    }
    Ok(out)
}

/// A bind of what builds keep: its owners are those that containers know.
pub(super) fn of_build(source: PathBuf) -> MountKind {
    MountKind::Bind { source, options: BindOptions { own_ids: true, ..BindOptions::default() } }
}

/// Puts what a cache begins with into it.
fn fill(m: &Mount, source: &Source, to: &Path) -> Result<(), Error> {
    let item = bound(source, &m.source)?;
    if !matches!(item, Item::Content { .. }) {
        return Err(Error::Invalid(format!(
            "--mount=type=cache,from={}: {:?} is not a directory",
            m.from, m.source
        )));
    }
    let target = Root::at(to).map_err(Error::io("open", to))?;
    copy::copy(source.files(), &target, &[item], "/", true, &Rules::of_bind())
}

fn missing(from: &str) -> Error {
    Error::Invalid(format!("invalid from flag value {from}: it is neither a stage nor an image"))
}

/// What a bind is of. Blocks.
pub(super) fn bound(source: &Source, path: &str) -> Result<Item, Error> {
    let asked = Path::new("/").join(path.trim_start_matches('/'));
    Item::exactly(source.files(), &asked, &Rules::of_bind()).map_err(|e| {
        let blame = source.left_out().blame(path);
        Error::Invalid(format!("failed to find the source {path:?} of --mount=type=bind: {e}{blame}"))
    })
}

/// The path of the host to be mounted: of a context's directory itself where nothing is written, else a copy.
fn bind(m: &Mount, source: &Source, to: &Path) -> Result<PathBuf, Error> {
    let item = bound(source, &m.source)?;
    let whole = match &source.view {
        _ if !m.read_only.unwrap_or(true) => None,
        SourceRoot::Directory(dir, _) => Some(dir.clone()),
        SourceRoot::Context(context) => Some(context.unpacked()?),
        SourceRoot::Layers(_) => None,
    };
    if let Some(dir) = whole {
        return Ok(dir.join(item.path().strip_prefix("/").unwrap_or(item.path())));
    }
    make_dir(to, 0o755)?;
    let is_file = !matches!(item, Item::Content { .. });
    let target = Root::at(to).map_err(Error::io("open", to))?;
    let destination = if is_file { "/file" } else { "/" };
    copy::copy(source.files(), &target, &[item], destination, !is_file, &Rules::of_bind())?;
    Ok(if is_file { to.join("file") } else { to.to_path_buf() })
}

/// Takes away from what was written the empty files and directories that were made to mount on. Blocks.
pub(super) fn remove_stubs(upper: &Path, image: Option<&Root>, stubs: &[PathBuf]) {
    let Ok(root) = Root::at(upper) else { return };
    let in_image =
        |path: &Path| image.is_some_and(|i| i.open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW, 0).is_ok());
    for stub in stubs {
        let mut path = stub.as_path();
        while let (Some(parent), Some(name)) = (path.parent(), path.file_name()) {
            if in_image(path) {
                break;
            }
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
            let Ok(dir) = root.open(parent, flags, NO_SYMLINKS) else { break };
            // Directories that are not empty stay; so do files with something in them.
            let made = fstatat(&dir, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok_and(|s| {
                let kind = s.st_mode & libc::S_IFMT;
                kind == libc::S_IFLNK && path == stub || kind == libc::S_IFREG && s.st_size == 0
            });
            let gone = match made {
                true => unlinkat(&dir, name, UnlinkatFlags::NoRemoveDir),
                false => unlinkat(&dir, name, UnlinkatFlags::RemoveDir),
            };
            if gone.is_err() {
                break;
            }
            path = parent;
        }
    }
}
