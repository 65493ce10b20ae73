//! The volumes of a data root: made, held by containers, told of, removed.
//!
//! What a crash leaves: a directory without a record is taken up as a volume (its content is the user's), a
//! record without a directory is dropped. Removal moves the directory away first.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::local;
use super::mounted::Mounted;
use crate::data_root::{DataRoot, make_dir, remove_tree, sync_dir};
use crate::error::{Error, blocking};
use crate::events::{Events, now_ns};
use crate::metadata::{Change, Kind, Metadata, Stored};

/// Label of volumes that nobody named, as Docker sets it.
const ANONYMOUS: &str = "com.docker.volume.anonymous";

/// A volume as `inspect` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Always `local`.
    pub driver: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
    /// Nanoseconds since the Unix epoch.
    pub created_at_ns: i64,
    /// Where its content lies on the host.
    #[serde(skip)]
    pub mountpoint: PathBuf,
    /// Containers that use it, running or not.
    #[serde(skip)]
    pub users: usize,
}

impl Volume {
    /// Whether nobody named it.
    pub fn is_anonymous(&self) -> bool {
        self.labels.contains_key(ANONYMOUS)
    }
}

/// A volume to make.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewVolume {
    /// Name; empty = a made-up one.
    pub name: String,
    /// Driver; empty = `local`.
    pub driver: String,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// What a prune removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Names or IDs.
    pub removed: Vec<String>,
    /// Bytes freed.
    pub freed: u64,
}

/// Cheap handle to the volumes of one data root.
#[derive(Clone, Debug)]
pub struct Volumes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: Arc<DataRoot>,
    metadata: Metadata,
    events: Events,
    /// Serialises whatever makes or removes one.
    changing: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    mounted: Mounted,
    /// Of new ones, where it is not the host's root.
    owner: Option<(u32, u32)>,
}

#[derive(Debug, Default)]
struct State {
    all: BTreeMap<String, Arc<Volume>>,
    /// Containers by volume.
    users: HashMap<String, BTreeSet<String>>,
}

/// Takes a directory away that the making of a volume left before there was anything in it: nobody was told of it,
/// and what options it was to have is not known.
fn swept(dir: &Path) -> bool {
    let data = dir.join(local::DATA);
    let filled = std::fs::read_dir(&data).is_ok_and(|mut entries| entries.next().is_some());
    if filled || remove_tree(&dir.join(super::copy::FILLING)).is_err() {
        return false;
    }
    // Neither goes if there is anything in it.
    let _ = std::fs::remove_dir(&data);
    let gone = std::fs::remove_dir(dir).is_ok();
    if gone {
        tracing::info!(path = %dir.display(), "swept a volume that was never finished");
    }
    gone
}

