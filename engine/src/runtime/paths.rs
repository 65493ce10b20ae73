//! Paths of /proc and /sys that a container must not see, or not write.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::sys::stat::{SFlag, fstat};

use super::error::{Context, Error};
use super::mount_api::{self, RDONLY};
use super::mounts::kernel_tree;
use super::resolve::Root;

/// Docker's, and the switches of the kernel's debug messages.
const MASKED: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/dynamic_debug",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Hides and protects them, or those given instead.
///
/// `null` is the null device that covers files, opened before anything of the user's was mounted: what is at
/// /dev/null by now may be a link of somebody else's making.
pub fn protect(
    root: &Root,
    null: &OwnedFd,
    masked: Option<&[String]>,
    read_only: Option<&[String]>,
) -> Result<(), Error> {
    let mut nothing: Option<OwnedFd> = None;
    let throttle = if masked.is_none() { thermal_throttle(root) } else { Vec::new() };
    for path in chosen(masked, &MASKED).into_iter().chain(throttle.iter().map(String::as_str)) {
        let Some(place) = find(root, path)? else { continue };
        let mode = fstat(&place).on("examine", path)?.st_mode;
        if mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits() {
            // One mount is made and then copied: before Linux 6.15 only what is attached can be.
            let cover = match &nothing {
                Some(tree) => mount_api::clone_tree(tree.as_fd(), Path::new(""), false)
                    .on("clone", "empty directory")?,
                None => kernel_tree("tmpfs", RDONLY, &[("nr_inodes", "1"), ("mode", "755")])?,
            };
            mount_api::attach(&cover, place).on("mask", path)?;
            nothing.get_or_insert(cover);
        } else {
            let cover = mount_api::clone_tree(null.as_fd(), Path::new(""), false).on("clone", "/dev/null")?;
            mount_api::attach(&cover, place).on("mask", path)?;
        }
    }
    for path in chosen(read_only, &READ_ONLY) {
        let Some(place) = find(root, path)? else { continue };
        let copy = mount_api::clone_tree(place.as_fd(), Path::new(""), true).on("clone", path)?;
        mount_api::set_attributes(&copy, RDONLY, true).on("make read-only", path)?;
        mount_api::attach(&copy, place).on("make read-only", path)?;
    }
    Ok(())
}

/// What is hidden and what is protected, by name, in a container that has this host's /sys.
pub fn named(masked: Option<&[String]>, read_only: Option<&[String]>) -> [Vec<String>; 2] {
    let throttle = match (masked, Root::current()) {
        (None, Ok(host)) => thermal_throttle(&host),
        _ => Vec::new(),
    };
    let own = |paths: Vec<&str>| paths.into_iter().map(str::to_owned).collect::<Vec<_>>();
    [[own(chosen(masked, &MASKED)), throttle].concat(), own(chosen(read_only, &READ_ONLY))]
}

/// What is hidden and what is protected on any host.
pub(crate) fn usual(masked: Option<&[String]>, read_only: Option<&[String]>) -> [Vec<String>; 2] {
    let own = |paths: Vec<&str>| paths.into_iter().map(str::to_owned).collect::<Vec<_>>();
    [own(chosen(masked, &MASKED)), own(chosen(read_only, &READ_ONLY))]
}

fn chosen<'a>(given: Option<&'a [String]>, default: &'a [&'a str]) -> Vec<&'a str> {
    given.map_or_else(|| default.to_vec(), |paths| paths.iter().map(String::as_str).collect())
}

/// Counters of each CPU that tell what others compute.
fn thermal_throttle(root: &Root) -> Vec<String> {
    const CPUS: &str = "/sys/devices/system/cpu";
    let first = format!("{CPUS}/cpu0/thermal_throttle");
    if root.locate(Path::new(&first)).is_err() {
        return Vec::new();
    }
    let entries = std::fs::read_dir(CPUS).into_iter().flatten().flatten();
    let names = entries.filter_map(|e| e.file_name().into_string().ok());
    let cpus = names.filter(|n| n.strip_prefix("cpu").is_some_and(|n| n.parse::<u32>().is_ok()));
    cpus.map(|n| format!("{CPUS}/{n}/thermal_throttle")).collect()
}

fn find(root: &Root, path: &str) -> Result<Option<OwnedFd>, Error> {
    match root.locate(Path::new(path)) {
        Ok(fd) => Ok(Some(fd)),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(e).on("open", path),
    }
}
