//! The handle: what callers ask is written into the state first, then into the kernel, and the whole is
//! compared every half minute.

mod attach;
mod busy;
mod check;
mod configs;
mod connect;
mod doors;
mod figures;
mod names;
mod networks;
mod own;
mod own_ports;
mod reaper;
mod relink;
mod solo;
mod swarm;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::socket::SockProtocol;
use tokio::sync::watch;

pub use check::Report;
pub use figures::Figures;

use crate::bridge::Ports;
use crate::error::{Error, Result};
use crate::model::DataPlaneOptions;
use crate::names::Names;
use crate::netlink::Socket;
use crate::nft::{Family, Gate};
use crate::state::{State, Store};
use crate::vip::SwarmMaps;
use crate::{isolation, nft, reconcile, sysctl, wireguard};

/// Time between comparisons of the whole with the kernel.
const PERIOD: Duration = Duration::from_secs(30);
/// Owner of the ports that the swarm publishes on every node.
const INGRESS: &str = "ingress";

/// The data plane of this host. Cheap to clone.
#[derive(Clone)]
pub struct DataPlane {
    inner: Arc<Inner>,
}

struct Inner {
    options: DataPlaneOptions,
    names: Names,
    store: Store,
    pins: PathBuf,
    public_key: String,
    state: Mutex<State>,
    ports: Mutex<Ports>,
    /// One nftables transaction at a time; whoever waited finds its change made by the one before.
    rules: Arc<tokio::sync::Mutex<Rules>>,
    /// One change of bridges or of the swarm's state at a time.
    changing: tokio::sync::Mutex<()>,
    tunnel: tokio::sync::Mutex<Option<wireguard::Device>>,
    /// Held shared while a container is connected, disconnected or changed, until its rules are written; whole by a check. Nobody
    /// takes `changing` with it held.
    moving: tokio::sync::RwLock<()>,
    busy: busy::Busy,
    reaper: reaper::Reaper,
    dns: names::NameServers,
    figures: figures::Counters,
    heard: own_ports::Heard,
    /// Addresses of this host.
    addresses: watch::Sender<BTreeSet<IpAddr>>,
    stop: tokio_util::sync::CancellationToken,
}

/// The nftables socket and what was written through it last.
struct Rules {
    socket: Socket,
    /// None = not known.
    written: Option<Tables>,
    /// The change of the state that was written last, whatever became of it since.
    generation: u64,
    maps: Option<SwarmMaps>,
}

/// Our table of each family, of [`Family::ALL`]; none = there is none.
type Tables = [Option<nft::Table>; 2];

impl Rules {
    /// The tables wanted now. That of IPv6 is there also where no network has it: it keeps containers from sending any.
    fn wanted(&mut self, state: &State, names: &Names) -> Tables {
        let fresh = self.maps.take().filter(|m| m.generation == state.swarm_generation);
        let maps = fresh.unwrap_or_else(|| {
            let mut maps = SwarmMaps::new(state, state.mesh(names));
            if !state.has_timeouts {
                maps.without_timeouts();
            }
            maps
        });
        let maps = self.maps.insert(maps);
        let v4 = isolation::table(state, names, maps);
        [Some(v4), sysctl::knows_ipv6().then(|| isolation::table6(state, names, maps))]
    }

