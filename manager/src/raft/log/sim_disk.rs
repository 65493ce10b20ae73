//! A disk that forgets: what was not synced is kept, torn or lost when it crashes. For the crash tests.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::raft::disk::{Disk, DiskFile};

#[derive(Default)]
struct Inode {
    durable: Vec<u8>,
    current: Vec<u8>,
    pending: Vec<(usize, Vec<u8>)>,
}

enum NameChange {
    Set(PathBuf, usize),
    Gone(PathBuf),
}

#[derive(Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    pending_names: Vec<NameChange>,
    operations: u64,
    fail_at: Option<u64>,
    full: bool,
}

/// Cheap handle; every clone is the same disk.
#[derive(Clone, Default)]
pub(super) struct SimDisk(Arc<Mutex<State>>);

struct SimFile {
    disk: SimDisk,
    inode: usize,
}

fn put(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    bytes.resize(bytes.len().max(offset + data.len()), 0);
    bytes[offset..offset + data.len()].copy_from_slice(data);
}

impl SimDisk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The power goes at the n-th change from the start; everything after fails.
    pub(super) fn fail_at(&self, operation: u64) {
        self.lock().fail_at = Some(operation);
    }

    pub(super) fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    /// Comes back after the power went: unsynced sectors and names survive as the seed decides.
    pub(super) fn restart(&self, seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        let state = &mut *self.lock();
        for inode in &mut state.inodes {
            let by_prefix = rng.random_bool(0.5);
            for (offset, data) in std::mem::take(&mut inode.pending) {
                if by_prefix {
                    let kept = rng.random_range(0..=data.len());
                    put(&mut inode.durable, offset, &data[..kept]);
                    if kept < data.len() {
                        break;
                    }
                    continue;
                }
                let mut start = 0;
                while start < data.len() {
                    let end = (((offset + start) / 512 + 1) * 512 - offset).min(data.len());
                    if rng.random_bool(0.5) {
                        put(&mut inode.durable, offset + start, &data[start..end]);
                    }
                    start = end;
                }
            }
            inode.current = inode.durable.clone();
        }
        let pending = std::mem::take(&mut state.pending_names);
        let kept = rng.random_range(0..=pending.len());
        for change in pending.into_iter().take(kept) {
            match change {
                NameChange::Set(path, inode) => drop(state.durable_names.insert(path, inode)),
                NameChange::Gone(path) => drop(state.durable_names.remove(&path)),
            }
        }
        state.names = state.durable_names.clone();
        state.fail_at = None;
    }

    /// Flips bits of a byte behind everybody's back.
    pub(super) fn flip(&self, path: &Path, offset: usize, mask: u8) {
        let state = &mut *self.lock();
        let inode = &mut state.inodes[state.names[path]];
        inode.current[offset] ^= mask;
    }

    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.lock().names.keys().cloned().collect()
    }

    fn change(&self, grows: bool) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.lock();
        let now = state.operations;
        state.operations += 1;
        if state.fail_at.is_some_and(|at| now >= at) {
            return Err(io::Error::other("the power is gone"));
        }
        if state.full && grows {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(state)
    }
}

impl DiskFile for SimFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let result = self.disk.change(true).map(drop);
        let lost_power = result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::Other);
        if result.is_ok() || lost_power {
            let mut state = self.disk.lock();
            let first_failure = state.fail_at.is_some_and(|at| state.operations == at + 1);
            if result.is_ok() || first_failure {
                let inode = &mut state.inodes[self.inode];
                put(&mut inode.current, offset as usize, bytes);
                inode.pending.push((offset as usize, bytes.to_vec()));
            }
        }
        result
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.change(false)?;
        let inode = &mut state.inodes[self.inode];
        inode.pending.clear();
        inode.durable = inode.current.clone();
        Ok(())
    }
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk for SimDisk {
    fn create(&self, path: &Path, size: u64) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.change(true)?;
        let zeros = vec![0; size as usize];
        state.inodes.push(Inode { durable: Vec::new(), current: zeros.clone(), pending: vec![(0, zeros)] });
        let inode = state.inodes.len() - 1;
        state.names.insert(path.to_owned(), inode);
        state.pending_names.push(NameChange::Set(path.to_owned(), inode));
        Ok(Box::new(SimFile { disk: self.clone(), inode }))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let state = self.lock();
        let inode = *state.names.get(path).ok_or_else(missing)?;
        Ok(state.inodes[inode].current.clone())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.lock();
        let inside = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.change(false)?;
        let inode = state.names.remove(from).ok_or_else(missing)?;
        state.names.insert(to.to_owned(), inode);
        state.pending_names.push(NameChange::Set(to.to_owned(), inode));
        state.pending_names.push(NameChange::Gone(from.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.change(false)?;
        state.names.remove(path).ok_or_else(missing)?;
        state.pending_names.push(NameChange::Gone(path.to_owned()));
        Ok(())
    }

    fn make_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.change(false)?;
        let inode = *state.names.get(path).ok_or_else(missing)?;
        let inode = &mut state.inodes[inode];
        inode.pending.clear();
        inode.durable = inode.current.clone();
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.change(false)?;
        let pending = std::mem::take(&mut state.pending_names);
        for change in pending {
            match change {
                NameChange::Set(path, inode) if path.parent() == Some(dir) => {
                    state.durable_names.insert(path, inode);
                }
                NameChange::Gone(path) if path.parent() == Some(dir) => {
                    state.durable_names.remove(&path);
                }
                other => state.pending_names.push(other),
            }
        }
        Ok(())
    }
}
