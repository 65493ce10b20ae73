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