    /// Whether this kernel has timeouts of single connections.
    fn have_timeouts(&mut self, names: &Names) -> bool {
        match nft::probe_timeouts(&mut self.socket, &format!("{}_probe", names.table())) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(
                    %error,
                    "this kernel has no timeouts of single connections (CONFIG_NF_CONNTRACK_TIMEOUT, module nft_ct): services \
                     have no idle timeouts of their own here"
                );
                false
            }
        }
    }

    /// The tables as the kernel holds them.
    fn held(&mut self, names: &Names) -> Result<Tables, nft::Error> {
        let table = names.table();
        let v4 = nft::read(&mut self.socket, Family::V4, &table)?;
        let v6 = if sysctl::knows_ipv6() { nft::read(&mut self.socket, Family::V6, &table)? } else { None };
        Ok([v4, v6])
    }

    /// Whether other firewalls let our traffic pass.
    fn admitted(&mut self, state: &State, names: &Names) -> Result<bool, nft::Error> {
        let mut all = true;
        for (family, gate) in gates() {
            all &= nft::admitted(
                &mut self.socket,
                family,
                gate,
                &isolation::passage(family, gate, state, names),
            )?;
        }
        Ok(all)
    }

    /// Takes rules out of other firewalls.
    fn withdraw(&mut self, rules: &[nft::Rule]) -> Result<(), nft::Error> {
        gates().try_for_each(|(family, gate)| nft::withdraw(&mut self.socket, family, gate, rules))
    }
}

fn families() -> impl Iterator<Item = Family> {
    Family::ALL.into_iter().filter(|f| *f == Family::V4 || sysctl::knows_ipv6())
}

fn gates() -> impl Iterator<Item = (Family, Gate)> {
    families().flat_map(|family| Gate::ALL.map(|gate| (family, gate)))
}

impl DataPlane {
    /// Takes up what a previous daemon left, makes the default bridge network, brings the kernel into
    /// line and keeps it there.
    pub async fn start(options: DataPlaneOptions) -> Result<Self> {
        let plane = blocking("starting the data plane", move || Self::open(options)).await?;
        let inner = plane.inner.clone();
        blocking("settling the default bridge network", move || inner.settle_default()).await?;
        plane.resume_swarm().await;
        plane.inner.reconcile().await?;
        plane.inner.refresh_upstreams().await;
        let adopted: Vec<_> = plane.inner.state().containers.values().cloned().collect();
        for record in adopted {
            if let Err(error) = plane.inner.serve_names(&record).await {
                tracing::warn!(container = record.name, %error, "container has no DNS");
            }
        }
        tokio::spawn(plane.inner.clone().follow_addresses());
        let inner = plane.inner.clone();
        tokio::spawn(async move { inner.keep().await });
        Ok(plane)
    }

