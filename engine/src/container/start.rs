//! Starting a container: network, host files, shim, process.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use skep_registry::system_words::in_gos_words;

use super::files::{Layout, hostname};
use super::links;
use super::memory_files::Placed;
use super::resolve::host_lines;
use super::slot::Slot;
use super::wait::Exit;
use crate::config::{Container, ContainerState, NetworkMode};
use crate::data_root::{make_dir, remove_tree};
use crate::engine::Engine;
use crate::error::{Error, blocking};
use crate::events::now_ns;
use crate::log_config::LogSubject;
use crate::lsm::Confined;
use crate::mount::MountConfig;
use crate::network::{Attachment, Userns};
use crate::runtime::cgroup::real_time;
use crate::shim::Shim;
use crate::shim::spec::{HostFiles, LogTold, Namespace, NetworkNamespace, Rootfs, ShimSpec, Shm};

/// Where the network comes from.
#[derive(Default)]
struct Wired {
    namespace: NetworkNamespace,
    attachment: Option<Attachment>,
    /// Directory of the container whose namespace is shared.
    peer: Option<PathBuf>,
    pid: Namespace,
    ipc: Namespace,
    shm: Shm,
}

impl Engine {
    /// Starts a container; [`Error::AlreadyStarted`] when it runs or, as with Docker, waits for its restart.
    pub async fn start(&self, id_or_name: &str) -> Result<(), Error> {
        let slot = self.table().find(id_or_name)?;
        let engine = self.clone();
        // A task of its own: a client that leaves half-way must not leave a container that nobody watches.
        let started = tokio::spawn(async move {
            let _op = slot.op.lock().await;
            if slot.container().state == ContainerState::Restarting {
                return Err(Error::AlreadyStarted { id: slot.id.clone() });
            }
            engine.start_locked(&slot, Duration::ZERO, 0).await
        });
        started.await.map_err(|_| Error::ShuttingDown)?
    }

    /// The caller holds `op`. `last_delay` and `restarts` are those of the restart policy.
    pub(super) async fn start_locked(
        &self,
        slot: &Arc<Slot>,
        last_delay: Duration,
        restarts: u32,
    ) -> Result<(), Error> {
        if self.stops_containers() {
            return Err(Error::ShuttingDown);
        }
        match slot.container().state {
            ContainerState::Running => return Err(Error::AlreadyStarted { id: slot.id.clone() }),
            ContainerState::Paused => {
                return Err(Error::Conflict("cannot start a paused container, try unpause instead".into()));
            }
            ContainerState::Removing | ContainerState::Dead => {
                return Err(Error::Conflict("container is marked for removal and cannot be started".into()));
            }
            _ => {}
        }
        {
            let mut volatile = slot.volatile();
            volatile.stopped_by_user = false;
            // From here on an end is that of the new run.
            volatile.restarting = false;
            volatile.ended_with_daemon = false;
        }
        let before = slot.container();
        // What a power cut must not undo: that the policy has something to start, and that there was a start at all. A
        // start by the policy changes nothing of that, and what is `--rm` would be gone: neither waits for the disk.
        let lasts = !before.config.auto_remove && before.state != ContainerState::Restarting;
        let ids = self.next_ids(&slot.container().config);
        let timer = self.metrics().container.start.start_timer();
        match self.launch(slot).await {
            Ok((shim, pid)) => {
                slot.volatile().shim = Some(shim.clone());
                slot.update(|c| {
                    c.state = ContainerState::Running;
                    c.pid = Some(pid);
                    c.exit_code = None;
                    c.oom_killed = false;
                    c.error.clear();
                    c.started_at_ns = now_ns();
                    c.id_maps.clone_from(&ids);
                    c.restart_count = restarts;
                });
                self.reset_health(slot);
                slot.life.send_modify(|l| l.running = true);
                self.images().set_running(&slot.id, true);
                match lasts {
                    true => self.store_now(slot).await,
                    false => self.store_later(slot),
                }
                self.emit_networks(slot, "connect", &slot.container().endpoints);
                self.emit(slot, "start", &[]);
                let started = slot.container();
                if started.endpoints.iter().any(|e| links::leads_through(&e.network)) {
                    self.tell_linked(&started).await;
                }
                self.watch_health(slot);
                self.supervise(slot.clone(), shim, last_delay, restarts);
                timer.observe_duration();
                Ok(())
            }
            Err(e) => {
                timer.stop_and_discard();
                self.start_failed(slot, &e).await;
                Err(e)
            }
        }
    }

