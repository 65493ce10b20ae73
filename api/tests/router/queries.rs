//! Query strings that nobody meant, to every operation there is: each is answered, by a 4xx where it is not understood,
//! and the daemon lives on. `PROPTEST_CASES=N` looks longer.

use std::time::Duration;

use axum::body::Body;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::json;

use super::{Client, root_file_system, with_daemon};

/// Those that read a query or may come to. Not among them: what starts a process, which this test's binary is no shim for,
/// and what asks another host.
const OPERATIONS: &[(&str, &str)] = &[
    ("GET", "/_ping"),
    ("GET", "/version"),
    ("GET", "/info"),
    ("GET", "/events"),
    ("GET", "/system/df"),
    ("POST", "/commit"),
    ("POST", "/build/prune"),
    ("GET", "/containers/json"),
    ("POST", "/containers/create"),
    ("POST", "/containers/prune"),
    ("DELETE", "/containers/gone"),
    ("GET", "/containers/cc/archive"),
    ("HEAD", "/containers/cc/archive"),
    ("PUT", "/containers/cc/archive"),
    ("POST", "/containers/cc/attach"),
    ("GET", "/containers/cc/attach/ws"),
    ("GET", "/containers/cc/changes"),
    ("GET", "/containers/cc/export"),
    ("GET", "/containers/cc/json"),
    ("POST", "/containers/cc/kill"),
    ("GET", "/containers/cc/logs"),
    ("POST", "/containers/cc/pause"),
    ("POST", "/containers/gone/rename"),
    ("POST", "/containers/cc/resize"),
    ("GET", "/containers/cc/stats"),
    ("POST", "/containers/cc/stop"),
    ("GET", "/containers/cc/top"),
    ("POST", "/containers/cc/wait"),
    ("POST", "/exec/x/resize"),
    ("GET", "/images/json"),
    ("GET", "/images/get"),
    ("GET", "/images/i/get"),
    ("GET", "/images/i/json"),
    ("GET", "/images/i/history"),
    ("GET", "/images/i/attestations"),
    ("POST", "/images/i/tag"),
    ("DELETE", "/images/gone"),
    ("POST", "/images/load"),
    ("POST", "/images/prune"),
    ("GET", "/networks"),
    ("GET", "/networks/bridge"),
    ("POST", "/networks/prune"),
    ("GET", "/nodes"),
    ("POST", "/nodes/n/update"),
    ("GET", "/services"),
    ("GET", "/services/s"),
    ("GET", "/services/s/logs"),
    ("POST", "/services/s/update"),
    ("POST", "/swarm/update"),
    ("POST", "/swarm/leave"),
    ("GET", "/tasks"),
    ("GET", "/tasks/t/logs"),
    ("GET", "/volumes"),
    ("DELETE", "/volumes/v"),
    ("POST", "/volumes/prune"),
];

const NAMES: &[&str] = &[
    "all",
    "size",
    "limit",
    "filters",
    "name",
    "platform",
    "follow",
    "stdout",
    "stderr",
    "since",
    "until",
    "timestamps",
    "tail",
    "details",
    "stream",
    "stdin",
    "logs",
    "detachKeys",
    "one-shot",
    "ps_args",
    "signal",
    "t",
    "h",
    "w",
    "condition",
    "force",
    "v",
    "link",
    "path",
    "noOverwriteDirNonDir",
    "copyUIDGID",
    "container",
    "repo",
    "tag",
    "comment",
    "author",
    "pause",
    "changes",
    "names",
    "noprune",
    "quiet",
    "verbose",
    "scope",
    "version",
    "status",
    "insertDefaults",
    "rollback",
    "registryAuthFrom",
    "rotateWorkerToken",
    "type",
    "digests",
    "manifests",
    "statement",
];

const VALUES: &[&str] = &[
    "",
    "0",
    "1",
    "true",
    "false",
    "-1",
    "all",
    "99999999999999999999",
    "1e400",
    "NaN",
    "ctrl-a,b",
    "ctrl-",
    "/",
    "..",
    "/etc/../..",
    "/etc/hello",
    "running",
    "linux/amd64",
    "{}",
    "[]",
    "{\"label\":[\"a=b\"]}",
    "{\"label\":{\"a\":true}}",
    "{\"until\":[\"1h\"]}",
    "{\"dangling\":[\"maybe\"]}",
    "{\"id\":3}",
    "{\"name\":[",
    "2024-01-02T03:04:05Z",
    "10m",
    "SIGKILL",
    "SIGNOTHING",
    "CMD x",
    "ENV",
    "-ef",
    "%00",
    "%ff",
    "+",
    "a&b",
    "next-exit",
    "removed",
    "swarm",
    "i:x",
];

/// A query: names that mean something here and there, values too, and either as anything at all.
fn query() -> impl Strategy<Value = String> {
    let text = |known: &'static [&'static str]| {
        prop_oneof![
            6 => prop::sample::select(known).prop_map(escaped),
            1 => "\\PC{0,12}".prop_map(|t: String| escaped(&t)),
            // As it is, as far as it can stand in a request's first line.
            1 => "[!-~&&[^#]]{0,12}",
        ]
    };
    prop::collection::vec((text(NAMES), text(VALUES)), 0..5)
        .prop_map(|pairs| pairs.into_iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join("&"))
}

fn escaped(text: &str) -> String {
    text.bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

impl Client {
    /// The status of an answer, whatever follows it.
    async fn status(&self, method: &Method, path: &str) -> Option<u16> {
        let request =
            Request::builder().method(method).uri(path).header("Host", "skep").body(Body::empty()).ok()?;
        let stream = tokio::net::UnixStream::connect(&self.0).await.expect("the daemon listens");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
        let talk = tokio::spawn(connection);
        let answer = tokio::time::timeout(Duration::from_secs(60), sender.send_request(request)).await;
        let status =
            answer.unwrap_or_else(|_| panic!("{method} {path}: no answer")).map(|a| a.status().as_u16());
        talk.abort();
        Some(status.unwrap_or_else(|e| panic!("{method} {path}: {e}")))
    }
}

#[test]
fn every_query_is_answered_and_never_by_a_failure() {
    with_daemon("rq", |client| async move {
        let mut runner = TestRunner::default();
        let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(16);
        for _ in 0..cases {
            // What a prune or a removal took away before is there again.
            let (status, _) =
                client.ask(Method::POST, "/images/create?fromSrc=-&repo=i", root_file_system()).await;
            assert_eq!(status, 200);
            let (status, _) =
                client.post("/containers/create?name=cc", json!({"Image": "i", "Cmd": ["x"]})).await;
            assert!(matches!(status, 201 | 409), "{status}");
            for (method, path) in OPERATIONS {
                let query = query().new_tree(&mut runner).expect("a query").current();
                let path = format!("{path}?{query}");
                let status = client.status(&method.parse().expect("a method"), &path).await.unwrap_or(400);
                // Without a swarm, services have no other answer than Docker's 503.
                let fine = status < 500 || matches!(status, 501 | 503);
                assert!(fine, "{method} {path}: {status}");
            }
        }
        assert_eq!(client.get("/_ping").await.0, 200, "the daemon lives on");
    });
}