impl Volumes {
    /// Takes over what is stored; `users` are the containers with the names of their volumes, `owner`
    /// has new ones.
    pub(crate) fn open(
        root: Arc<DataRoot>,
        metadata: Metadata,
        events: Events,
        stored: &Stored,
        users: impl IntoIterator<Item = (String, Vec<String>)>,
        owner: Option<(u32, u32)>,
    ) -> Result<Self, Error> {
        let mut state = State::default();
        for (container, names) in users {
            for name in names {
                state.users.entry(name).or_default().insert(container.clone());
            }
        }
        let mut changes = Vec::new();
        for (name, mut volume) in stored.all::<Volume>(Kind::Volume) {
            volume.mountpoint = root.volume(&name).join(local::DATA);
            if volume.mountpoint.is_dir() {
                state.all.insert(name, Arc::new(volume));
            } else {
                tracing::error!(volume = name, "the directory of a volume is missing: it is dropped");
                changes.push(Change::delete(Kind::Volume, &name));
            }
        }
        let dir = root.volumes();
        for entry in std::fs::read_dir(&dir).map_err(Error::io("list", &dir))?.flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let mountpoint = entry.path().join(local::DATA);
            if state.all.contains_key(&name) || !entry.path().is_dir() || swept(&entry.path()) {
                continue;
            }
            if !mountpoint.is_dir() {
                tracing::warn!(path = %entry.path().display(), "this is no volume, and is left alone");
                continue;
            }
            tracing::warn!(volume = name, "took up a volume that was not recorded, as after a crash");
            let volume = Volume {
                name: name.clone(),
                driver: local::NAME.into(),
                labels: BTreeMap::new(),
                options: BTreeMap::new(),
                created_at_ns: now_ns(),
                mountpoint,
                users: 0,
            };
            changes.push(Change::put(Kind::Volume, &name, &volume)?);
            state.all.insert(name, Arc::new(volume));
        }
        for name in state.all.keys() {
            let filling = root.volume(name).join(super::copy::FILLING);
            if filling.exists() {
                tracing::info!(path = %filling.display(), "swept what a volume was being filled with");
            }
            remove_tree(&filling)?;
        }
        if !changes.is_empty() {
            metadata.commit_blocking(changes)?;
        }
        let state = Mutex::new(state);
        let (changing, mounted) = (tokio::sync::Mutex::default(), Mounted::default());
        Ok(Self(Arc::new(Inner { root, metadata, events, changing, state, mounted, owner })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn mounted(&self) -> &Mounted {
        &self.0.mounted
    }

    /// A volume by its name.
    pub fn get(&self, name: &str) -> Result<Volume, Error> {
        let state = self.state();
        let volume = state.all.get(name).ok_or(Error::NoSuchVolume { name: name.to_owned() })?;
        Ok(state.shown(volume))
    }

    /// All volumes by name.
    pub fn list(&self) -> Vec<Volume> {
        let state = self.state();
        state.all.values().map(|v| state.shown(v)).collect()
    }

    /// Makes a volume, or answers the one of that name as it is.
    pub async fn create(&self, new: NewVolume) -> Result<Volume, Error> {
        self.obtain(new, None).await
    }

    /// As [`Volumes::create`], and keeps it as long as the container `user` exists.
    pub(crate) async fn obtain(&self, mut new: NewVolume, user: Option<&str>) -> Result<Volume, Error> {
        let asked = new.name.clone();
        let of = |e: Error| Error::Invalid(format!("create {asked}: {e}"));
        if !matches!(new.driver.as_str(), "" | local::NAME) {
            return Err(Error::NoSuchPlugin {
                operation: format!("create {asked}"),
                plugin: new.driver.clone(),
            });
        }
        if new.name.is_empty() {
            new.name = hex::encode(rand::random::<[u8; 32]>());
            new.labels.insert(ANONYMOUS.into(), String::new());
        }
        let _changing = self.0.changing.lock().await;
        if let Ok(found) = self.get(&new.name) {
            if let Some(user) = user {
                self.state().users.entry(new.name).or_default().insert(user.to_owned());
            }
            return Ok(found);
        }
        local::check_name(&new.name).map_err(of)?;
        local::check_options(&new.options).map_err(of)?;
        let volume = Volume {
            mountpoint: self.0.root.volume(&new.name).join(local::DATA),
            name: new.name.clone(),
            driver: local::NAME.into(),
            labels: new.labels,
            options: new.options,
            created_at_ns: now_ns(),
            users: 0,
        };
        let (dir, parent) = (volume.mountpoint.clone(), self.0.root.volumes());
        let owner = self.0.owner;
        let made = blocking(move || {
            make_dir(&dir, 0o755)?;
            if let Some((uid, gid)) = owner {
                std::os::unix::fs::chown(&dir, Some(uid), Some(gid)).map_err(Error::io("own", &dir))?;
            }
            // Whatever the umask; a user of the container may own what lies in it, so it is entered by anybody.
            for (dir, mode) in [(dir.as_path(), 0o755), (dir.parent().unwrap_or(&dir), 0o711)] {
                std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(mode))
                    .map_err(Error::io("set the mode of", dir))?;
            }
            sync_dir(&parent)
        });
        let stored = async {
            made.await?;
            self.0.metadata.commit(vec![Change::put(Kind::Volume, &volume.name, &volume)?]).await
        };
        if let Err(e) = stored.await {
            if let Err(left) = remove_tree(&self.0.root.volume(&volume.name)) {
                tracing::warn!(error = %left, "a volume that was not made left something behind");
            }
            return Err(e);
        }
        {
            let mut state = self.state();
            if let Some(user) = user {
                state.users.entry(volume.name.clone()).or_default().insert(user.to_owned());
            }
            state.all.insert(volume.name.clone(), Arc::new(volume.clone()));
        }
        self.emit("create", &volume.name, [("driver", volume.driver.as_str())]);
        self.get(&volume.name)
    }

    /// Ends a container's hold on its volumes.
    pub(crate) fn release(&self, user: &str) {
        self.state().users.retain(|_, users| {
            users.remove(user);
            !users.is_empty()
        });
    }

    /// Removes a volume that no container uses.
    pub async fn remove(&self, name: &str) -> Result<(), Error> {
        let changing = self.0.changing.lock().await;
        {
            let state = self.state();
            let volume = state.all.get(name).ok_or(Error::NoSuchVolume { name: name.to_owned() })?;
            if let Some(users) = state.users.get(&volume.name) {
                return Err(Error::VolumeInUse {
                    name: name.to_owned(),
                    users: users.iter().cloned().collect(),
                });
            }
        }
        let volume = self.get(name)?;
        let (dir, away) = (
            self.0.root.volume(name),
            self.0
                .root
                .temporary()
                .join(format!("removed-volume-{}", hex::encode(rand::random::<[u8; 8]>()))),
        );
        let at = volume.mountpoint.clone();
        let trash = away.clone();
        blocking(move || {
            // What is mounted there is not ours to delete.
            local::unmount(&at)?;
            std::fs::rename(&dir, &away).map_err(Error::io("move away", &dir))
        })
        .await?;
        if let Err(e) = self.0.metadata.commit(vec![Change::delete(Kind::Volume, name)]).await {
            // It stays, with all that is in it.
            let dir = self.0.root.volume(name);
            let (from, to) = (trash.clone(), dir.clone());
            let back = blocking(move || std::fs::rename(&trash, &dir).map_err(Error::io("move back", &dir)));
            if let Err(more) = back.await {
                // The next start sweeps it: whoever reads this before can save what is in it.
                tracing::error!(volume = name, from = %from.display(), to = %to.display(), error = %more,
                    "a volume that stays could not be moved back: move it before the daemon is started again");
                return Err(Error::Several {
                    operation: format!(
                        "volume {name} could not be removed, nor moved back to {}",
                        to.display()
                    ),
                    reasons: vec![e.to_string(), more.to_string()],
                });
            }
            return Err(e);
        }
        self.state().all.remove(name);
        self.emit("destroy", name, [("driver", volume.driver.as_str())]);
        // It is gone for everybody; to delete what it held may take long.
        drop(changing);
        // What is left of it after an error is swept by the next start.
        blocking(move || remove_tree(&trash)).await
    }

    /// Removes the volumes that no container uses and `chosen` picks. One that cannot be removed is left and told of.
    pub async fn prune(&self, chosen: impl Fn(&Volume) -> bool) -> Result<Pruned, Error> {
        let mut pruned = Pruned::default();
        for volume in self.list().into_iter().filter(|v| v.users == 0 && chosen(v)) {
            let size = self.size(&volume).await;
            match self.remove(&volume.name).await {
                Ok(()) => {
                    pruned.freed += size;
                    pruned.removed.push(volume.name);
                }
                // Taken into use, or removed, meanwhile.
                Err(Error::VolumeInUse { .. } | Error::NoSuchVolume { .. }) => {}
                Err(e) => {
                    tracing::warn!(volume = volume.name, error = %e, "a volume could not be pruned")
                }
            }
        }
        self.0.events.pruned("volume", pruned.freed);
        Ok(pruned)
    }

    /// Bytes a volume takes on disk; 0 for what is mounted from elsewhere.
    pub async fn size(&self, volume: &Volume) -> u64 {
        if !volume.options.is_empty() {
            return 0;
        }
        let at = volume.mountpoint.clone();
        blocking(move || Ok(crate::disk_usage::of(&at))).await.unwrap_or(0)
    }

    pub(super) fn emit<const N: usize>(&self, action: &str, name: &str, attributes: [(&str, &str); N]) {
        let attributes = attributes.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        self.0.events.emit("volume", action, name, attributes);
    }
}

impl State {
    fn shown(&self, volume: &Volume) -> Volume {
        Volume { users: self.users.get(&volume.name).map_or(0, BTreeSet::len), ..volume.clone() }
    }
}
