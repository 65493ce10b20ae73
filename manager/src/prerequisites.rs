//! What has to come before a service (`depends_on`): whether it has, what waits for it meanwhile, and who must be
//! looked at when something changes. All of it is read off the store, so a new leader goes on where the last one was.
//!
//! Tasks of a revision wait until what it depends on is there; once one of them was let go, the others follow, and
//! replacements of those that fail wait for nobody.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use skep_proto::v1::{self, PrerequisiteCondition, TaskState, service_spec::Mode};

use crate::orchestrator::slot::{self, Slot};
use crate::orchestrator::task;
use crate::store::{StoreView, service_name};

fn of(service: &v1::Service) -> &[v1::Prerequisite] {
    service.spec.as_ref().map_or(&[], listed)
}

fn listed(spec: &v1::ServiceSpec) -> &[v1::Prerequisite] {
    spec.depends_on.as_ref().map_or(&[], |l| &l.all)
}

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmet {
    /// In words that stay the same while it comes closer: what waits is not written anew for that.
    pub what: String,
    /// How far it has come, for whoever asks; may be empty.
    pub so_far: String,
}

impl Unmet {
    fn new(what: String) -> Self {
        Self { what, so_far: String::new() }
    }

    /// Both.
    pub fn whole(&self) -> String {
        let colon = if self.so_far.is_empty() { "" } else { ": " };
        format!("{}{colon}{}", self.what, self.so_far)
    }
}

/// Why tasks of this revision of a service have to wait, if they have to.
pub fn unmet(view: &StoreView, service: &v1::Service, revision: u64) -> Option<Unmet> {
    let wanted = of(service);
    if wanted.is_empty() {
        return None;
    }
    let begun = |t: &v1::Task| {
        t.revision == revision && task::current(service, t) && task::state(t) >= TaskState::Assigned
    };
    if view.tasks_of_service(&service.id).any(|t| begun(t)) {
        return None;
    }
    wanted.iter().find_map(|p| lacks(view, p))
}

fn lacks(view: &StoreView, wanted: &v1::Prerequisite) -> Option<Unmet> {
    let name = &wanted.service;
    let Some(service) = view.service_by_name(name).filter(|s| !s.removing) else {
        let why = || Unmet::new(format!("waits for service {name}, which is not there yet"));
        return (!wanted.optional).then(why);
    };
    let mut slots: Vec<Slot> = slot::slots(view, service).into_values().collect();
    for slot in &mut slots {
        slot.tasks.retain(|t| task::current(service, t));
    }
    let now =
        |f: &dyn Fn(&v1::Task) -> bool| slots.iter().filter(|s| s.tasks.iter().any(|t| f(t))).count() as u64;
    let complete = |t: &v1::Task| task::state(t) == TaskState::Complete;
    let running = |t: &v1::Task| task::live(t) && task::state(t) == TaskState::Running;
    let (job, all) = match service.spec.as_ref().and_then(|s| s.mode.as_ref()) {
        Some(Mode::Replicated(r)) => (false, r.replicas),
        Some(Mode::ReplicatedJob(job)) => (true, job.total_completions),
        Some(Mode::GlobalJob(_)) => (true, (slots.len() as u64).max(1)),
        _ => (false, (slots.len() as u64).max(1)),
    };
    match wanted.condition() {
        PrerequisiteCondition::Started => {
            let started =
                |t: &v1::Task| complete(t) || (task::live(t) && task::state(t) >= TaskState::Starting);
            let any = all == 0 || now(&started) > 0;
            (!any).then(|| Unmet::new(format!("waits for service {name} to be started")))
        }
        PrerequisiteCondition::Healthy => {
            let count = now(&|t| running(t) || (job && complete(t)));
            (count < all).then(|| Unmet {
                what: format!("waits for service {name} to be healthy"),
                so_far: format!("{count} of {all} tasks run"),
            })
        }
        PrerequisiteCondition::Completed => {
            // Of a job, one completion is for good; of others, only the last word counts.
            let done = |s: &&Slot| match job {
                true => s.tasks.iter().any(|t| complete(t)),
                false => s.newest().is_some_and(|t| complete(t)),
            };
            let count = slots.iter().filter(done).count() as u64;
            let failed = slots.iter().filter_map(|s| s.newest()).find(|t| {
                !task::wanted(t) && matches!(task::state(t), TaskState::Failed | TaskState::Rejected)
            });
            let failed =
                failed.and_then(|t| t.status.as_ref()).map(|s| format!(" (it has failed: {})", s.err));
            (count < all).then(|| Unmet {
                what: format!("waits for service {name} to complete{}", failed.unwrap_or_default()),
                so_far: format!("{count} of {all} tasks have"),
            })
        }
    }
}