    async fn start_failed(&self, slot: &Arc<Slot>, e: &Error) {
        let code = match e {
            Error::StartFailed { code, .. } => *code,
            _ => 128,
        };
        let message = in_gos_words(&e.to_string());
        if let Err(e) = self.unwire(slot).await {
            tracing::warn!(error = %e, container = slot.id, "the network of a container that did not start is left");
        }
        self.unmount_volumes(&slot.container(), &slot.id).await;
        slot.volatile().pending.clear();
        self.images().set_running(&slot.id, false);
        slot.update(|c| {
            c.exit_code = Some(code);
            c.error.clone_from(&message);
            c.pid = None;
            if c.state != ContainerState::Created {
                c.state = ContainerState::Exited;
            }
        });
        self.store_later(slot);
        slot.life.send_modify(|l| {
            l.running = false;
            l.exits += 1;
            l.exit = Exit { code, error: message.clone() };
        });
        if slot.container().config.auto_remove {
            let (engine, id) = (self.clone(), slot.id.clone());
            tokio::spawn(async move {
                if let Err(e) = engine.remove(&id, true).await {
                    tracing::warn!(error = %e, container = id, "a container that did not start could not be removed");
                }
            });
        }
    }

    /// The container as this start makes it: with what the daemon gives those that say nothing of it.
    fn as_started(&self, slot: &Slot) -> Container {
        let mut c = Container::clone(&slot.container());
        self.defaults().at_start(&mut c.config);
        c
    }

    async fn launch(&self, slot: &Arc<Slot>) -> Result<(Arc<Shim>, u32), Error> {
        let c = self.as_started(slot);
        let _turn = self.turn_to_start().await;
        let mounts = self.mount_volumes(&c, &slot.id).await?;
        let confined = self.confine(slot, &mounts).await?;
        let (pid, (ipc, shm)) = (self.pid_namespace(&c)?, self.ipc_namespace(&c)?);
        let wired = Wired { pid, ipc, shm, ..self.wire(slot, &c).await? };
        // With the names that came with the network.
        let c = self.as_started(slot);
        let bundle = self.bundle(&slot.id);
        let contents = slot.volatile().contents.take();
        let variables = std::mem::take(&mut slot.volatile().variables);
        let real_time = self.real_time();
        let (spec, files) = {
            let (engine, slot, bundle) = (self.clone(), slot.clone(), bundle.clone());
            blocking(move || {
                // What the last run left: its exit is recorded by now.
                remove_tree(&bundle)?;
                make_dir(&bundle, 0o700)?;
                if real_time != (0, 0) && c.config.resources.is_real_time() {
                    share_real_time(&engine.cgroup_path(&c), real_time)?;
                }
                let files = Placed::new(
                    &bundle,
                    &c.config.files,
                    contents.as_deref(),
                    &variables,
                    engine.next_ids(&c.config).as_ref(),
                )?;
                let mut mounts = mounts;
                if let Some(files) = &files {
                    mounts.extend(files.mounts.iter().cloned());
                    mounts.sort_by_key(|m| m.target.components().count());
                }
                Ok((engine.spec(&slot, &c, wired, mounts, confined)?, files))
            })
            .await?
        };
        // The container has them, or there is none.
        let _until_made = files;
        let failed = |e: crate::shim::ShimError| Error::StartFailed {
            id: slot.id.clone(),
            code: e.exit_code(),
            reason: e.to_string(),
        };
        // Nobody attaches meanwhile: that takes `op`.
        let pending = std::mem::take(&mut slot.volatile().pending);
        if pending.is_empty() {
            let shim = Shim::run(self.helper_exe(), &bundle, &spec).await.map_err(failed)?;
            let pid = shim.pid();
            return Ok((Arc::new(shim), pid));
        }
        let shim = Arc::new(Shim::launch(self.helper_exe(), &bundle, &spec).await.map_err(failed)?);
        for p in pending {
            p.connect(&shim, &slot.id).await;
        }
        let pid = shim.start().await.map_err(failed)?;
        Ok((shim, pid))
    }

