//! Where the data of a slot lies. A task with named local volumes leaves data on its node; the next task of its slot
//! goes back there. What is remembered is replicated (`Homes`, one object for a service): it outlives the tasks, so a
//! slot that was closed for a while finds its data again. Tasks that are bound to their nodes anyhow need none of it.

use std::collections::BTreeMap;

use skep_proto::v1::{self, DataPlacement, TaskState};

use crate::orchestrator::{Plan, task};
use crate::store::{StoreView, change};

/// Names of the volumes of a task whose content is on its node only. Those of other drivers, and of the local one with
/// a remote file system, are the same everywhere; those without a name are new for every container.
pub fn volumes(spec: &v1::TaskSpec) -> Vec<String> {
    let mounts = spec.container.iter().flat_map(|c| &c.mounts);
    let local = |m: &&v1::Mount| {
        let options = m.volume.clone().unwrap_or_default();
        let kind = options.driver_options.get("type").map_or("", String::as_str);
        let remote = kind.starts_with("nfs") || ["cifs", "smb3", "ceph", "glusterfs", "9p"].contains(&kind);
        m.r#type == "volume"
            && !m.source.is_empty()
            && ["", "local"].contains(&options.driver.as_str())
            && !remote
    };
    let mut names: Vec<String> = mounts.filter(local).map(|m| m.source.clone()).collect();
    names.sort();
    names.dedup();
    names
}

/// What the service wants its tasks to do about their data.
pub fn policy(service: &v1::Service) -> DataPlacement {
    service.spec.as_ref().map_or(DataPlacement::Stay, v1::ServiceSpec::data_placement)
}

/// Where data of these volumes lies, by slot. Nodes that were removed from the swarm have taken theirs along.
pub fn of<'a>(view: &'a StoreView, service_id: &str, volumes: &[String]) -> BTreeMap<u64, &'a v1::Home> {
    let homes = view.homes(service_id).into_iter().flat_map(|h| &h.slots);
    let holds =
        |h: &v1::Home| h.volumes.iter().any(|v| volumes.contains(v)) && view.node(&h.node_id).is_some();
    homes.filter(|(_, h)| holds(h)).map(|(slot, h)| (*slot, h)).collect()
}

/// Remembers where the slots' last tasks ran that may have written data.
pub fn record(view: &StoreView, service: &v1::Service, plan: &mut Plan) {
    let with_data = |r: &v1::Revision| r.spec.as_ref().map(volumes).filter(|v| !v.is_empty());
    let revisions: BTreeMap<u64, Vec<String>> =
        view.revisions_of(&service.id).filter_map(|r| Some((r.number, with_data(r)?))).collect();
    if revisions.is_empty() {
        return;
    }
    let mut last: BTreeMap<u64, &v1::Task> = BTreeMap::new();
    for t in view.tasks_of_service(&service.id).filter(|t| t.slot != 0 && has_run(t)) {
        let newest = last.entry(t.slot).or_insert(t);
        if task::age_key(newest) < task::age_key(t) {
            *newest = t;
        }
    }
    let held = view.homes(&service.id);
    let mut slots = held.map(|h| h.slots.clone()).unwrap_or_default();
    for (slot, t) in last {
        if let Some(volumes) = revisions.get(&t.revision) {
            slots.insert(slot, v1::Home { node_id: t.node_id.clone(), volumes: volumes.clone() });
        }
    }
    if held.map(|h| &h.slots) != Some(&slots) {
        plan.changes.push(change::put(v1::Homes { service_id: service.id.clone(), meta: None, slots }));
    }
}

fn has_run(t: &v1::Task) -> bool {
    let started = t.status.as_ref().is_some_and(|s| s.container.is_some());
    started || matches!(task::state(t), TaskState::Running | TaskState::Complete)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_named_local_volumes_hold_data_of_a_node() {
        let mount = |kind: &str, source: &str, driver: &str, options: &[(&str, &str)]| {
            let pair = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
            let driver_options = options.iter().map(pair).collect();
            let volume = v1::VolumeOptions { driver: driver.into(), driver_options, ..Default::default() };
            v1::Mount {
                r#type: kind.into(),
                source: source.into(),
                volume: Some(volume),
                ..Default::default()
            }
        };
        let mounts = vec![
            mount("volume", "b", "local", &[]),
            mount("volume", "a", "", &[("type", "tmpfs")]),
            mount("volume", "b", "", &[]),
            mount("volume", "", "", &[]),
            mount("volume", "far", "", &[("type", "nfs4"), ("o", "addr=10.0.0.1")]),
            mount("volume", "cloud", "rexray", &[]),
            mount("bind", "/srv", "", &[]),
            mount("tmpfs", "", "", &[]),
        ];
        let container = v1::ContainerSpec { mounts, ..Default::default() };
        let spec = v1::TaskSpec { container: Some(container), ..Default::default() };
        assert_eq!(volumes(&spec), ["a", "b"]);
    }
}
