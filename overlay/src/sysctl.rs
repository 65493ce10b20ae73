//! Kernel settings under /proc/sys/net of the calling thread's network namespace.

use std::fs;

use crate::error::{Error, Result};

/// Sets `net/<name>`, where it is not so already.
pub fn write(name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/{name}");
    if read(name).is_some_and(|now| now == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(Error::io("write sysctl", &path))
}

/// The value of `net/<name>`, fields separated by one space.
pub fn read(name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/sys/net/{name}")).ok()?;
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Whether the host has IPv6, at least for itself.
pub fn has_ipv6() -> bool {
    read("ipv6/conf/lo/disable_ipv6").as_deref() == Some("0")
}

/// Whether the kernel has IPv6 at all.
pub fn knows_ipv6() -> bool {
    std::path::Path::new("/proc/sys/net/ipv6").exists()
}

/// The setting that makes a host pass packets of IPv6 on.
pub const FORWARD6: &str = "ipv6/conf/all/forwarding";

/// Turns forwarding of IPv6 on. A host that forwards no longer listens to routers by itself: interfaces that did go on
/// with it. Those whose names begin with `ours` never should.
pub fn forward6(ours: &str) -> Result<()> {
    if read(FORWARD6).as_deref() == Some("1") {
        return Ok(());
    }
    let folder = "/proc/sys/net/ipv6/conf";
    for entry in fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let name = entry.map_err(Error::io("list", folder))?.file_name();
        let Some(name) = name.to_str().filter(|n| !["all", "lo"].contains(n) && !n.starts_with(ours)) else {
            continue;
        };
        let key = format!("ipv6/conf/{name}/accept_ra");
        if read(&key).as_deref() == Some("1") {
            write(&key, "2")?;
        }
    }
    write(FORWARD6, "1")
}
