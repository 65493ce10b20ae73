//! The engine's handle: opening a data root, and what all operations share.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, SemaphorePermit, broadcast};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::build::BuildCache;
use crate::config::{Container, ContainerState};
use crate::container::{Execs, Record, Table};
use crate::data_root::{DataRoot, make_dir};
use crate::defaults::Defaults;
use crate::error::{Error, blocking};
use crate::events::{Event, Events};
use crate::host::{self, HostInfo};
use crate::image::{Holder, Images};
use crate::log_config::LogConfig;
use crate::metadata::{Kind, Metadata};
use crate::metrics::Metrics;
use crate::network::Networking;
use crate::root_lock::RootLocks;
use crate::runtimes::Runtimes;
use crate::userns::IdMaps;
use crate::volume::Volumes;

/// Longest time a start waits for its turn.
const LONGEST_TURN: Duration = Duration::from_secs(5);

/// What an engine needs to know of its surroundings.
#[derive(Clone)]
pub struct EngineOptions {
    /// State that survives the host's restart.
    pub data_root: PathBuf,
    /// State that does not (a tmpfs, usually).
    pub exec_root: PathBuf,
    /// Short name that tells this daemon's global objects from another's.
    pub instance: String,
    /// Cgroup below which containers get theirs; none = `skep-<instance>`.
    pub cgroup_parent: Option<String>,
    /// The executable whose `shim` subcommand is [`crate::shim_main`].
    pub helper_exe: PathBuf,
    /// The log driver of containers that name none.
    pub default_log: LogConfig,
    /// What containers can be made by.
    pub runtimes: Runtimes,
    /// User namespaces of containers: the IDs they have; none = they are in the host's.
    pub userns: Option<IdMaps>,
    /// What containers have that say nothing of it.
    pub defaults: Defaults,
    /// Microseconds of each period that real-time processes of all containers may run, and that period (cgroups v1); 0 =
    /// not set.
    pub real_time: (i64, i64),
    /// Where specifications of the Container Device Interface lie: what a later one says counts.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// Who makes networks.
    pub networking: Arc<dyn Networking>,
}

/// Cheap handle to the engine of one data root.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    options: EngineOptions,
    _locks: RootLocks,
    cgroup_parent: String,
    root: Arc<DataRoot>,
    metadata: Metadata,
    events: Events,
    metrics: Metrics,
    images: Images,
    build_cache: BuildCache,
    volumes: Volumes,
    table: Table,
    execs: Execs,
    /// What containers can be made by now.
    runtimes: ArcSwap<Runtimes>,
    closing: CancellationToken,
    /// The daemon stops, and its containers with it.
    stops_containers: AtomicBool,
    /// Turns to start: see [`Engine::turn_to_start`].
    starting: Semaphore,
    /// Deletions that nobody waits for but the shutdown.
    cleaning: TaskTracker,
}

impl Engine {
    /// Takes the roots (a second daemon is refused by name) and opens the engine: see [`Engine::open_held`].
    pub async fn open(o: EngineOptions) -> Result<Engine, Error> {
        let locks = RootLocks::take(&o.data_root, &o.exec_root)?;
        Self::open_held(o, locks).await
    }

    /// With both roots held, sweeps what a crash left half-made, and takes up again the containers that run.
    pub async fn open_held(o: EngineOptions, locks: RootLocks) -> Result<Engine, Error> {
        let (engine, records) = blocking(move || Self::open_blocking(o, locks)).await?;
        engine.adopt(records).await?;
        engine.remove_left_by_builds().await;
        engine.follow_ports();
        Ok(engine)
    }

    /// Follows the ports of running containers to other addresses of the host, for as long as the engine is there.
    fn follow_ports(&self) {
        let (networking, engine) = (self.0.options.networking.clone(), Arc::downgrade(&self.0));
        let closing = self.0.closing.clone();
        let follow = async move {
            loop {
                let id = networking.ports_changed().await;
                let Some(inner) = engine.upgrade() else { return };
                Engine(inner).take_up_ports(&id).await;
            }
        };
        tokio::spawn(closing.run_until_cancelled_owned(follow));
    }

