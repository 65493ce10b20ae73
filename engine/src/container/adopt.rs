//! Taking up again, at start, what a previous daemon left: running containers, exits that nobody saw,
//! half-done removals, and containers whose policy starts them with the daemon.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::restart::at_daemon_start;
use super::slot::{Record, Slot};
use super::supervise::UNSEEN;
use crate::config::{Container, ContainerState, NetworkMode};
use crate::data_root::remove_tree;
use crate::engine::Engine;
use crate::error::{Error, blocking};
use crate::events::now_ns;
use crate::metadata::{Change, Kind};
use crate::shim::spec::{EXIT_FILE, PID_FILE, SPEC_FILE, ShimSpec};
use crate::shim::{self, Shim};

/// A shim has little to do; one that says nothing for this long never will, and must not keep all others waiting.
const SHIM_PATIENCE: Duration = Duration::from_secs(60);

impl Engine {
    pub(crate) async fn adopt(&self, records: Vec<Record>) -> Result<(), Error> {
        let known: std::collections::HashSet<String> =
            records.iter().map(|r| r.container.id.0.clone()).collect();
        let (mut starts, mut ended) = (Vec::new(), Vec::new());
        for record in records {
            let id = record.container.id.0.clone();
            let gone = !self.root().container(&id).is_dir();
            if gone || record.container.state == ContainerState::Removing {
                self.finish_removal(record).await?;
                continue;
            }
            let was_running = was_running(&record.container) || record.ended_with_daemon;
            let slot = Arc::new(Slot::new(record));
            self.table().insert(slot.clone());
            let run = self.find_run(&slot).await;
            ended.extend(self.take_up(&slot, run).await);
            let c = slot.container();
            let idle =
                matches!(c.state, ContainerState::Created | ContainerState::Exited) && c.started_at_ns > 0;
            let stopped = slot.volatile().stopped_by_user;
            if idle && at_daemon_start(&c.config.restart, was_running, stopped, c.exit_code.unwrap_or(0)) {
                starts.push(slot);
            }
        }
        self.volumes().unmount_idle().await;
        self.sweep_bundles(known).await?;
        // Before any of those that ended is started: what it is given then stays. One that was taken up above may have ended and
        // be on its way up again by now, without a process: its network is its own supervisor's business.
        let unseen: std::collections::HashSet<&str> = ended.iter().map(|u| u.slot.id.as_str()).collect();
        let all = self.list();
        let goes_on = |c: &&Arc<Container>| was_running(c) && !unseen.contains(c.id.as_str());
        let running: Vec<_> = all.iter().filter(goes_on).map(|c| c.id.clone()).collect();
        let retained = self.networking().retain(&running).await;
        retained.map_err(|source| Error::LeftNetworks { source })?;
        // Whose end no daemon saw, or whose removal none came to: of a host that was restarted, as with Docker.
        for c in all.iter().filter(|c| c.config.auto_remove && c.state == ContainerState::Exited) {
            let (engine, id) = (self.clone(), c.id.0.clone());
            if !unseen.contains(c.id.as_str()) {
                tokio::spawn(async move { engine.remove_itself(&id).await });
            }
        }
        // Only now that all are known: one may need another.
        for Unwatched { slot, exit, error } in ended {
            let engine = self.clone();
            tokio::spawn(async move { engine.ended(&slot, exit, error, Duration::ZERO, 0).await });
        }
        for slot in &starts {
            slot.update(|c| c.state = ContainerState::Restarting);
            slot.life.send_modify(|l| l.running = true);
            self.images().set_running(&slot.id, true);
        }
        for slot in starts {
            let engine = self.clone();
            tokio::spawn(async move { engine.restart(&slot, Duration::ZERO, 0).await });
        }
        Ok(())
    }

    async fn finish_removal(&self, record: Record) -> Result<(), Error> {
        let id = record.container.id.0.clone();
        tracing::info!(container = id, "finished the removal that was under way");
        let (dir, bundle) = (self.root().container(&id), self.bundle(&id));
        blocking(move || {
            remove_tree(&dir)?;
            remove_tree(&bundle)
        })
        .await?;
        self.metadata().commit(vec![Change::delete(Kind::Container, &id)]).await?;
        let config = &record.container.config;
        self.let_volumes_go(&id, &config.mounts, config.auto_remove).await?;
        self.images().release(&id).await
    }

    /// What the last run left in its bundle.
    async fn find_run(&self, slot: &Slot) -> Run {
        let bundle = self.bundle(&slot.id);
        let look = {
            let bundle = bundle.clone();
            blocking(move || Ok((read_exit(&bundle), started_at(&bundle), bundle.is_dir()))).await
        };
        let (found, started_at_ns, there) = look.unwrap_or((None, None, false));
        if let Some(exit) = found {
            return Run::Ended { exit, started_at_ns };
        }
        if !there {
            return Run::None;
        }
        let lost = match Shim::connect(&bundle).await {
            Ok(Some(shim)) => match tokio::time::timeout(SHIM_PATIENCE, shim.state()).await {
                Ok(Ok(s)) if s.started => {
                    return Run::Going { shim: Arc::new(shim), pid: s.pid, started_at_ns };
                }
                Ok(Ok(_)) => "the daemon ended before the start was done".to_owned(),
                // It ended between the two looks.
                Ok(Err(e)) => match shim.wait().await {
                    Ok(exit) => return Run::Ended { exit, started_at_ns },
                    Err(_) => e.to_string(),
                },
                Err(_) => format!("its shim does not answer for {} s", SHIM_PATIENCE.as_secs()),
            },
            Ok(None) => "its shim is gone without an exit status".to_owned(),
            Err(e) => e.to_string(),
        };
        if let Err(e) = Shim::sweep(&bundle).await {
            tracing::warn!(container = slot.id, error = %e, "what a lost shim left could not be swept");
        }
        Run::Lost(lost)
    }

