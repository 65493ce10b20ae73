//! `--dry-run`: nothing is changed. What would change something is kept here instead of being sent, and what the daemon
//! says afterwards is told as if it had been done, so that all that comes after goes on from there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use hyper::Method;
use serde_json::{Map, Value, json};

use super::super::api::decode;
use super::super::dry_run::{Change, Instead};

/// Cheap handle.
#[derive(Clone, Default)]
pub struct Rehearsal(Arc<Mutex<State>>);

/// What would be there.
#[derive(Default)]
struct State {
    /// Containers as a list shows them, by their IDs.
    made: BTreeMap<String, Value>,
    /// What has changed of a container that is there: fields as a list shows them.
    changed: BTreeMap<String, Map<String, Value>>,
    gone: BTreeSet<String>,
    /// Networks and volumes, as `networks/NAME`.
    things: BTreeMap<String, Value>,
    images: BTreeSet<String>,
}

/// Begins the IDs of what is not there.
const ID: &str = "dry-run-";

impl Rehearsal {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An image would have been built or pulled.
    pub fn has_image(&self, image: &str) {
        self.state().images.insert(image.to_owned());
    }
}

/// Parts of a path, as they were before they were encoded.
fn parts(path: &str) -> Vec<String> {
    path.split('/').filter(|p| !p.is_empty()).map(decode).collect()
}

/// What is told to do something that cannot be told without being done.
fn refused(method: &str, path: &str) -> anyhow::Error {
    anyhow::anyhow!("--dry-run does not go with this command: it would ask the daemon for {method} {path}")
}

impl Instead for Rehearsal {
    fn change(&self, Change { method, path, query, body, auth: _ }: Change<'_>) -> Result<Value> {
        let mut state = self.state();
        let parts = parts(path);
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let field = |name: &str| body.and_then(|b| b[name].as_str()).unwrap_or_default().to_owned();
        match (method, parts.as_slice()) {
            ("POST", ["containers", "create"]) => {
                let name = query.get("name").unwrap_or_default();
                let id = format!("{ID}{name}");
                let body = body.unwrap_or(&Value::Null);
                let made = json!({
                    "Id": id, "Names": [format!("/{name}")], "Labels": body["Labels"], "Image": body["Image"],
                    "State": "created", "NetworkSettings": { "Networks": {} },
                });
                state.made.insert(id.clone(), made);
                return Ok(json!({ "Id": id, "Warnings": [] }));
            }
            ("POST", ["containers", id, verb]) => match *verb {
                "start" | "restart" | "unpause" => state.set(id, "State", "running".into()),
                "stop" | "kill" => state.set(id, "State", "exited".into()),
                "pause" => state.set(id, "State", "paused".into()),
                "rename" => {
                    let name = query.get("name").unwrap_or_default();
                    state.set(id, "Names", json!([format!("/{name}")]));
                }
                _ => return Err(refused(method, path)),
            },
            ("DELETE", ["containers", id]) => {
                if state.made.remove(*id).is_none() {
                    state.gone.insert((*id).to_owned());
                }
            }
            ("POST", [kind @ ("networks" | "volumes"), "create"]) => {
                let name = field("Name");
                let made = json!({
                    "Id": format!("{ID}{name}"), "Name": name, "Labels": body.map(|b| &b["Labels"]),
                });
                state.things.insert(format!("{kind}/{name}"), made.clone());
                return Ok(made);
            }
            ("DELETE", ["images", name]) => drop(state.images.remove(*name)),
            ("POST", ["networks", _, "disconnect"]) | ("DELETE", ["networks" | "volumes", _]) => {}
            _ => return Err(refused(method, path)),
        }
        Ok(Value::Null)
    }

