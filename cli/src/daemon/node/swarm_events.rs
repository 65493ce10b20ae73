//! What happens to services, nodes, networks, secrets and configs of the swarm, told as this host's events: from this manager's copy
//! of the cluster's state, so that every manager tells of everything.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use skep_engine::Engine;
use skep_manager::store::{Diff, Event, Store, Update, dependency_word};
use skep_proto::v1::{self, service_spec::Mode};

/// Tells of changes from now on, until the store is gone.
pub(super) fn tell(engine: Engine, store: &Store) {
    // Changes carry the leader's time, which is near enough.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let since_ms = i64::try_from(now.as_millis()).unwrap_or(0);
    let (_, mut watch) = store.subscribe();
    tokio::spawn(async move {
        while let Some(update) = watch.next().await {
            // After a restart the log is applied once more: what is older than that was told of.
            let Update::Commit(commit) = update else { continue };
            if commit.view.at_ms < since_ms {
                continue;
            }
            for event in commit.events.iter() {
                if let Some((kind, action, id, attributes)) = read(event) {
                    engine.tell_swarm(kind, action, &id, attributes);
                }
            }
        }
    });
}

type Told = (&'static str, &'static str, String, BTreeMap<String, String>);

fn read(event: &Event) -> Option<Told> {
    match event {
        Event::Node(d) => node(d),
        Event::Service(d) => service(d),
        Event::Network(d) => {
            let n = d.latest();
            let annotations = n.spec.as_ref().and_then(|s| s.annotations.as_ref());
            let name = annotations.map(|a| a.name.clone()).unwrap_or_default();
            Some(("network", action(d), n.id.clone(), [("name".to_owned(), name)].into()))
        }
        Event::Dependency(d) => {
            let held = d.latest();
            let annotations = held.spec.as_ref().and_then(|s| s.annotations.as_ref());
            let name = annotations.map(|a| a.name.clone()).unwrap_or_default();
            let word = dependency_word(held.kind());
            Some((word, action(d), held.id.clone(), [("name".to_owned(), name)].into()))
        }
        _ => None,
    }
}

fn action<T>(d: &Diff<T>) -> &'static str {
    match (d.created(), d.removed()) {
        (true, _) => "create",
        (_, true) => "remove",
        _ => "update",
    }
}

/// Adds `NAME.old` and `NAME.new` where the two differ.
fn changed(name: &str, old: &str, new: &str, to: &mut BTreeMap<String, String>) {
    if old != new {
        to.insert(format!("{name}.old"), old.to_owned());
        to.insert(format!("{name}.new"), new.to_owned());
    }
}

fn node(d: &Diff<v1::Node>) -> Option<Told> {
    let n = d.latest();
    let name = n.description.as_ref().map(|d| d.hostname.clone()).unwrap_or_default();
    let mut attributes = BTreeMap::from([("name".to_owned(), name)]);
    if let (Some(old), Some(new)) = (&d.before, &d.after) {
        let parts = |n: &v1::Node| {
            let spec = n.spec.clone().unwrap_or_default();
            let leads = n.manager.as_ref().is_some_and(|m| m.leader);
            [
                ("state", n.state().as_str_name().to_owned()),
                ("availability", spec.availability().as_str_name().to_owned()),
                ("role", spec.role().as_str_name().to_owned()),
                ("leader", leads.to_string()),
            ]
        };
        let word = |s: &str| s.rsplit('_').next().unwrap_or_default().to_lowercase();
        for ((part, old), (_, new)) in parts(old).into_iter().zip(parts(new)) {
            changed(part, &word(&old), &word(&new), &mut attributes);
        }
        // Certificates and addresses are nobody's events.
        if attributes.len() == 1 && old.spec == new.spec {
            return None;
        }
    }
    Some(("node", action(d), n.id.clone(), attributes))
}

fn service(d: &Diff<v1::Service>) -> Option<Told> {
    let s = d.latest();
    let annotations = s.spec.as_ref().and_then(|s| s.annotations.as_ref());
    let name = annotations.map(|a| a.name.clone()).unwrap_or_default();
    let mut attributes = BTreeMap::from([("name".to_owned(), name)]);
    let (Some(old), Some(new)) = (&d.before, &d.after) else {
        // It was told of when its removal began.
        let told = d.removed() && s.removing;
        return (!told).then(|| ("service", action(d), s.id.clone(), attributes));
    };
    if new.removing {
        return (!old.removing).then(|| ("service", "remove", s.id.clone(), attributes));
    }
    let image = |s: &v1::Service| {
        let container = s.spec.as_ref().and_then(|s| s.task.as_ref()).and_then(|t| t.container.as_ref());
        container.map(|c| c.image.clone()).unwrap_or_default()
    };
    let replicas = |s: &v1::Service| match s.spec.as_ref().and_then(|s| s.mode.as_ref()) {
        Some(Mode::Replicated(r)) => r.replicas.to_string(),
        _ => String::new(),
    };
    let state = |s: &v1::Service| {
        let state = s.update_status.as_ref().map(|u| u.state().as_str_name().to_lowercase());
        state.map(|s| s.trim_start_matches("update_state_").to_owned()).unwrap_or_default()
    };
    changed("image", &image(old), &image(new), &mut attributes);
    changed("replicas", &replicas(old), &replicas(new), &mut attributes);
    changed("updatestate", &state(old), &state(new), &mut attributes);
    if attributes.len() == 1 && old.spec == new.spec {
        return None;
    }
    Some(("service", "update", s.id.clone(), attributes))
}
