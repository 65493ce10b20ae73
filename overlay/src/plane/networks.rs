//! Networks of this host alone: made, removed, shown.

use super::{DataPlane, Inner, blocking};
use crate::bridge::{self, Changed, Surroundings};
use crate::desired::Network;
use crate::error::{Error, Result};
use crate::link::Links;
use crate::model::{BridgeInfo, BridgeSpec, Member};
use crate::state::{Bridge, DEFAULT_BRIDGE, State};
use crate::{direct, isolation, nft, reconcile, sysctl};

impl DataPlane {
    /// Makes a network of this host alone.
    pub async fn create_bridge(&self, spec: BridgeSpec) -> Result<BridgeInfo> {
        let _one = self.inner.changing.lock().await;
        let inner = self.inner.clone();
        let (made, generation) = blocking("making a bridge network", move || {
            let mut host = Links::open()?;
            let around = inner.surroundings(&mut host, None)?;
            let bridge = bridge::plan(&inner.state(), &spec, &inner.names, &around)?;
            if bridge.direct.is_some() {
                return inner.make_direct(&mut host, bridge);
            }
            if host.find(&bridge.interface)?.is_some() {
                return Err(Error::Invalid {
                    what: "bridge name",
                    value: bridge.interface,
                    reason: "this host has an interface of that name: choose another one".into(),
                });
            }
            inner.save_with(|bridges| drop(bridges.insert(bridge.name.clone(), bridge.clone())))?;
            let made = inner.raise_bridge(&mut host, &bridge);
            if let Err(error) = made {
                inner.save_with(|bridges| drop(bridges.remove(&bridge.name)))?;
                host.delete(&bridge.interface)?;
                return Err(error);
            }
            let (_, generation) = inner.change(|s| s.bridges.insert(bridge.name.clone(), bridge.clone()));
            Ok((bridge, generation))
        })
        .await?;
        if made.direct.is_none() {
            self.inner.commit(generation).await?;
            if !made.interface.starts_with(&self.inner.names.links()) {
                self.inner.admit().await?;
            }
        }
        Ok(bridge::info(&self.inner.state(), &made))
    }

    /// Removes a network of this host alone, by name, ID or beginning of the ID.
    pub async fn remove_bridge(&self, key: &str) -> Result<()> {
        let _one = self.inner.changing.lock().await;
        let before = self.inner.passage();
        let (removed, generation) = self.inner.change(|state| {
            let bridge = find(state, key)?;
            if bridge.name == DEFAULT_BRIDGE {
                return Err(Error::Invalid {
                    what: "network",
                    value: key.into(),
                    reason: "it is predefined and cannot be removed".into(),
                });
            }
            let members = bridge::info(state, &bridge).containers;
            if !members.is_empty() {
                let one = |m: &Member| format!("name:{:?} id:{:?}", m.name, &m.endpoint.endpoint_id[..12]);
                let all: Vec<_> = members.values().map(one).collect();
                return Err(Error::NetworkInUse { network: bridge.name, containers: all.join(", ") });
            }
            state.bridges.remove(&bridge.name);
            let parent = direct::release(&mut state.direct, &bridge.name);
            Ok((bridge, parent))
        });
        let (removed, parent) = removed?;
        if removed.direct.is_some() {
            let inner = self.inner.clone();
            return blocking("removing a network", move || {
                let saved = inner.store.save_direct(&inner.state().direct.clone());
                let delete = |name: String| Links::open().and_then(|mut host| host.delete(&name));
                let deleted = parent.map_or(Ok(()), delete);
                Error::gather([saved, deleted].into_iter().filter_map(Result::err).collect())
            })
            .await;
        }
        let inner = self.inner.clone();
        let unlinked = blocking("removing a bridge network", move || {
            let saved = inner.store.save_bridges(&inner.state().bridges.clone());
            let deleted = Links::open().and_then(|mut host| host.delete(&removed.interface));
            Error::gather([saved, deleted].into_iter().filter_map(Result::err).collect())
        })
        .await;
        let rules = self.inner.commit(generation).await;
        let after = self.inner.passage();
        let stale: Vec<_> = before.into_iter().filter(|r| !after.contains(r)).collect();
        let mut held = self.inner.rules.clone().lock_owned().await;
        let passage = blocking("withdrawing rules", move || match stale.is_empty() {
            true => Ok(()),
            false => Ok(held.withdraw(&stale)?),
        })
        .await;
        Error::gather([unlinked, rules, passage].into_iter().filter_map(Result::err).collect())
    }

    /// All networks of this host alone: bridges by name, then the others.
    pub fn list_bridges(&self) -> Vec<BridgeInfo> {
        let state = self.inner.state();
        state.local().map(|b| bridge::info(&state, b)).collect()
    }

    /// The networks of the swarm that this host has a part in.
    pub fn list_overlays(&self) -> Vec<Network> {
        let state = self.inner.state();
        state.swarm.iter().flat_map(|s| s.desired.networks.values().cloned()).collect()
    }

    /// One of them, by name, ID or beginning of the ID.
    pub fn inspect_bridge(&self, key: &str) -> Result<BridgeInfo> {
        let state = self.inner.state();
        find(&state, key).map(|b| bridge::info(&state, &b))
    }
}

