//! Running containers: connected to further networks, and disconnected from some.

use std::sync::Arc;

use super::doors::addresses;
use super::{DataPlane, Inner, blocking};
use crate::error::{Error, Result};
use crate::model::{Attached, Join};
use crate::reconcile;
use crate::routed;
use crate::state::Record;

impl DataPlane {
    /// Connects a container that is connected to other networks (or to none) to one more.
    pub async fn connect(&self, container_id: &str, join: Join) -> Result<Attached> {
        self.change_networks(container_id, move |inner, state, record| {
            routed::extend(state, record, &join, &inner.names)
        })
        .await
    }

    /// Disconnects a container from a network, named by its ID; the others stay.
    pub async fn disconnect(&self, container_id: &str, network_id: &str) -> Result<Attached> {
        let network = network_id.to_owned();
        self.change_networks(container_id, move |_, _, record| {
            routed::without(record, &network).ok_or_else(|| Error::NotConnected {
                container: record.name.clone(),
                network: network.clone(),
            })
        })
        .await
    }

    /// Gives a container another name, by which the others find it from now on. None that is not connected.
    pub async fn rename(&self, container_id: &str, name: &str) -> Result<()> {
        let (inner, id, name) = (self.inner.clone(), container_id.to_owned(), name.to_owned());
        let renamed = blocking("renaming a container", move || {
            let _alone = inner.busy.hold(&id);
            let (renamed, _) = inner.change(|state| {
                let record = state.containers.get_mut(&id)?;
                record.name = name;
                Some(record.clone())
            });
            renamed.map(|record| inner.store.save_container(&record).map(|()| record)).transpose()
        });
        if let Some(record) = renamed.await? {
            self.inner.refresh_zones(Some(&record));
        }
        Ok(())
    }

    /// State, kernel, disk, rules, names, in this order; undone when one of them fails.
    async fn change_networks(
        &self,
        container_id: &str,
        decide: impl Fn(&Inner, &crate::state::State, &Record) -> Result<Record> + Send + 'static,
    ) -> Result<Attached> {
        let _moving = self.inner.moving.read().await;
        let (inner, id) = (self.inner.clone(), container_id.to_owned());
        let changed = blocking("changing a container's networks", move || inner.rewire(&id, decide)).await;
        let (old, new, generation) = changed?;
        if let Err(error) = self.publish(&old, &new, generation).await {
            return Err(match self.change_back(&new, &old).await {
                Ok(()) => error,
                Err(more) => Error::Several(vec![error, more]),
            });
        }
        self.inner.refresh_zones(Some(&old));
        self.inner.refresh_zones(Some(&new));
        self.inner.attached(&new).await
    }

    async fn change_back(&self, new: &Record, old: &Record) -> Result<()> {
        let (inner, id, back) = (self.inner.clone(), old.container_id.clone(), old.clone());
        let rewired =
            blocking("undoing a change of networks", move || inner.rewire(&id, |_, _, _| Ok(back.clone())));
        let (_, _, generation) = rewired.await?;
        self.publish(new, old, generation).await
    }

    /// Rules and names of a container that went from one record to another.
    async fn publish(&self, old: &Record, new: &Record, generation: u64) -> Result<()> {
        if self.inner.has_rules(old) || self.inner.has_rules(new) {
            self.inner.commit(generation).await?;
        }
        if new.has_dns() {
            self.inner.serve_names(new).await?;
        } else {
            self.inner.end_names(&new.container_id).await;
        }
        Ok(())
    }
}

impl Inner {
    fn rewire(
        self: &Arc<Self>,
        id: &str,
        decide: impl Fn(&Inner, &crate::state::State, &Record) -> Result<Record>,
    ) -> Result<(Record, Record, u64)> {
        let _alone = self.busy.hold(id);
        let (planned, _) = self.change(|state| {
            let old = state
                .containers
                .get(id)
                .cloned()
                .ok_or_else(|| Error::NotConnected { container: id.to_owned(), network: "any".to_owned() })?;
            let new = decide(self, state, &old)?;
            let kept = |host: &String| new.interfaces.iter().any(|i| i.host == *host);
            let leaving: Vec<String> =
                old.interfaces.iter().map(|i| i.host.clone()).filter(|host| !kept(host)).collect();
            self.reaper.expect(&leaving);
            state.containers.insert(id.to_owned(), new.clone());
            Ok::<_, Error>((old, new, leaving))
        });
        let (old, mut new, leaving) = planned?;
        let pin = self.pins.join(id);
        if let Err(error) = self.rebind(&old, &mut new) {
            self.change(|state| state.containers.insert(id.to_owned(), old));
            self.reaper.keep(&leaving);
            return Err(error);
        }
        let wired = reconcile::rewire(&old, &new, &pin).and_then(|()| self.store.save_container(&new));
        self.reaper.remove(&leaving);
        if let Err(error) = wired {
            self.change(|state| state.containers.insert(id.to_owned(), old.clone()));
            self.bind_back(&new, &old);
            return Err(match reconcile::rewire(&new, &old, &pin) {
                Ok(()) => error,
                Err(more) => Error::Several(vec![error, more]),
            });
        }
        let (_, generation) = self.change(|state| state.containers.insert(id.to_owned(), new.clone()));
        if new.relayed {
            self.ports().hand_over(id);
        }
        Ok((old, new, generation))
    }

    /// Binds a container's ports as the networks have it that it is in now: one network may translate them from the host's,
    /// and another open them at the container's own address. Without a way out, they stay as they are.
    fn rebind(&self, old: &Record, new: &mut Record) -> Result<()> {
        let reached = new.target().is_some() || new.target6().is_some();
        if !new.asked.is_empty() && reached {
            let wanted = self.published(new)?;
            // Before the old ones are given up: whoever cannot look at the interfaces keeps its ports.
            let names = new.doors.iter().map(|d| d.interface.clone()).collect();
            let interfaces = addresses(&names)?;
            let renewed = self.ports().renew(&new.container_id, &old.ports, &wanted, old.relayed);
            new.ports = renewed.map_err(|e| super::attach::unprogrammed(new, e))?;
            if !new.doors.is_empty() {
                let (held, failed) = self.hold_doors(new, &interfaces);
                for error in failed {
                    tracing::warn!(container = new.name, %error, "a port is not open on an address of its interface");
                }
                new.ports.retain(|p| p.interface.is_none());
                new.ports.extend(held);
            }
        }
        new.relayed = (old.relayed || !self.options.without_relays) && new.is_to_be_relayed();
        Ok(())
    }

    /// Gives a container the ports back that it had.
    fn bind_back(&self, new: &Record, old: &Record) {
        if new.ports == old.ports {
            return;
        }
        let mut ports = self.ports();
        ports.release(&old.container_id);
        for error in ports.retake(&old.container_id, &old.ports, old.relayed) {
            tracing::warn!(container = old.name, %error, "a port could not be taken again");
        }
    }
}