    fn open_blocking(options: EngineOptions, locks: RootLocks) -> Result<(Engine, Vec<Record>), Error> {
        let root = Arc::new(DataRoot::open(&options.data_root)?);
        make_dir(&options.exec_root.join("containers"), 0o700)?;
        crate::container::memory_files::sweep(&options.exec_root.join("containers"))?;
        root.sweep(&root.temporary(), "what was half-made", |_| false)?;
        if let Some(trouble) = crate::lsm::apparmor::trouble() {
            tracing::warn!("containers run unconfined by AppArmor: {trouble}");
        }
        if let Some(ids) = &options.userns {
            crate::container::try_id_maps(ids, &root)?;
        }
        let (metadata, stored) = Metadata::open(&root.metadata())?;
        let records: Vec<Record> =
            stored.all::<Record>(Kind::Container).into_iter().map(|(_, r)| r).collect();
        let holders: HashMap<String, Holder> = records
            .iter()
            .map(|r| {
                let held = Holder {
                    image_id: r.container.image_id.clone(),
                    chain_ids: r.chain_ids.clone(),
                    mounted: r.mounted_images(),
                    running: false,
                };
                (r.container.id.0.clone(), held)
            })
            .collect();
        root.sweep(&root.containers(), "a container that was never finished", |n| holders.contains_key(n))?;
        let metrics = Metrics::new().map_err(|e| Error::Invalid(format!("the engine's own metrics: {e}")))?;
        let events = Events::new(metrics.events.clone());
        let images =
            Images::open(root.clone(), metadata.clone(), events.clone(), metrics.clone(), &stored, holders)?;
        let build_cache = BuildCache::open(metadata.clone(), &stored, &images);
        let users = records.iter().map(|r| (r.container.id.0.clone(), r.volumes()));
        let volumes = Volumes::open(
            root.clone(),
            metadata.clone(),
            events.clone(),
            &stored,
            users,
            options.userns.as_ref().map(IdMaps::root),
        )?;
        let cgroup_parent =
            options.cgroup_parent.clone().unwrap_or_else(|| format!("skep-{}", options.instance));
        let runtimes = ArcSwap::from_pointee(options.runtimes.clone());
        let inner = Inner {
            cgroup_parent: cgroup_parent.trim_matches('/').to_owned(),
            options,
            _locks: locks,
            root,
            metadata,
            events,
            metrics,
            images,
            build_cache,
            volumes,
            table: Table::default(),
            execs: Execs::default(),
            runtimes,
            closing: CancellationToken::new(),
            stops_containers: AtomicBool::new(false),
            starting: Semaphore::new(2 * std::thread::available_parallelism().map_or(1, usize::from)),
            cleaning: TaskTracker::new(),
        };
        Ok((Engine(Arc::new(inner)), records))
    }

    /// Stops supervising and writes down what is known. Containers go on; the next `open` takes them up.
    pub async fn shutdown(&self) {
        self.0.closing.cancel();
        self.0.cleaning.close();
        self.0.cleaning.wait().await;
        self.remove_empty_cgroups();
        if let Err(e) = self.0.metadata.flush().await {
            tracing::warn!(error = %e, "the last changes are left to be derived at the next start");
        }
    }

    /// What it counts and times.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// How many listen to its events.
    pub fn listeners(&self) -> usize {
        self.0.events.listeners()
    }

    /// The images.
    pub fn images(&self) -> &Images {
        &self.0.images
    }

    pub(crate) fn build_cache(&self) -> &BuildCache {
        &self.0.build_cache
    }

    /// The volumes.
    pub fn volumes(&self) -> &Volumes {
        &self.0.volumes
    }

    /// A container by ID, name or unique prefix of its ID.
    pub fn inspect(&self, id_or_name_or_prefix: &str) -> Result<Arc<Container>, Error> {
        Ok(self.0.table.find(id_or_name_or_prefix)?.container())
    }

    /// All containers, newest first.
    pub fn list(&self) -> Vec<Arc<Container>> {
        let mut all: Vec<Arc<Container>> = self.0.table.all().iter().map(|s| s.container()).collect();
        all.sort_by_key(|c| std::cmp::Reverse(c.created_at_ns));
        all
    }

