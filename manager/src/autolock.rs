//! Autolock: keeps this manager's keys on disk sealed by the swarm's unlock key while the swarm wants that.
//!
//! The key file holds the one key that all others are sealed with, so each change of the unlock key is one file
//! replaced. The node's own key is sealed before that file is, and made readable after it: a crash between the two
//! leaves a node key that the file opens.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use skep_identity::{Role, SealKey, UnlockKey};
use skep_proto::v1;
use skep_proto::v1::control_client::ControlClient;

use crate::context::Context;
use crate::error::Error;
use crate::manager::ManagerOptions;
use crate::raft::disk::RealDisk;
use crate::raft::log::{KeyFile, LogError};

/// Pause after a write that failed.
const RETRY: Duration = Duration::from_secs(1);
/// Longest wait for the managers there are to tell their unlock key.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// The key file of the manager with this state directory.
pub fn key_file(state_dir: &Path) -> KeyFile {
    KeyFile::new(Arc::new(RealDisk), state_dir)
}

/// The unlock key the swarm has now, for a manager about to join: its keys are then sealed from the start. Without an
/// answer they are once it has caught up.
pub(crate) async fn of_others(options: &ManagerOptions, remote: &str) -> Option<UnlockKey> {
    let channel = skep_identity::channel(&options.identity, &options.network, remote, Role::Manager);
    let mut client = ControlClient::new(channel);
    let asked = tokio::time::timeout(ASK_TIMEOUT, client.get_cluster(v1::GetClusterRequest {})).await;
    wanted(asked.ok()?.ok()?.into_inner().cluster.as_ref()?)
}

fn wanted(cluster: &v1::Cluster) -> Option<UnlockKey> {
    cluster.unlock_key.parse().ok()
}

/// What keeps the files as they should be.
pub(crate) struct Autolock {
    file: KeyFile,
    key: SealKey,
    /// Where this manager was reached when it started.
    addr: String,
    /// The node's key has been readable on disk: it is to be replaced by a new one.
    renew: bool,
}

impl Autolock {
    /// Of a manager whose log is open.
    pub fn new(options: &ManagerOptions, renew: bool) -> Result<Self, Error> {
        let file = key_file(&options.state_dir);
        let key = match (options.identity.seal_key(), file.read()?) {
            (Some(key), _) => key,
            (None, Some(kept)) => kept.open(None)?,
            (None, None) => return Err(Error::Internal("its key file has gone".to_owned())),
        };
        Ok(Self { file, key, addr: options.advertise_addr.clone(), renew })
    }

    /// Follows what the cluster wants; runs until the store is gone.
    pub async fn follow(mut self, ctx: Arc<Context>) {
        let (_, mut updates) = ctx.store().subscribe();
        let mut done: Option<String> = None;
        loop {
            let view = ctx.view();
            if let Some(cluster) = view.cluster().filter(|c| done.as_ref() != Some(&c.unlock_key)) {
                match self.apply(&ctx, cluster).await {
                    Ok(()) => done = Some(cluster.unlock_key.clone()),
                    Err(error) => {
                        tracing::error!(%error, "this manager's keys are not kept as the swarm wants, trying again");
                        tokio::time::sleep(RETRY).await;
                        continue;
                    }
                }
            }
            if self.renew {
                self.renew = false;
                // At worst it is renewed when its time comes.
                let own = ctx.consensus.members().into_iter().find(|m| m.peer.node_id == ctx.node_id);
                let addr = own.map_or_else(|| self.addr.clone(), |m| m.peer.addr);
                if let Err(error) = skep_identity::renew(&ctx.identity, ctx.channel(&addr)).await {
                    tracing::warn!(%error, "a certificate with a key that was never readable on disk is not there yet");
                }
            }
            if updates.next().await.is_none() {
                return;
            }
            while updates.try_next().is_some() {}
        }
    }

    async fn apply(&mut self, ctx: &Context, cluster: &v1::Cluster) -> Result<(), Error> {
        let (file, key, identity) = (self.file.clone(), self.key, ctx.identity.clone());
        let (lock, version) = (wanted(cluster), cluster.meta.as_ref().map_or(0, |m| m.version));
        let work = move || -> Result<bool, Error> {
            let kept = file.read()?;
            // What is on disk may follow a change that this copy of the store has yet to see again.
            if kept.as_ref().is_some_and(|k| k.version > version) {
                return Ok(false);
            }
            let right = kept.as_ref().is_some_and(|k| k.is_as(lock.as_ref()));
            let sealed = lock.is_some() && identity.seal(Some(key))?;
            if !right {
                write(&file, &key, version, lock.as_ref())?;
            }
            if lock.is_none() {
                identity.seal(None)?;
            }
            Ok(sealed)
        };
        self.renew |= ctx.host().blocking(work).await?;
        Ok(())
    }
}

fn write(file: &KeyFile, key: &SealKey, version: u64, lock: Option<&UnlockKey>) -> Result<(), LogError> {
    file.write(key, version, lock)?;
    match lock {
        Some(_) => tracing::info!("this manager's keys are sealed by the swarm's unlock key now"),
        None => tracing::info!("this manager's keys are readable on its disk now: the swarm is not locked"),
    }
    Ok(())
}
