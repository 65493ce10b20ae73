//! `--dry-run`: the requests that would change the swarm are kept instead of sent, and the managers are asked what
//! would come of all of them.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use hyper::Method;
use serde_json::{Value, json};

use super::api::{Api, Query};
use super::output::{Column, Listing, say, text};

/// A request that would change something.
#[derive(Clone, Copy)]
pub struct Change<'a> {
    /// `POST` or `DELETE`.
    pub method: &'a str,
    /// Without the API's version.
    pub path: &'a str,
    /// What is asked behind the path.
    pub query: &'a Query,
    /// What is sent.
    pub body: Option<&'a Value>,
    /// Value of `X-Registry-Auth`; empty = none.
    pub auth: &'a str,
}

/// What answers in the daemon's place.
pub trait Instead: Send + Sync {
    /// The answer to what would change something.
    fn change(&self, asked: Change<'_>) -> Result<Value>;

    /// What the daemon would say of a path if all of them had been done; `answer` is what it says.
    fn answer(&self, path: &str, answer: Result<Value>) -> Result<Value> {
        let _ = path;
        answer
    }

    /// Refuses what would reach the daemon all the same, and change something there.
    fn lets_through(&self, method: &Method, path: &str) -> Result<()> {
        let _ = (method, path);
        Ok(())
    }
}

/// What would be asked.
#[derive(Clone, Default)]
pub struct Plan(Arc<Mutex<Vec<Value>>>);

const COLUMNS: &[Column] =
    &[("After", "AFTER"), ("Act", "ACTION"), ("Task", "TASK"), ("Node", "NODE"), ("Why", "REASON")];
const TABLE: &str = "{{.After}}\t{{.Act}}\t{{.Task}}\t{{.Node}}\t{{.Why}}";

impl Instead for Plan {
    /// Keeps a request; answers as the daemon would, with the ID that what it makes is known by from then on.
    fn change(&self, Change { method, path, query, body, auth }: Change<'_>) -> Result<Value> {
        let mut requests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let id = format!("planned{}", requests.len());
        if moves_tasks(method, path) {
            requests.push(json!({
                "Method": method, "Path": format!("{path}{query}"), "Body": body, "Auth": auth, "ID": id,
            }));
        }
        Ok(json!({ "ID": id, "Id": id }))
    }
}

impl Plan {
    /// Asks what would come of it, and shows that.
    pub async fn show(&self, api: &Api) -> Result<()> {
        let requests = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let body = json!({ "Requests": requests });
        let found = api.call(Method::POST, "/plan", &Query::new(), Some(&body)).await?;
        let steps = found["Steps"].as_array().cloned().unwrap_or_default();
        if steps.is_empty() {
            return say!("No task would be started or stopped.");
        }
        let mut listing = Listing::new(COLUMNS, TABLE);
        for step in &steps {
            let slot = step["Slot"].as_u64().filter(|n| *n > 0).map(|n| format!(".{n}")).unwrap_or_default();
            let after = std::time::Duration::from_nanos(step["After"].as_u64().unwrap_or(0));
            listing.row(
                vec![
                    format!("{:.1}s", after.as_secs_f64()).into(),
                    text(step, "Act").into(),
                    format!("{}{slot}", text(step, "Service")).into(),
                    text(step, "Node").into(),
                    text(step, "Why").into(),
                ],
                &Value::Null,
            );
        }
        listing.print(false, None)?;
        if found["Complete"] == Value::Bool(false) {
            say!("It goes on for longer than that.")?;
        }
        Ok(())
    }
}

/// Whether tasks may come or go by a request. Labels of secrets, and what nothing uses any more, move none.
fn moves_tasks(method: &str, path: &str) -> bool {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match (method, parts.as_slice()) {
        ("DELETE", [kind, _]) => *kind == "services",
        ("POST", ["services", _, "rebalance"]) => true,
        ("POST", [kind, _, "update"]) => ["services", "nodes"].contains(kind),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_no_task_is_left_out_and_what_is_made_has_an_id() {
        let plan = Plan::default();
        let query = Query::new().with("version", "7");
        let change = |method: &str, path: &str, query: &Query, body: Option<&Value>, auth: &str| {
            plan.change(Change { method, path, query, body, auth }).expect("kept")
        };
        change("POST", "/secrets/abc/update", &query, None, "");
        change("DELETE", "/secrets/abc", &Query::new(), None, "");
        let network = change("POST", "/networks/create", &Query::new(), Some(&json!({"Name": "n"})), "");
        let service = change("POST", "/services/web/update", &query, Some(&json!({})), "a");
        assert_ne!(network["ID"], service["ID"]);
        let kept = plan.0.lock().expect("no panic").clone();
        assert_eq!(kept.len(), 2);
        assert_eq!(kept[0]["ID"], network["Id"]);
        assert_eq!(kept[1]["Path"], "/services/web/update?version=7");
        assert_eq!(kept[1]["Auth"], "a");
    }
}