fn find(state: &State, key: &str) -> Result<Bridge> {
    let exact = state.local().find(|b| b.name == key || b.id == key);
    let mut begins = state.local().filter(|b| !key.is_empty() && b.id.starts_with(key));
    let unique = match (begins.next(), begins.next()) {
        (Some(one), None) => Some(one),
        _ => None,
    };
    exact.or(unique).cloned().ok_or_else(|| Error::NoSuchNetwork(key.into()))
}

impl Inner {
    /// What this host routes already, other than by one interface.
    fn surroundings(&self, host: &mut Links, besides: Option<u32>) -> Result<Surroundings> {
        let elsewhere = |index: u32| Some(index) != besides;
        Ok(Surroundings {
            taken: host.routes()?.into_iter().filter(|(i, _)| elsewhere(*i)).map(|(_, r)| r.to).collect(),
            taken6: host.routes()?.into_iter().filter(|(i, _)| elsewhere(*i)).map(|(_, r)| r.to).collect(),
            host: nft::digest(self.public_key.as_bytes()),
            pools: self.options.pools.clone(),
        })
    }

    /// Rules that other firewalls need, of both families.
    fn passage(&self) -> Vec<nft::Rule> {
        let state = self.state();
        let all = nft::Family::ALL.into_iter();
        all.flat_map(|family| isolation::passage(family, nft::Gate::Forward, &state, &self.names)).collect()
    }

    /// Makes a network that is directly on an interface of the host, which is made where it may be and is missing.
    fn make_direct(&self, host: &mut Links, mut network: Bridge) -> Result<(Bridge, u64)> {
        let made = host.find(&network.interface)?.is_none();
        if let Some(direct) = &mut network.direct {
            direct.made = made;
        }
        let mut all = self.state().direct.clone();
        all.insert(network.name.clone(), network.clone());
        self.store.save_direct(&all)?;
        let mut failed: Vec<Error> = direct::raise(host, &network).err().into_iter().collect();
        if !failed.is_empty() {
            all.remove(&network.name);
            failed.extend(self.store.save_direct(&all).err());
            if made {
                failed.extend(host.delete(&network.interface).err());
            }
        }
        Error::gather(failed)?;
        let (_, generation) = self.change(|s| s.direct.insert(network.name.clone(), network.clone()));
        Ok((network, generation))
    }

    fn raise_bridge(&self, host: &mut Links, bridge: &Bridge) -> Result<()> {
        if bridge.v6.is_some() {
            sysctl::forward6(&self.names.links())?;
        }
        reconcile::make_bridge(host, bridge).map(drop)
    }

    /// Makes the default bridge network what the daemon was told, where no container is in it; else says what waits.
    pub(super) fn settle_default(&self) -> Result<()> {
        let mut others = self.state().clone();
        let held = others.bridges.remove(DEFAULT_BRIDGE);
        let told = &self.options.default_bridge;
        let mut host = Links::open()?;
        let wanted = match told.absent {
            true => None,
            false => {
                let own = held.as_ref().map(|b| host.find(&b.interface)).transpose()?.flatten();
                let around = self.surroundings(&mut host, own.map(|link| link.index))?;
                Some(told.wanted(held.as_ref(), &others, &self.names, &around, &mut host)?)
            }
        };
        if held == wanted {
            return Ok(());
        }
        let settled = wanted.as_ref().zip(held.as_ref()).is_some_and(|(wanted, held)| {
            // Only what somebody else has set meanwhile is to be remembered.
            Bridge { lent: held.lent.clone(), ..wanted.clone() } == *held
        });
        if let Some(held) = &held
            && !settled
            && !bridge::info(&self.state(), held).containers.is_empty()
        {
            let changed = wanted.as_ref().map_or(vec!["bridge"], |wanted| Changed::between(held, wanted).0);
            tracing::warn!(
                "containers are in the default bridge network, which stays as it is: stop them and start the daemon again for {} to take effect",
                changed.join(", ")
            );
            return Ok(());
        }
        // What is left of it after a crash from here on is removed with the next start.
        match &held {
            Some(held) if !held.foreign => host.delete(&held.interface)?,
            Some(held) if wanted.as_ref().is_none_or(|w| w.interface != held.interface) => {
                if let Err(error) = reconcile::give_back(held) {
                    tracing::warn!(bridge = held.interface, %error, "its earlier settings are not put back");
                }
            }
            _ => {}
        }
        self.save_with(|bridges| match &wanted {
            Some(wanted) => drop(bridges.insert(wanted.name.clone(), wanted.clone())),
            None => drop(bridges.remove(DEFAULT_BRIDGE)),
        })?;
        self.change(|state| match &wanted {
            Some(wanted) => drop(state.bridges.insert(wanted.name.clone(), wanted.clone())),
            None => drop(state.bridges.remove(DEFAULT_BRIDGE)),
        });
        wanted.map_or(Ok(()), |wanted| self.raise_bridge(&mut host, &wanted))
    }

    /// Saves the bridges as they are with one change, which the state gets later.
    fn save_with(&self, f: impl FnOnce(&mut std::collections::BTreeMap<String, Bridge>)) -> Result<()> {
        let mut bridges = self.state().bridges.clone();
        f(&mut bridges);
        self.store.save_bridges(&bridges)
    }
}
