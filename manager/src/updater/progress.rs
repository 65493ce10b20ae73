//! How far an update has come, read off the tasks.

use std::collections::{BTreeMap, HashMap};

use skep_proto::{defaults, v1};
use v1::TaskState;

use crate::orchestrator::slot::{Slot, SlotKey};
use crate::orchestrator::task;
use crate::store::StoreView;

/// Where the slots of a service stand.
pub(super) struct Progress<'a> {
    /// Slots not of the current revision; those not running first, as they lose nothing.
    pub outdated: Vec<&'a Slot>,
    /// Updated slots that are not running yet, or not for the configured delay.
    pub busy: usize,
    /// Slots in which a task of this update failed.
    pub failed: usize,
    /// One of those tasks.
    pub failed_task: Option<String>,
    /// Whether every updated slot has been watched for long enough.
    pub settled: bool,
    /// When the next slot has been.
    pub settles_ms: Option<i64>,
    total: usize,
}

impl<'a> Progress<'a> {
    pub fn of(
        view: &StoreView,
        service: &v1::Service,
        slots: &'a BTreeMap<SlotKey, Slot>,
        config: &v1::UpdateConfig,
        status: &v1::UpdateStatus,
        now_ms: i64,
    ) -> Self {
        let monitor_ms = match config.monitor_ns / 1_000_000 {
            0 => defaults::UPDATE_MONITOR.as_millis() as i64,
            ms => ms,
        };
        let delay_ms = config.delay_ns / 1_000_000;
        let mut same = SameSpec { view, service, known: HashMap::new() };
        let mut p = Progress {
            outdated: Vec::new(),
            busy: 0,
            failed: 0,
            failed_task: None,
            settled: true,
            settles_ms: None,
            total: slots.len(),
        };
        for slot in slots.values() {
            let Some(newest) = slot.newest() else { continue };
            if !same.up_to_date(newest) {
                p.outdated.push(slot);
                continue;
            }
            let failure = slot.tasks.iter().find(|t| {
                same.up_to_date(t)
                    && created_ms(t) >= status.started_at_ms
                    && matches!(task::state(t), TaskState::Failed | TaskState::Rejected)
            });
            if let Some(t) = failure {
                p.failed += 1;
                p.failed_task.get_or_insert_with(|| t.id.clone());
            }
            if created_ms(newest) < status.started_at_ms || !task::wanted(newest) {
                continue;
            }
            let running_ms = (task::state(newest) == TaskState::Running).then(|| task::since_ms(newest));
            match running_ms {
                None => {
                    p.settled = false;
                    // A slot that failed holds the others up no longer than its first try.
                    p.busy += usize::from(failure.is_none());
                }
                Some(since) => {
                    if since + delay_ms > now_ms {
                        p.busy += 1;
                        p.wake(since + delay_ms);
                    }
                    if since + monitor_ms > now_ms {
                        p.settled = false;
                        p.wake(since + monitor_ms);
                    }
                }
            }
        }
        p.outdated.sort_by_key(|s| {
            s.newest().is_some_and(|t| task::live(t) && task::state(t) == TaskState::Running)
        });
        p
    }

    pub fn too_many_failures(&self, config: &v1::UpdateConfig) -> bool {
        self.failed > 0 && self.failed as f32 / self.total.max(1) as f32 > config.max_failure_ratio
    }

    fn wake(&mut self, at_ms: i64) {
        self.settles_ms = Some(self.settles_ms.map_or(at_ms, |w| w.min(at_ms)));
    }
}

fn created_ms(task: &v1::Task) -> i64 {
    task.meta.map_or(0, |m| m.created_at_ms)
}

/// Whether revisions say the same as the current one: going back to a spec leaves its tasks alone.
struct SameSpec<'a> {
    view: &'a StoreView,
    service: &'a v1::Service,
    known: HashMap<u64, bool>,
}

impl SameSpec<'_> {
    fn up_to_date(&mut self, t: &v1::Task) -> bool {
        let current = self.service.revision;
        let same = t.revision == current
            || *self.known.entry(t.revision).or_insert_with(|| {
                let spec = |n| self.view.revision(&self.service.id, n).and_then(|r| r.spec.as_ref());
                spec(t.revision).is_some() && spec(t.revision) == spec(current)
            });
        same && (t.revision == current || serves_ports(self.view, self.service, t))
    }
}

/// Whether a task of an earlier revision has what its service's ports ask of it, and what a task is given at
/// its assignment only: a place in the ingress network, and ports of its host.
fn serves_ports(view: &StoreView, service: &v1::Service, t: &v1::Task) -> bool {
    if t.node_id.is_empty() {
        return true;
    }
    let wanted = || service.spec.iter().flat_map(|s| &s.endpoint).flat_map(|e| &e.ports);
    let host = |p: &&v1::PortConfig| p.mode() == v1::PublishMode::Host;
    let placed = wanted().all(|p| host(&p))
        || view.ingress_network().is_none_or(|n| t.addresses.iter().any(|a| a.network_id == n.id));
    let has = |w: &v1::PortConfig| {
        t.ports.iter().filter(host).any(|p| {
            (p.protocol, p.target_port) == (w.protocol, w.target_port)
                && (w.published_port == 0 || p.published_port == w.published_port)
        })
    };
    placed
        && wanted().filter(host).all(has)
        && wanted().filter(host).count() == t.ports.iter().filter(host).count()
}
