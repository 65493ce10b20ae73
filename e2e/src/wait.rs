//! Waiting for the cluster to come to a state: polls until a deadline, then says what was seen last.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const POLL: Duration = Duration::from_millis(50);

/// Waits until `check` answers `Ok`; after `limit` fails with what it said last.
pub fn eventually(what: &str, limit: Duration, mut check: impl FnMut() -> Result<()>) -> Result<()> {
    eventually_some(what, limit, || check().map(Some))
}

/// Waits until `check` answers `Ok(Some(_))`; after `limit` fails with what it said last.
pub fn eventually_some<T>(
    what: &str,
    limit: Duration,
    mut check: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        let last = match check() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => "not yet".to_owned(),
            Err(e) => format!("{e:#}"),
        };
        if start.elapsed() > limit {
            bail!("{what}: not within {limit:?}; last seen: {last}");
        }
        std::thread::sleep(POLL);
    }
}