    /// Returns an end that is yet to have its consequences.
    async fn take_up(&self, slot: &Arc<Slot>, run: Run) -> Option<Unwatched> {
        let c = slot.container();
        let networked = matches!(c.config.network, NetworkMode::Networks(_));
        let began = |started_at_ns: Option<i64>| {
            slot.update(|c| {
                if c.started_at_ns == 0 {
                    c.started_at_ns = started_at_ns.unwrap_or(c.created_at_ns);
                }
            });
        };
        match run {
            Run::Going { shim, pid, started_at_ns } => {
                began(started_at_ns);
                let frozen = self.cgroup(slot).is_ok_and(|g| g.is_frozen());
                let ids = specified(&self.bundle(&slot.id));
                slot.update(|c| {
                    c.id_maps.clone_from(&ids);
                    c.state = if frozen { ContainerState::Paused } else { ContainerState::Running };
                    c.pid = Some(pid);
                });
                {
                    let mut v = slot.volatile();
                    v.shim = Some(shim.clone());
                    v.detach_network = networked;
                }
                // The daemon may have been killed before it had written down what its start came to.
                if networked
                    && c.endpoints.is_empty()
                    && let Some(a) = self.networking().attached(&c.id).await
                {
                    slot.update(|c| {
                        c.endpoints.clone_from(&a.endpoints);
                        c.ports.clone_from(&a.ports);
                        c.netns.clone_from(&a.netns);
                    });
                    self.store_later(slot);
                }
                slot.life.send_modify(|l| l.running = true);
                self.images().set_running(&slot.id, true);
                for name in c.config.mounts.iter().filter_map(crate::mount::MountConfig::volume) {
                    self.volumes().adopt(name, &slot.id).await;
                }
                tracing::info!(container = slot.id, pid, "took up a running container");
                self.adopt_execs(slot, &shim).await;
                self.watch_health(slot);
                self.supervise(slot.clone(), shim, Duration::ZERO, c.restart_count);
            }
            // The end that is recorded already.
            Run::Ended { exit, .. } if c.finished_at_ns == exit.finished_at_ns && !was_running(&c) => {}
            Run::Ended { exit, started_at_ns } => {
                began(started_at_ns);
                slot.volatile().detach_network = networked;
                tracing::info!(
                    container = slot.id,
                    code = exit.code,
                    "a container ended while no daemon ran"
                );
                return Some(ended_unwatched(slot, exit, String::new()));
            }
            Run::Lost(why) => {
                slot.volatile().detach_network = networked;
                let exit = shim::Exit { code: UNSEEN, oom_killed: false, finished_at_ns: now_ns() };
                if was_running(&c) {
                    return Some(ended_unwatched(slot, exit, why));
                }
            }
            Run::None if was_running(&c) => {
                slot.volatile().detach_network = networked;
                let exit = shim::Exit { code: UNSEEN, oom_killed: false, finished_at_ns: now_ns() };
                slot.update(|c| {
                    c.state = ContainerState::Exited;
                    c.pid = None;
                    c.exit_code = Some(exit.code);
                    c.finished_at_ns = exit.finished_at_ns;
                    c.error = "the host was restarted under it".into();
                });
                self.store_later(slot);
            }
            Run::None => {}
        }
        None
    }

    /// Bundles of containers that are no more.
    async fn sweep_bundles(&self, known: std::collections::HashSet<String>) -> Result<(), Error> {
        let (root, dir) = (self.root().clone(), self.bundle("").components().collect::<std::path::PathBuf>());
        blocking(move || {
            root.sweep(&dir, "the bundle of a container that is no more", |n| known.contains(n)).map(drop)
        })
        .await
    }
}

enum Run {
    None,
    Going { shim: Arc<Shim>, pid: u32, started_at_ns: Option<i64> },
    Ended { exit: shim::Exit, started_at_ns: Option<i64> },
    Lost(String),
}

/// The end of a run that no daemon saw.
struct Unwatched {
    slot: Arc<Slot>,
    exit: shim::Exit,
    error: String,
}

/// The rest of an exit (events, network, restart policy) goes its usual way, beside the opening.
fn ended_unwatched(slot: &Arc<Slot>, exit: shim::Exit, error: String) -> Unwatched {
    slot.update(|c| {
        c.state = ContainerState::Running;
        c.pid = None;
    });
    slot.life.send_modify(|l| l.running = true);
    Unwatched { slot: slot.clone(), exit, error }
}

fn was_running(c: &Container) -> bool {
    matches!(c.state, ContainerState::Running | ContainerState::Paused | ContainerState::Restarting)
}

/// The IDs that a container which runs was started with.
fn specified(bundle: &Path) -> Option<crate::userns::IdMaps> {
    let json = std::fs::read(bundle.join(SPEC_FILE)).ok()?;
    serde_json::from_slice::<ShimSpec>(&json).ok()?.id_maps
}

fn read_exit(bundle: &Path) -> Option<shim::Exit> {
    serde_json::from_slice(&std::fs::read(bundle.join(EXIT_FILE)).ok()?).ok()
}

fn started_at(bundle: &Path) -> Option<i64> {
    let at = std::fs::metadata(bundle.join(PID_FILE)).ok()?.modified().ok()?;
    i64::try_from(at.duration_since(std::time::UNIX_EPOCH).ok()?.as_nanos()).ok()
}