    fn answer(&self, path: &str, answer: Result<Value>) -> Result<Value> {
        let state = self.state();
        let parts = parts(path);
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        match parts.as_slice() {
            ["containers", "json"] => {
                let mut list = answer?.as_array().cloned().unwrap_or_default();
                list.retain(|c| c["Id"].as_str().is_none_or(|id| !state.gone.contains(id)));
                for container in &mut list {
                    let id = container["Id"].as_str().unwrap_or_default().to_owned();
                    for (field, value) in state.changed.get(&id).into_iter().flatten() {
                        container[field] = value.clone();
                    }
                }
                list.extend(state.made.values().cloned());
                Ok(list.into())
            }
            ["containers", id, "json"] if state.made.contains_key(*id) => Ok(
                json!({ "Id": id, "Config": {}, "State": { "Status": "running", "Running": true }, "Mounts": [] }),
            ),
            ["images", name, "json"] if state.images.contains(*name) => {
                Ok(json!({ "Id": format!("{ID}{name}"), "RepoTags": [name], "Config": {} }))
            }
            [kind @ ("networks" | "volumes"), name] => match state.things.get(&format!("{kind}/{name}")) {
                Some(made) => Ok(made.clone()),
                None => answer,
            },
            _ => answer,
        }
    }

    fn lets_through(&self, method: &Method, path: &str) -> Result<()> {
        if matches!(*method, Method::GET | Method::HEAD) {
            return Ok(());
        }
        Err(refused(method.as_str(), path))
    }
}

impl State {
    /// Changes a field of a container, as a list shows it.
    fn set(&mut self, id: &str, field: &str, value: Value) {
        match self.made.get_mut(id) {
            Some(made) => made[field] = value,
            None => {
                self.changed.entry(id.to_owned()).or_default().insert(field.to_owned(), value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::api::Query;
    use super::*;

    #[test]
    fn what_would_be_done_is_told_as_if_it_had_been() {
        let rehearsal = Rehearsal::default();
        let post = |path: &str, query: Query, body: Value| {
            rehearsal
                .change(Change { method: "POST", path, query: &query, body: Some(&body), auth: "" })
                .expect("kept")
        };
        let missing = || Err(anyhow::anyhow!("no such thing"));
        assert!(rehearsal.answer("/images/a%2Fb%3A1/json", missing()).is_err());
        rehearsal.has_image("a/b:1");
        assert!(rehearsal.answer("/images/a%2Fb%3A1/json", missing()).is_ok());
        let made = post(
            "/containers/create",
            Query::new().with("name", "p-web-1"),
            json!({ "Labels": { "l": "1" } }),
        );
        let id = made["Id"].as_str().expect("an ID").to_owned();
        post(&format!("/containers/{id}/start"), Query::new(), Value::Null);
        post("/containers/old/stop", Query::new(), Value::Null);
        post("/containers/old/rename", Query::new().with("name", "p-old 2"), Value::Null);
        let none = Query::new();
        let bare = |method, path| Change { method, path, query: &none, body: None, auth: "" };
        rehearsal.change(bare("DELETE", "/containers/gone")).expect("kept");
        let there = json!([
            { "Id": "old", "Names": ["/p-old-1"], "State": "running" },
            { "Id": "gone", "Names": ["/p-gone-1"], "State": "running" },
        ]);
        let list = rehearsal.answer("/containers/json", Ok(there)).expect("a list");
        let shown: Vec<_> =
            list.as_array().expect("a list").iter().map(|c| (&c["Names"][0], &c["State"])).collect();
        assert_eq!(shown, [(&json!("/p-old 2"), &json!("exited")), (&json!("/p-web-1"), &json!("running"))]);
        post("/networks/create", Query::new(), json!({ "Name": "p_default" }));
        assert!(rehearsal.answer("/networks/p_default", missing()).is_ok());
        assert!(rehearsal.answer("/volumes/p_default", missing()).is_err());
        assert!(rehearsal.lets_through(&Method::GET, "/events").is_ok());
        assert!(rehearsal.lets_through(&Method::POST, "/build").is_err());
        assert!(rehearsal.change(bare("POST", "/containers/old/exec")).is_err());
    }
}