    fn open(options: DataPlaneOptions) -> Result<Self> {
        let store = Store::open(&options.data_root)?;
        let pins = options.exec_root.join("netns");
        std::fs::create_dir_all(&pins).map_err(Error::file("create", &pins))?;
        let names = Names::new(&options.instance);
        let mut state = store.load()?;
        // A namespace that is gone (reboot) took its container's connection with it.
        let gone = |id: &String| !crate::netns::is_pinned(&pins.join(id));
        for id in state.containers.keys().filter(|id| gone(id)).cloned().collect::<Vec<_>>() {
            state.containers.remove(&id);
            store.forget_container(&id)?;
        }
        let mut ports = Ports::default();
        for record in state.containers.values() {
            for error in ports.retake(&record.container_id, &record.ports, record.relayed) {
                tracing::warn!(container = record.name, %error, "port taken while the daemon was away");
            }
        }
        let (_, public_key) = wireguard::load_or_create_key(&store.key())
            .map_err(|e| Error::WireGuard { interface: names.wireguard(), reason: e.to_string() })?;
        wireguard::sweep(&names.wireguard())
            .map_err(|e| Error::WireGuard { interface: names.wireguard(), reason: e.to_string() })?;
        let socket =
            Socket::open(SockProtocol::NetlinkNetFilter).map_err(Error::io("open", "the nftables socket"))?;
        let mut rules = Rules { socket, written: None, generation: 0, maps: None };
        state.generation = 1;
        state.has_timeouts = rules.have_timeouts(&names);
        state.has_mesh = !options.solo && reconcile::probe(&names);
        state.has_ipv6 = sysctl::knows_ipv6();
        let inner = Inner {
            names,
            store,
            pins,
            public_key,
            state: Mutex::new(state),
            ports: Mutex::new(ports),
            rules: Arc::new(tokio::sync::Mutex::new(rules)),
            changing: tokio::sync::Mutex::default(),
            tunnel: tokio::sync::Mutex::default(),
            moving: tokio::sync::RwLock::default(),
            busy: busy::Busy::default(),
            reaper: reaper::Reaper::default(),
            dns: names::NameServers::new(),
            figures: figures::Counters::default(),
            heard: own_ports::Heard::default(),
            addresses: watch::Sender::default(),
            stop: tokio_util::sync::CancellationToken::new(),
            options,
        };
        inner.note_addresses()?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// This node's WireGuard key, base64.
    pub fn public_key(&self) -> String {
        self.inner.public_key.clone()
    }

    /// Whether connections with the tasks of a service can have a timeout of their own.
    pub fn has_idle_timeouts(&self) -> bool {
        self.inner.state().has_timeouts
    }

    /// Whether connections to published ports come to tasks here with the client's address on them.
    pub fn keeps_client_address(&self) -> bool {
        self.inner.state().has_mesh
    }

    /// Whether those of IPv6 do.
    pub fn keeps_client_address6(&self) -> bool {
        let state = self.inner.state();
        state.has_mesh && state.has_ipv6
    }

    /// Removes what [`DataPlane::check`] finds now, instead of at the next half minute.
    pub async fn reconcile(&self) -> Result<()> {
        let tunnel = self.refresh_swarm().await;
        let rest = self.inner.reconcile().await;
        Error::gather([tunnel, rest].into_iter().filter_map(Result::err).collect())
    }

    /// Removes every trace from the kernel: for a data root that is given up. Containers are
    /// disconnected first.
    pub async fn uninstall(&self) -> Result<()> {
        let detached = self.retain(&[]).await;
        let left = self.leave_swarm().await;
        self.shutdown().await;
        let inner = self.inner.clone();
        // A comparison that is under way ends first; one that comes later finds that it has nothing to do any more.
        let _one = self.inner.changing.lock().await;
        let mut rules = inner.rules.clone().lock_owned().await;
        let removed = blocking("removing bridges and rules", move || {
            let mut errors = Vec::new();
            match crate::link::Links::open() {
                Ok(mut host) => {
                    let bridges = inner.state().bridges.clone();
                    let (lent, ours): (Vec<_>, Vec<_>) = bridges.values().partition(|b| b.foreign);
                    errors.extend(ours.iter().filter_map(|b| host.delete(&b.interface).err()));
                    errors.extend(lent.iter().filter_map(|b| reconcile::give_back(b).err()));
                    let direct = inner.state().direct.clone();
                    let ours = direct.values().filter(|n| n.direct.as_ref().is_some_and(|d| d.made));
                    errors.extend(ours.filter_map(|n| host.delete(&n.interface).err()));
                }
                Err(error) => errors.push(error),
            }
            let table = inner.names.table();
            for (family, gate) in gates() {
                let passage = isolation::passage(family, gate, &inner.state(), &inner.names);
                errors
                    .extend(nft::withdraw(&mut rules.socket, family, gate, &passage).err().map(Error::from));
            }
            for family in families() {
                errors.extend(nft::delete_table(&mut rules.socket, family, &table).err().map(Error::from));
            }
            Error::gather(errors)
        })
        .await;
        Error::gather([detached, left, removed].into_iter().filter_map(Result::err).collect())
    }

    /// Ends the daemon's part; containers keep their network.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        self.inner.end_all_names().await;
        self.inner.ports().release_all();
        self.inner.reaper.drain().await;
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ports(&self) -> MutexGuard<'_, Ports> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and returns the number of the change.
    fn change<T>(&self, f: impl FnOnce(&mut State) -> T) -> (T, u64) {
        let mut state = self.state();
        let value = f(&mut state);
        state.generation += 1;
        (value, state.generation)
    }

    /// Waits until nftables holds change `generation`, by whoever's transaction.
    async fn commit(self: &Arc<Self>, generation: u64) -> Result<()> {
        let mut rules = self.rules.clone().lock_owned().await;
        if rules.written.is_some() && rules.generation >= generation {
            return Ok(());
        }
        let inner = self.clone();
        blocking("writing nftables rules", move || {
            let (wanted, current) = {
                let state = inner.state();
                (rules.wanted(&state, &inner.names), state.generation)
            };
            let table = inner.names.table();
            // A comparison of the whole, and nothing else to do: what differs is not from us.
            let unchanged = rules.written.is_none() && rules.generation == current;
            // Until the kernel has answered, nothing is known of what it holds.
            let held = match rules.written.take() {
                Some(written) => written,
                None => rules.held(&inner.names)?,
            };
            for ((family, held), wanted) in Family::ALL.into_iter().zip(&held).zip(&wanted) {
                let changes = nft::changes(held.as_ref(), wanted.as_ref());
                if unchanged && held.is_some() {
                    for change in &changes {
                        tracing::info!(table, %change, "repairing");
                        inner.figures.repaired();
                    }
                }
                nft::apply(&mut rules.socket, family, &table, &changes)?;
            }
            rules.written = Some(wanted);
            rules.generation = current;
            Ok(())
        })
        .await
    }

    /// Compares everything with the kernel and removes the differences.
    async fn reconcile(self: &Arc<Self>) -> Result<()> {
        let generation = {
            let mut rules = self.rules.lock().await;
            rules.written = None;
            self.state().generation
        };
        let _changing = self.changing.lock().await;
        // What was mended from now on would be left behind.
        if self.stop.is_cancelled() {
            return Ok(());
        }
        let inner = self.clone();
        let links = blocking("comparing with the kernel", move || {
            let state = inner.state().clone();
            let repairs = reconcile::plan(&state, &inner.names, &inner.pins, &inner.reaper.leaving())?;
            let mut errors = Vec::new();
            for repair in repairs {
                let _alone = repair.container().map(|id| inner.busy.hold(id));
                // What was attached or detached since the plan was made is not ours to mend.
                if inner.is_stale(&repair) {
                    continue;
                }
                tracing::info!(%repair, "repairing");
                inner.figures.repaired();
                errors.extend(reconcile::repair(&repair, &inner.pins).err());
            }
            Error::gather(errors)
        })
        .await;
        let rules = self.commit(generation).await;
        let passage = self.admit().await;
        Error::gather([links, rules, passage].into_iter().filter_map(Result::err).collect())
    }

    /// Keeps another firewall's default from stopping what our own rules let pass.
    async fn admit(self: &Arc<Self>) -> Result<()> {
        let mut rules = self.rules.clone().lock_owned().await;
        let inner = self.clone();
        blocking("admitting our traffic", move || {
            let state = inner.state().clone();
            for (family, gate) in gates() {
                let passage = isolation::passage(family, gate, &state, &inner.names);
                nft::admit(&mut rules.socket, family, gate, &passage)?;
            }
            Ok(())
        })
        .await
    }

    /// Makes the tunnel's routes and settings right.
    fn repair_tunnel(&self) -> Result<()> {
        let state = self.state().clone();
        let repairs = reconcile::plan_tunnel(&state, &self.names)?;
        repairs.iter().for_each(|_| self.figures.repaired());
        let errors = repairs.iter().filter_map(|r| reconcile::repair(r, &self.pins).err());
        Error::gather(errors.collect())
    }

    async fn keep(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.tick().await;
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            self.refresh_upstreams().await;
            {
                let _one = self.changing.lock().await;
                self.follow_own().await;
            }
            let plane = DataPlane { inner: self.clone() };
            let outcome = plane.reconcile().await;
            self.figures.compared(outcome.is_ok());
            if let Err(error) = outcome {
                tracing::warn!(%error, "the network is not in order; trying again in 30 s");
            }
        }
    }
}

/// Runs what blocks on a thread made for that.
async fn blocking<T: Send + 'static>(
    what: &'static str,
    f: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let run = tokio::task::spawn_blocking(f).await;
    run.unwrap_or_else(|e| Err(Error::Interrupted(what, e.to_string())))
}
