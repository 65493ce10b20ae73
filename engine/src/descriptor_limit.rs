//! How many descriptors this process may have open (getrlimit(2)): as many as it is let, and its containers what it was
//! started with.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::config::UlimitConfig;

/// Raises the soft limit of this process, and of the shims it starts, to the hard one. What it was, for containers: a
/// program that closes all it may have, or waits with select(2), is to see the usual limit.
pub fn raise() -> Option<UlimitConfig> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    if soft < hard
        && let Err(e) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(error = %e, soft, hard, "the limit of open files stays as it is");
        return None;
    }
    let number = |limit| i64::try_from(limit).unwrap_or(-1);
    Some(UlimitConfig { name: "nofile".into(), soft: number(soft), hard: number(hard) })
}
