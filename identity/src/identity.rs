//! The identity of this node as the rest of the process shares it: renewals swap it under running
//! connections, which keep the certificate they began with.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use skep_proto::ids::{ClusterId, NodeId};
use tokio::sync::watch;

use crate::{Credentials, Error, Host, Role, SealKey, Trust};

/// Cheap to clone; all clones see a renewal and a change of trust.
#[derive(Clone)]
pub struct Identity {
    inner: Arc<Inner>,
    host: Host,
}

struct Inner {
    dir: PathBuf,
    current: ArcSwap<Credentials>,
    /// What the key on disk is sealed with; held while the file is written.
    seal: Mutex<Option<SealKey>>,
    generation: watch::Sender<u64>,
}

impl Identity {
    /// Stores `credentials` under `dir` as this node's identity.
    pub fn create(dir: &Path, credentials: Credentials) -> Result<Self, Error> {
        Self::create_sealed(dir, credentials, None)
    }

    /// The same, a manager's key sealed from the start.
    pub fn create_sealed(dir: &Path, credentials: Credentials, seal: Option<SealKey>) -> Result<Self, Error> {
        credentials.store(dir, seal.as_ref())?;
        Ok(Self::over(dir, credentials, seal))
    }

    /// The identity stored under `dir`, if there is one. `seal` opens a sealed key, and a manager's key goes on being
    /// sealed with it; without it a sealed key is [`Error::Sealed`].
    pub fn load(dir: &Path, seal: Option<SealKey>) -> Result<Option<Self>, Error> {
        let Some(credentials) = Credentials::load(dir, seal.as_ref())? else { return Ok(None) };
        let seal = seal.filter(|_| credentials.identity().role == Role::Manager);
        if seal.is_some() {
            // A crash may have left it readable.
            credentials.store(dir, seal.as_ref())?;
        }
        Ok(Some(Self::over(dir, credentials, seal)))
    }

    fn over(dir: &Path, credentials: Credentials, seal: Option<SealKey>) -> Self {
        let inner = Inner {
            dir: dir.to_owned(),
            current: ArcSwap::from_pointee(credentials),
            seal: Mutex::new(seal),
            generation: watch::Sender::new(0),
        };
        Self { inner: Arc::new(inner), host: Host::system() }
    }

    fn seal_lock(&self) -> MutexGuard<'_, Option<SealKey>> {
        self.inner.seal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the key on disk is sealed with.
    pub fn seal_key(&self) -> Option<SealKey> {
        *self.seal_lock()
    }

    /// Seals the key on disk, or has it readable again; true if that changed it. A worker's is never sealed: it
    /// has to come back by itself.
    pub fn seal(&self, seal: Option<SealKey>) -> Result<bool, Error> {
        let mut now = self.seal_lock();
        let current = self.current();
        let seal = seal.filter(|_| current.identity().role == Role::Manager);
        if *now == seal {
            return Ok(false);
        }
        current.store(&self.inner.dir, seal.as_ref())?;
        *now = seal;
        Ok(true)
    }

    /// The same identity on another host: a simulated one.
    pub fn on(self, host: Host) -> Self {
        Self { host, ..self }
    }

    /// The host this process runs on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Takes new credentials of the same node and cluster into use, on disk first. Refuses those of a manager that
    /// has yet to learn of roots this node trusts: by them nobody else would know it.
    pub fn replace(&self, credentials: Credentials) -> Result<(), Error> {
        let mut seal = self.seal_lock();
        let (old, new) = (self.current(), credentials.identity().clone());
        if (&new.node_id, &new.cluster_id) != (&old.identity().node_id, &old.identity().cluster_id) {
            return Err(Error::certificate(
                "renewed certificate",
                format!("it is for node {} of cluster {}", new.node_id, new.cluster_id),
            ));
        }
        if credentials.trust().epoch < old.trust().epoch {
            let reason = "the manager that signed it does not know of the swarm's present root yet";
            return Err(Error::certificate("renewed certificate", reason));
        }
        let keep = seal.filter(|_| new.role == Role::Manager);
        credentials.store(&self.inner.dir, keep.as_ref())?;
        *seal = keep;
        self.inner.current.store(Arc::new(credentials));
        drop(seal);
        self.inner.generation.send_modify(|g| *g += 1);
        Ok(())
    }

    /// Trusts the roots a manager tells, on disk first; true if that changed anything. An earlier trust than the
    /// present one is passed over, and one under which nobody would know this node is refused.
    pub fn trust(&self, trust: &Trust) -> Result<bool, Error> {
        let seal = self.seal_lock();
        let current = self.current();
        if trust.roots_pem.is_empty() || trust.epoch < current.trust().epoch || trust == current.trust() {
            return Ok(false);
        }
        let credentials = current.trusting(trust.clone())?;
        credentials.store(&self.inner.dir, seal.as_ref())?;
        self.inner.current.store(Arc::new(credentials));
        drop(seal);
        self.inner.generation.send_modify(|g| *g += 1);
        Ok(true)
    }

    /// Removes the stored identity: the node has left.
    pub fn forget(&self) -> Result<(), Error> {
        Credentials::forget(&self.inner.dir)
    }

    /// What new connections use.
    pub fn current(&self) -> Arc<Credentials> {
        self.inner.current.load_full()
    }

    /// Counts changes of certificate or trust; a receiver wakes at each.
    pub fn renewals(&self) -> watch::Receiver<u64> {
        self.inner.generation.subscribe()
    }

    /// This node.
    pub fn node_id(&self) -> NodeId {
        self.current().identity().node_id.clone()
    }
    /// The role in the present certificate.
    pub fn role(&self) -> Role {
        self.current().identity().role
    }
    /// The cluster this node belongs to.
    pub fn cluster_id(&self) -> ClusterId {
        self.current().identity().cluster_id.clone()
    }
    /// When to renew: `fraction` of the certificate's life after it began (0.5 to 0.8 spreads a swarm).
    pub fn renew_at(&self, fraction: f64) -> SystemTime {
        let (from, to) = self.current().validity();
        from + to.duration_since(from).unwrap_or_default().mul_f64(fraction.clamp(0.0, 1.0))
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Identity").field(self.current().identity()).finish()
    }
}