    /// Everything that happens from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.0.events.follow().1
    }

    /// The last things that happened, and everything that follows, with neither gap nor overlap.
    pub fn follow_events(&self) -> (Vec<Event>, broadcast::Receiver<Event>) {
        self.0.events.follow()
    }

    /// Tells whoever listens of something that happened outside the engine.
    pub fn tell(&self, kind: &str, action: &str, id: &str, attributes: BTreeMap<String, String>) {
        self.0.events.emit(kind, action, id, attributes);
    }

    /// The same of something that happened in the swarm.
    pub fn tell_swarm(&self, kind: &str, action: &str, id: &str, attributes: BTreeMap<String, String>) {
        self.0.events.send(kind, action, id, attributes, true);
    }

    /// The host and how many of what there are.
    pub fn info(&self) -> HostInfo {
        let all = self.list();
        let count = |wanted: &[ContainerState]| all.iter().filter(|c| wanted.contains(&c.state)).count();
        let running = count(&[ContainerState::Running, ContainerState::Restarting]);
        let paused = count(&[ContainerState::Paused]);
        HostInfo {
            containers: all.len(),
            running,
            paused,
            stopped: all.len() - running - paused,
            images: self.0.images.list().len(),
            ..host::read()
        }
    }

    pub(crate) fn table(&self) -> &Table {
        &self.0.table
    }

    pub(crate) fn execs(&self) -> &Execs {
        &self.0.execs
    }

    pub(crate) fn root(&self) -> &Arc<DataRoot> {
        &self.0.root
    }

    pub(crate) fn metadata(&self) -> &Metadata {
        &self.0.metadata
    }

    pub(crate) fn networking(&self) -> &Arc<dyn Networking> {
        &self.0.options.networking
    }

    pub(crate) fn helper_exe(&self) -> &Path {
        &self.0.options.helper_exe
    }

    /// The log driver of containers that name none.
    pub fn default_log(&self) -> &LogConfig {
        &self.0.options.default_log
    }

    /// The IDs of containers with a user namespace of their own, which those have that do not ask for the host's.
    pub fn userns(&self) -> Option<&IdMaps> {
        self.0.options.userns.as_ref()
    }

    /// What containers have that say nothing of it.
    pub fn defaults(&self) -> &Defaults {
        &self.0.options.defaults
    }

    /// Microseconds that real-time processes of all containers may run, and of which period; 0 = not set.
    pub(crate) fn real_time(&self) -> (i64, i64) {
        self.0.options.real_time
    }

    /// Where specifications of devices lie.
    pub fn cdi_spec_dirs(&self) -> &[PathBuf] {
        &self.0.options.cdi_spec_dirs
    }

    /// What containers can be made by.
    pub fn runtimes(&self) -> Arc<Runtimes> {
        self.0.runtimes.load_full()
    }

    /// From now on containers can be made by these. Those there are that another one made cannot be started without it.
    pub fn use_runtimes(&self, runtimes: Runtimes) {
        self.0.runtimes.store(Arc::new(runtimes));
    }

    pub(crate) fn cgroup_parent(&self) -> &str {
        &self.0.cgroup_parent
    }

    /// Waits until not too many containers are being started at once: a hundred starts at once only make
    /// each other wait for the kernel's locks. A start that hangs must not stop the others, so the wait
    /// is bounded, and who has waited long enough goes without a turn.
    pub(crate) async fn turn_to_start(&self) -> Option<SemaphorePermit<'_>> {
        tokio::time::timeout(LONGEST_TURN, self.0.starting.acquire()).await.ok()?.ok()
    }

    /// Whether containers end with the daemon, which stops: none is started any more.
    pub(crate) fn stops_containers(&self) -> bool {
        self.0.stops_containers.load(Ordering::SeqCst)
    }

    /// The daemon stops, and its containers with it.
    pub(crate) fn refuse_starts(&self) {
        self.0.stops_containers.store(true, Ordering::SeqCst);
    }

    pub(crate) fn closing(&self) -> &CancellationToken {
        &self.0.closing
    }

    pub(crate) fn cleaning(&self) -> &TaskTracker {
        &self.0.cleaning
    }

    /// The parent of all containers' cgroups, where it has none below it (rmdir refuses otherwise).
    fn remove_empty_cgroups(&self) {
        let root = Path::new("/sys/fs/cgroup");
        let hierarchies = std::fs::read_dir(root).into_iter().flatten().flatten().map(|e| e.path());
        for hierarchy in hierarchies.chain([root.to_path_buf()]) {
            let parent = hierarchy.join(&self.0.cgroup_parent);
            if let Ok(()) = std::fs::remove_dir(&parent) {
                tracing::debug!(cgroup = %parent.display(), "removed the empty parent of all containers");
            }
        }
    }

    pub(crate) fn event_sender(&self) -> &Events {
        &self.0.events
    }

    /// A container's bundle directory, shared with its shim.
    pub(crate) fn bundle(&self, id: &str) -> PathBuf {
        self.0.options.exec_root.join("containers").join(id)
    }
}
