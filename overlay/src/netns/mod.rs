//! Network namespaces pinned as files, so that they outlive processes and daemon restarts.
//!
//! A namespace is entered only by a plain thread made for it, which ends at once: no thread of a pool
//! ever changes its namespace. Sockets opened by that thread go on working from anywhere.

mod owned;

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::error::{Error, Result};
use crate::link::{Links, step};
use crate::model::UserNamespace;
use crate::sysctl;

/// Index of `lo` in every namespace.
const LOOPBACK: u32 = 1;

/// A pinned namespace and its rtnetlink.
#[derive(Debug)]
pub struct Namespace {
    /// Where it is pinned.
    pub path: PathBuf,
    file: File,
    /// Its interfaces.
    pub(crate) links: Links,
}

impl Namespace {
    /// Makes a namespace pinned at `path`, with `lo` up, and without IPv6 on what interfaces it gets; owned by a new user
    /// namespace where one is asked for.
    pub fn create(path: &Path, owner: Option<&UserNamespace>) -> Result<Self> {
        File::create(path).map_err(Error::file("create", path))?;
        let made = run_in_thread(|| {
            match owner {
                None => unshare(CloneFlags::CLONE_NEWNET).map_err(Error::sys("unshare", "network"))?,
                Some(owner) => owned::enter_new(owner)?,
            }
            let own = Path::new("/proc/thread-self/ns/net");
            mount(Some(own), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .map_err(Error::sys("pin namespace at", path.display()))?;
            let mut links = Links::open()?;
            links.run(vec![step::set(LOOPBACK, None, None)], &[])?;
            // As Docker does: no capability is needed for low ports and ping within a container.
            sysctl::write("ipv4/ip_unprivileged_port_start", "0")?;
            sysctl::write("ipv4/ping_group_range", "0 2147483647")?;
            const NO_IPV6: &str = "ipv6/conf/default/disable_ipv6";
            if sysctl::read(NO_IPV6).is_some() {
                sysctl::write(NO_IPV6, "1")?;
            }
            // Timestamps without an offset per destination: a client that reaches one server both
            // directly and by a virtual address must not look as if its clock went backwards.
            sysctl::write("ipv4/tcp_timestamps", "2")?;
            Ok(links)
        });
        match made {
            Ok(links) => {
                let file = File::open(path).map_err(Error::file("open", path))?;
                Ok(Self { path: path.into(), file, links })
            }
            Err(e) => {
                // The first error is the one to tell.
                let _ = unpin(path);
                Err(e)
            }
        }
    }

    /// Opens a namespace pinned earlier.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::file("open", path))?;
        let links = run_in_thread(|| {
            setns(file.as_fd(), CloneFlags::CLONE_NEWNET)
                .map_err(Error::sys("enter namespace", path.display()))?;
            Links::open()
        })?;
        Ok(Self { path: path.into(), file, links })
    }

    /// Runs `f` inside the namespace, in a thread of its own.
    pub fn within<T: Send>(&self, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        run_in_thread(|| {
            setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET)
                .map_err(Error::sys("enter namespace", self.path.display()))?;
            f()
        })
    }

    /// Its descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Whether a namespace is pinned here (after a reboot the file is there, the namespace is not).
pub fn is_pinned(path: &Path) -> bool {
    const NSFS_MAGIC: i64 = 0x6e73_6673;
    nix::sys::statfs::statfs(path).is_ok_and(|s| s.filesystem_type().0 == NSFS_MAGIC)
}

/// Removes the pin; the namespace goes once no process is in it. No error when it is gone.
pub fn unpin(path: &Path) -> Result<()> {
    while is_pinned(path) {
        umount2(path, MntFlags::MNT_DETACH).map_err(Error::sys("unpin", path.display()))?;
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::file("remove", path)(e)),
        _ => Ok(()),
    }
}

fn run_in_thread<T: Send>(f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into());
        let handle = thread.spawn_scoped(scope, f).map_err(Error::io("start", "a thread"))?;
        handle.join().unwrap_or_else(|_| Err(Error::Interrupted("work in a namespace", "panic".into())))
    })
}