/// Services that depend on any of these.
pub fn dependents(view: &StoreView, changed: &BTreeSet<String>) -> BTreeSet<String> {
    let mut names: Option<BTreeSet<&str>> = None;
    let mut found = BTreeSet::new();
    for service in view.services() {
        if of(service).is_empty() {
            continue;
        }
        let names = names.get_or_insert_with(|| {
            changed.iter().filter_map(|id| view.service(id)).map(|s| service_name(s)).collect()
        });
        if of(service).iter().any(|p| names.contains(p.service.as_str())) {
            found.insert(service.id.clone());
        }
    }
    found
}

/// All that depend on something: whom the coming or going of a service may concern.
pub fn all(view: &StoreView) -> impl Iterator<Item = &str> {
    view.services().filter(|s| !of(s).is_empty()).map(|s| s.id.as_str())
}

/// The way round, if a service with this specification would wait for itself: "a, b, a".
pub fn cycle(view: &StoreView, id: &str, spec: &v1::ServiceSpec) -> Option<String> {
    let name = spec.annotations.as_ref().map_or("", |a| &a.name);
    let needed = |at: &str| {
        let other = || view.service_by_name(at).filter(|s| !s.removing && s.id != id);
        if at == name { listed(spec) } else { other().map(|s| of(s)).unwrap_or_default() }
    };
    // Breadth first: the shortest way, and no chain is too long.
    let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
    let mut next = VecDeque::from([name]);
    while let Some(at) = next.pop_front() {
        for to in needed(at).iter().map(|p| p.service.as_str()) {
            if to == name {
                let mut way = vec![to, at];
                while let Some(before) = way.last().and_then(|w| came_from.get(w)).copied() {
                    way.push(before);
                }
                way.reverse();
                return Some(way.join(", "));
            }
            if !came_from.contains_key(to) {
                came_from.insert(to, at);
                next.push_back(to);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::change::put;

    fn spec(name: &str, after: &[&str]) -> v1::ServiceSpec {
        let one = |s: &&str| v1::Prerequisite { service: (*s).to_owned(), ..Default::default() };
        v1::ServiceSpec {
            annotations: Some(v1::Annotations { name: name.to_owned(), ..Default::default() }),
            depends_on: Some(v1::Prerequisites { all: after.iter().map(one).collect() }),
            ..Default::default()
        }
    }

    #[test]
    fn the_way_round_is_told() {
        let mut view = StoreView::default();
        let there = [("a", vec!["b", "x"]), ("b", vec!["c"]), ("c", vec![]), ("x", vec!["gone"])];
        let services = there.map(|(name, after)| {
            let spec = Some(spec(name, &after));
            put(v1::Service { id: format!("id-{name}"), spec, ..Default::default() })
        });
        view.foresee(services.into(), 1);
        let way = |name: &str, after: &[&str]| cycle(&view, &format!("id-{name}"), &spec(name, after));
        assert_eq!(way("c", &[]), None);
        assert_eq!(way("c", &["x"]), None);
        assert_eq!(way("c", &["a"]).as_deref(), Some("c, a, b, c"));
        assert_eq!(way("b", &["a"]).as_deref(), Some("b, a, b"));
        assert_eq!(way("own", &["own"]).as_deref(), Some("own, own"));
        assert_eq!(way("gone", &["b", "a"]).as_deref(), Some("gone, a, x, gone"));
    }

    #[test]
    fn a_service_that_goes_hides_none_that_has_its_name_by_now() {
        let mut view = StoreView::default();
        let service = |id: &str, removing| {
            let spec = Some(spec("db", &["web"]));
            put(v1::Service { id: id.to_owned(), spec, removing, ..Default::default() })
        };
        view.foresee(vec![service("id-1", true), service("id-2", false)], 1);
        assert_eq!(view.service_by_name("db").map(|s| s.id.as_str()), Some("id-2"));
        assert_eq!(cycle(&view, "id-3", &spec("web", &["db"])).as_deref(), Some("web, db, web"));
    }
}
