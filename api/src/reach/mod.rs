//! The containers of tasks from any manager: `exec`, `attach`, `cp`, `logs`, `stats`, `top` and their kin by a task's
//! name or ID, or by its container's ID. The manager that is asked finds the task's node, and sends the client's
//! request to that node's own API through a tunnel; the node takes there only what [`asked`] names, for the one
//! container the tunnel is for.
//!
//! An exec of such a container has an ID that says where it is (`TASK.EXEC`), so that every manager finds it.

mod admit;
mod forward;
mod lead;
mod resolve;

use axum::http::Method;

pub(crate) use admit::{Tunnelled, admit};
pub(crate) use lead::lead;

/// Between the two parts of an exec's ID.
const SEPARATOR: char = '.';

/// What a request wants, as far as it may be of another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked<'a> {
    /// `/containers/{name}/{operation}`
    Container { name: &'a str, operation: &'a str },
    /// `/exec/{id}/{operation}`
    Exec { id: &'a str, operation: &'a str },
}

/// What of the API reaches the tasks of other nodes: what looks into a container and talks to it. What starts, stops
/// or changes one is the service's business.
fn asked<'a>(method: &Method, path: &'a str) -> Option<Asked<'a>> {
    let mut parts = path.strip_prefix('/')?.splitn(3, '/');
    let (kind, name, operation) = (parts.next()?, parts.next()?, parts.next()?);
    match (kind, method.as_str(), operation) {
        ("containers", "GET", "json" | "logs" | "stats" | "top" | "attach/ws" | "archive")
        | ("containers", "HEAD" | "PUT", "archive")
        | ("containers", "POST", "exec" | "attach" | "resize" | "wait") => {
            Some(Asked::Container { name, operation })
        }
        ("exec", "GET", "json") | ("exec", "POST", "start" | "resize") => {
            Some(Asked::Exec { id: name, operation })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_into_a_container_may_travel_and_nothing_else() {
        let of = |method: &str, path| asked(&method.parse().expect("a method"), path);
        assert_eq!(
            of("GET", "/containers/web.1/json"),
            Some(Asked::Container { name: "web.1", operation: "json" })
        );
        assert_eq!(of("POST", "/exec/t.e/start"), Some(Asked::Exec { id: "t.e", operation: "start" }));
        for (method, path) in [
            ("GET", "/containers/json"),
            ("POST", "/containers/web.1/kill"),
            ("POST", "/containers/web.1/json"),
            ("DELETE", "/containers/web.1"),
            ("POST", "/containers/web.1/update"),
            ("POST", "/exec/t.e/json"),
            ("GET", "/containers/web.1/attach/ws/more"),
            ("GET", "/info"),
        ] {
            assert_eq!(of(method, path), None, "{method} {path}");
        }
    }
}