    async fn wire(&self, slot: &Arc<Slot>, c: &Container) -> Result<Wired, Error> {
        match &c.config.network {
            NetworkMode::None => Ok(Wired::default()),
            NetworkMode::Host => Ok(Wired { namespace: NetworkNamespace::Host, ..Wired::default() }),
            NetworkMode::Container(other) => {
                // Not checked when it was made, as with Docker: the other one may be made later.
                let peer = self
                    .table()
                    .find(other)
                    .map_err(|e| Error::Missing(format!("joining network namespace of container: {e}")))?;
                if peer.id == slot.id {
                    return Err(Error::Missing("cannot join own network namespace".into()));
                }
                let of = peer.container();
                let pid = of.pid.ok_or_else(|| {
                    Error::Conflict(format!(
                        "cannot join network namespace of a non running container: container {} is {}",
                        of.name,
                        of.state.word()
                    ))
                })?;
                // Its names are this one's from now on, also for `inspect`, as with Docker.
                slot.update(|c| {
                    c.config.hostname = Some(hostname(&of));
                    c.config.domainname.clone_from(&of.config.domainname);
                });
                Ok(Wired {
                    namespace: NetworkNamespace::Path(format!("/proc/{pid}/ns/net").into()),
                    peer: Some(self.named_in(&of)),
                    ..Wired::default()
                })
            }
            NetworkMode::Networks(_) => {
                slot.volatile().detach_network = true;
                let _timer = self.metrics().network.allocate.start_timer();
                let userns =
                    self.next_ids(&c.config).map(|ids| Userns { ids, shared: self.shared_userns(c) });
                let networks = self.networking();
                let attached =
                    networks.attach(&c.id, &c.name, &c.config, userns.as_ref(), self.linked(c)).await;
                let a = attached.map_err(|source| Error::Network { id: slot.id.clone(), source })?;
                slot.update(|c| {
                    c.endpoints.clone_from(&a.endpoints);
                    c.ports.clone_from(&a.ports);
                    c.netns.clone_from(&a.netns);
                });
                Ok(Wired {
                    namespace: NetworkNamespace::Path(a.netns.clone()),
                    attachment: Some(a),
                    ..Wired::default()
                })
            }
        }
    }

    /// Takes the network away again. The caller holds `op`.
    pub(super) async fn unwire(&self, slot: &Slot) -> Result<(), Error> {
        if !std::mem::take(&mut slot.volatile().detach_network) {
            return Ok(());
        }
        let c = slot.update(|c| {
            c.endpoints.clear();
            c.ports.clear();
            c.netns = PathBuf::new();
        });
        let _timer = self.metrics().network.release.start_timer();
        self.networking().detach(&c.id).await.map_err(|source| Error::Network { id: slot.id.clone(), source })
    }

    /// The container's root file system, and the files of the host over it as its last start wrote them.
    pub(super) fn rootfs(&self, slot: &Slot) -> (Rootfs, HostFiles) {
        let layout = Layout { dir: self.root().container(&slot.id) };
        let lowers: Vec<PathBuf> =
            slot.chain_ids.iter().rev().map(|id| self.images().layer_path(id)).collect();
        let rootfs = if lowers.is_empty() {
            Rootfs::Directory(layout.upper())
        } else {
            let volatile = slot.container().config.of_build;
            Rootfs::Overlay { lowers, upper: layout.upper(), work: layout.work(), volatile }
        };
        (rootfs, self.host_files(&slot.container()))
    }

    /// The files of the host that a container has over its own, as a start wrote them; none before the first.
    pub fn host_files(&self, c: &Container) -> HostFiles {
        HostFiles::there(&self.named_in(c))
    }

    /// The directory that holds a container's host files: that of the one whose network namespace it is in.
    fn named_in(&self, c: &Container) -> PathBuf {
        let mut id = c.id.0.clone();
        let mut network = c.config.network.clone();
        // Two that name each other never started; nobody has chains as long.
        for _ in 0..64 {
            let NetworkMode::Container(other) = &network else { break };
            let Ok(other) = self.table().find(other) else { break };
            id.clone_from(&other.id);
            network = other.container().config.network.clone();
        }
        self.root().container(&id)
    }

