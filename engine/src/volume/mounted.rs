//! Which containers have which volumes mounted now: a volume from elsewhere is mounted by the first and
//! unmounted by the last.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use super::local;
use super::store::{Volume, Volumes};
use crate::error::{Error, blocking};
use crate::runtime::mountinfo;

/// Who has one volume mounted. Held while it is mounted or unmounted, which a dead server can make long.
type Holders = Arc<tokio::sync::Mutex<BTreeSet<String>>>;

/// Holders by volume.
#[derive(Debug, Default)]
pub(super) struct Mounted(std::sync::Mutex<HashMap<String, Holders>>);

impl Mounted {
    fn of(&self, name: &str) -> Holders {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody has these, and nobody is about to.
        all.retain(|n, h| n == name || Arc::strong_count(h) > 1 || h.try_lock().is_ok_and(|h| !h.is_empty()));
        all.entry(name.to_owned()).or_default().clone()
    }
}

impl Volumes {
    /// Makes a volume's content available to `holder`; where it lies.
    pub(crate) async fn mount(&self, name: &str, holder: &str) -> Result<PathBuf, Error> {
        let volume = self.get(name)?;
        let holders = self.mounted().of(name);
        let mut holders = holders.lock().await;
        if holders.is_empty() && local::needs_mount(&volume.options) {
            let volume = volume.clone();
            blocking(move || mount_once(&volume)).await?;
        }
        holders.insert(holder.to_owned());
        Ok(volume.mountpoint)
    }

    /// Ends what [`Volumes::mount`] began; whether there was anything to end.
    pub(crate) async fn unmount(&self, name: &str, holder: &str) -> Result<bool, Error> {
        let holders = self.mounted().of(name);
        let mut holders = holders.lock().await;
        let had = holders.remove(holder);
        if !had || !holders.is_empty() {
            return Ok(had);
        }
        match self.get(name) {
            Ok(v) if local::needs_mount(&v.options) => {
                blocking(move || local::unmount(&v.mountpoint)).await?;
            }
            _ => {}
        }
        Ok(had)
    }

    /// Counts a container that was running before this daemon was.
    pub(crate) async fn adopt(&self, name: &str, holder: &str) {
        self.mounted().of(name).lock().await.insert(holder.to_owned());
    }

    /// How many have it mounted.
    pub(super) async fn holders(&self, name: &str) -> usize {
        self.mounted().of(name).lock().await.len()
    }

    /// Takes off what an earlier daemon mounted and nobody uses now.
    pub(crate) async fn unmount_idle(&self) {
        for volume in self.list().into_iter().filter(|v| local::needs_mount(&v.options)) {
            let holders = self.mounted().of(&volume.name);
            let holders = holders.lock().await;
            if !holders.is_empty() {
                continue;
            }
            if let Err(e) = blocking(move || local::unmount(&volume.mountpoint)).await {
                tracing::warn!(error = %e, "a volume that nobody uses stays mounted");
            }
        }
    }
}

/// An earlier daemon's mount is as good as ours.
fn mount_once(volume: &Volume) -> Result<(), Error> {
    let at = &volume.mountpoint;
    let there = mountinfo::read().map_err(Error::io("read", "/proc/self/mountinfo"))?;
    if there.iter().any(|m| m.mount_point == *at) {
        return Ok(());
    }
    local::mount(&volume.name, &volume.options, at)
}
