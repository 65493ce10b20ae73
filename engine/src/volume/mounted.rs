//! Which containers have which volumes mounted now: a volume from elsewhere is mounted by the first and
//! unmounted by the last.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use super::local;
use super::store::{Volume, Volumes};
use crate::error::{Error, blocking};
use crate::runtime::mountinfo;

/// Holders by volume.
#[derive(Debug, Default)]
pub(super) struct Mounted(tokio::sync::Mutex<HashMap<String, BTreeSet<String>>>);

impl Volumes {
    /// Makes a volume's content available to `holder`; where it lies.
    pub(crate) async fn mount(&self, name: &str, holder: &str) -> Result<PathBuf, Error> {
        let volume = self.get(name)?;
        let mut mounted = self.mounted().0.lock().await;
        let holders = mounted.entry(name.to_owned()).or_default();
        if holders.is_empty() && local::needs_mount(&volume.options) {
            let volume = volume.clone();
            let done = blocking(move || mount_once(&volume)).await;
            if let Err(e) = done {
                mounted.remove(name);
                return Err(e);
            }
        }
        holders.insert(holder.to_owned());
        Ok(volume.mountpoint)
    }

    /// Ends what [`Volumes::mount`] began; whether there was anything to end.
    pub(crate) async fn unmount(&self, name: &str, holder: &str) -> Result<bool, Error> {
        let mut mounted = self.mounted().0.lock().await;
        let Some(holders) = mounted.get_mut(name) else { return Ok(false) };
        let had = holders.remove(holder);
        if !holders.is_empty() {
            return Ok(had);
        }
        mounted.remove(name);
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
        self.mounted().0.lock().await.entry(name.to_owned()).or_default().insert(holder.to_owned());
    }

    /// How many have it mounted.
    pub(super) async fn holders(&self, name: &str) -> usize {
        self.mounted().0.lock().await.get(name).map_or(0, BTreeSet::len)
    }

    /// Takes off what an earlier daemon mounted and nobody uses now.
    pub(crate) async fn unmount_idle(&self) {
        for volume in self.list().into_iter().filter(|v| local::needs_mount(&v.options)) {
            let mounted = self.mounted().0.lock().await;
            if mounted.contains_key(&volume.name) {
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