    fn spec(
        &self,
        slot: &Slot,
        c: &Container,
        wired: Wired,
        mounts: Vec<MountConfig>,
        confined: Confined,
    ) -> Result<ShimSpec, Error> {
        let layout = Layout { dir: self.root().container(&slot.id) };
        let rootfs = self.rootfs(slot).0;
        let links = self.links(c)?;
        let g = &c.config;
        let mut lines = host_lines(&g.extra_hosts, || self.networking().host_gateway())?;
        lines.extend(links.hosts);
        // Of before there was a choice.
        let external = match &g.runtime {
            Some(name) => self.runtimes().find(name)?.cloned(),
            None => None,
        };
        let id_maps = self.next_ids(g);
        let relays = wired.attachment.as_ref().map(|a| a.relays.clone()).unwrap_or_default();
        let devices = self.resolve_devices(&g.device_requests)?;
        let mut spec = ShimSpec {
            id: slot.id.clone(),
            rootfs,
            read_only: g.read_only,
            argv: slot.plan.argv.clone(),
            env: with(&slot.plan.env, links.env),
            cwd: slot.plan.cwd.clone(),
            user: slot.plan.user.clone(),
            groups: g.groups.clone(),
            hostname: hostname(c),
            domainname: g.domainname.clone().unwrap_or_default(),
            mounts,
            host_files: layout.write_host_files(
                c,
                wired.attachment.as_ref(),
                wired.peer.as_deref(),
                &lines,
                id_maps.as_ref(),
            )?,
            id_maps,
            shm_size: g.shm_size.unwrap_or(0),
            network: wired.namespace,
            relays,
            cap_add: g.cap_add.clone(),
            cap_drop: g.cap_drop.clone(),
            privileged: g.privileged,
            no_new_privileges: g.no_new_privileges.unwrap_or_default(),
            confined,
            seccomp: g.seccomp.clone(),
            cgroup: self.cgroup_path(c),
            pid: wired.pid,
            ipc: wired.ipc,
            shm: wired.shm,
            uts: if g.host_uts { Namespace::Host } else { Namespace::New },
            cgroupns: if g.host_cgroupns == Some(true) { Namespace::Host } else { Namespace::New },
            devices: g.devices.clone(),
            device_rules: g.device_rules.clone(),
            masked_paths: g.masked_paths.clone(),
            readonly_paths: g.readonly_paths.clone(),
            resources: g.resources.clone(),
            ulimits: g.ulimits.clone(),
            sysctls: g.sysctls.clone(),
            oom_score_adj: g.oom_score_adj,
            init_exe: external.as_ref().map(|_| self.helper_exe().to_owned()),
            external,
            init: g.init.unwrap_or_default(),
            annotations: g.annotations.clone(),
            tty: g.tty,
            open_stdin: g.open_stdin,
            stdin_once: g.stdin_once,
            log: g.log.clone(),
            log_path: c.log_path.clone(),
            log_subject: told(c, &slot.plan.argv)?,
            ..ShimSpec::default()
        };
        devices.apply(&mut spec);
        self.defaults().with_init(&mut spec);
        Ok(spec)
    }
}

/// Has the groups above a container's own have what it is to be given some of.
fn share_real_time(path: &str, (runtime, period): (i64, i64)) -> Result<(), Error> {
    let above = path.rsplit_once('/').map_or("", |(above, _)| above);
    real_time::share(above, period, runtime).map_err(|e| Error::Missing(e.to_string()))
}

/// What log messages say of a container: its name and labels as they are now.
fn told(c: &Container, argv: &[String]) -> Result<LogTold, Error> {
    let of = LogSubject {
        id: c.id.0.clone(),
        name: c.name.clone(),
        image_id: c.image_id.clone(),
        image_name: c.config.image.clone(),
        argv: argv.to_vec(),
        labels: c.config.labels.clone(),
        env: c.env.clone(),
    };
    let failed = |e| Error::Invalid(format!("failed to initialize logging driver: {e}"));
    Ok(LogTold {
        tag: c.config.log.tag(&of).map_err(failed)?,
        attributes: c.config.log.attributes(&of).map_err(failed)?,
        name: of.name,
        image: of.image_name,
    })
}

/// The container's own variables, and of the others those it has not.
pub(super) fn with(own: &[String], others: Vec<String>) -> Vec<String> {
    let name = |v: &str| v.split('=').next().unwrap_or_default().to_owned();
    let others: Vec<String> = others.into_iter().filter(|o| own.iter().all(|v| name(v) != name(o))).collect();
    own.iter().cloned().chain(others).collect()
}
