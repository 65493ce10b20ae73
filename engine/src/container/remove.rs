//! Removing a container and all that is its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::files::Layout;
use super::slot::Slot;
use crate::config::ContainerState;
use crate::data_root::{DataRoot, remove_tree};
use crate::engine::Engine;
use crate::error::{Error, blocking};
use crate::metadata::{Change, Kind};

/// Starts of a container that a forced removal ends, before it leaves the container to whoever starts it.
const MOST_KILLS: u32 = 3;

impl Engine {
    /// Removes a container; a running one only with `force`, which kills it. Its anonymous volumes stay
    /// unless it was to remove itself.
    pub async fn remove(&self, id: &str, force: bool) -> Result<(), Error> {
        self.remove_with(id, force, false).await
    }

    /// As [`Engine::remove`]; with `volumes`, its anonymous volumes go too.
    pub async fn remove_with(&self, id: &str, force: bool, volumes: bool) -> Result<(), Error> {
        let began = Instant::now();
        let slot = self.table().find(id)?;
        let mut kills = 0;
        let _op = loop {
            if slot.is_active() {
                if !force {
                    let c = slot.container();
                    return Err(Error::Conflict(format!(
                        "cannot remove container \"/{}\": container is {}: stop the container before removing or force remove",
                        c.name,
                        c.state.word()
                    )));
                }
                self.kill_for_removal(&slot).await?;
                kills += 1;
            }
            let op = slot.op.lock().await;
            // A start that was under way is done by now.
            if !force || !slot.is_active() || kills == MOST_KILLS {
                break op;
            }
        };
        if slot.life.borrow().removed {
            return Err(Error::NoSuchContainer { name: id.to_owned() });
        }
        if slot.is_active() {
            return Err(Error::Conflict(format!(
                "container {} was started again while it was being removed",
                slot.id
            )));
        }
        let with_volumes = volumes || slot.container().config.auto_remove;
        slot.update(|c| c.state = ContainerState::Removing);
        let mut reasons = Vec::new();
        reasons.extend(self.unwire(&slot).await.err().map(|e| e.to_string()));
        self.unmount_volumes(&slot.container(), &slot.id).await;
        slot.volatile().pending.clear();
        let (root, id, bundle) = (self.root().clone(), slot.id.clone(), self.bundle(&slot.id));
        let (away, failed) = blocking(move || Ok(move_away(&root, &id, &bundle))).await?;
        reasons.extend(failed);
        let sized = slot.container().config.storage_size.is_some();
        self.cleaning().spawn_blocking(move || {
            if sized {
                forget_size(&away);
            }
            delete(&away);
        });
        if !reasons.is_empty() {
            slot.update(|c| c.state = ContainerState::Dead);
            self.store_later(&slot);
            return Err(Error::Several {
                operation: format!("container {} could not be removed whole", slot.id),
                reasons,
            });
        }
        // Its directory is gone: should a crash lose this, the next start removes the record too.
        self.metadata().later(Change::delete(Kind::Container, &slot.id));
        self.table().remove(&slot.id);
        self.execs().forget(&slot.id);
        let volumes = self.let_volumes_go(&slot.id, &slot.container().config.mounts, with_volumes).await;
        self.emit(&slot, "destroy", &[]);
        slot.life.send_modify(|l| l.removed = true);
        self.images().release(&slot.id).await.and(volumes)?;
        self.metrics().container.delete.observe(began.elapsed().as_secs_f64());
        Ok(())
    }

    async fn kill_for_removal(&self, slot: &Arc<Slot>) -> Result<(), Error> {
        self.cancel_restart(slot).await;
        if slot.shim().is_some() {
            self.tell_signal(slot, libc::SIGKILL);
        }
        self.kill_and_wait(slot).await
    }
}

/// Moves all of it away, past every error: that is the removal, as what lies there is swept by a start
/// after a crash. Gives the paths to delete, which on a busy disk takes longer than a container lives.
fn move_away(root: &DataRoot, id: &str, bundle: &Path) -> (Vec<PathBuf>, Vec<String>) {
    let moves = [
        (root.container(id), root.temporary().join(format!("removed-{id}"))),
        (bundle.to_path_buf(), bundle.with_file_name(format!("removed-{id}"))),
    ];
    let (mut away, mut reasons) = (Vec::new(), Vec::new());
    for (from, to) in moves {
        match std::fs::rename(&from, &to) {
            Ok(()) => away.push(to),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => reasons.push(Error::io("move away", &from)(e).to_string()),
        }
    }
    (away, reasons)
}

fn forget_size(paths: &[PathBuf]) {
    for upper in paths.iter().map(|dir| Layout { dir: dir.clone() }.upper()).filter(|upper| upper.exists()) {
        if let Err(e) = crate::quota::forget(&upper) {
            tracing::warn!(error = %e, path = %upper.display(), "a limit of size is left to nobody");
        }
    }
}

fn delete(paths: &[PathBuf]) {
    for path in paths {
        if let Err(e) = remove_tree(path) {
            tracing::warn!(error = %e, "left to be swept at the next start");
        }
    }
}
