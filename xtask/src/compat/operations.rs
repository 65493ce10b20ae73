//! Which operations of the Engine API a running daemon has: each is asked for, with something that is not there.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use skep_e2e::Host;

/// The 94 operations of API 1.50 without plugins, the build session and attaching over a websocket.
const OPERATIONS: &str = "
GET /containers/json
POST /containers/create
GET /containers/none/json
GET /containers/none/top
GET /containers/none/logs?stdout=1
GET /containers/none/changes
GET /containers/none/export
GET /containers/none/stats
POST /containers/none/resize?h=1&w=1
POST /containers/none/start
POST /containers/none/stop
POST /containers/none/restart
POST /containers/none/kill
POST /containers/none/update
POST /containers/none/rename?name=x
POST /containers/none/pause
POST /containers/none/unpause
POST /containers/none/attach?stream=1&stdout=1
POST /containers/none/wait
DELETE /containers/none
HEAD /containers/none/archive?path=/
GET /containers/none/archive?path=/
PUT /containers/none/archive?path=/
POST /containers/prune
GET /images/json
POST /build
POST /build/prune
POST /images/create
GET /images/none/json
GET /images/none/history
POST /images/none/push
POST /images/none/tag?repo=x
DELETE /images/none
GET /images/search
POST /images/prune
POST /commit?container=none
GET /images/none/get
GET /images/get?names=none
POST /images/load
POST /auth
GET /info
GET /version
HEAD /_ping
GET /_ping
GET /events?since=1&until=2
GET /system/df
POST /containers/none/exec
POST /exec/none/start
POST /exec/none/resize?h=1&w=1
GET /exec/none/json
GET /volumes
POST /volumes/create
GET /volumes/none
PUT /volumes/none?version=1
DELETE /volumes/none
POST /volumes/prune
GET /networks
GET /networks/none
DELETE /networks/none
POST /networks/create
POST /networks/none/connect
POST /networks/none/disconnect
POST /networks/prune
GET /swarm
POST /swarm/init
POST /swarm/join
POST /swarm/leave
POST /swarm/update
GET /swarm/unlockkey
POST /swarm/unlock
GET /nodes
GET /nodes/none
DELETE /nodes/none
POST /nodes/none/update?version=1
GET /services
POST /services/create
GET /services/none
DELETE /services/none
POST /services/none/update?version=1
GET /services/none/logs?stdout=1
GET /tasks
GET /tasks/none
GET /tasks/none/logs?stdout=1
GET /secrets
POST /secrets/create
GET /secrets/none
DELETE /secrets/none
POST /secrets/none/update?version=1
GET /configs
POST /configs/create
GET /configs/none
DELETE /configs/none
POST /configs/none/update?version=1
GET /distribution/127.0.0.1:1/none/json
";

/// What the daemon answered.
pub struct Outcome {
    pub all: usize,
    pub there: usize,
    /// Method and path of each operation that is not there.
    pub missing: Vec<String>,
}

/// Asks for each operation. None of the requests makes or removes anything that a test has.
pub fn ask(host: &Host) -> Result<Outcome> {
    // What no daemon has must be told from what this one has.
    ensure!(
        !there(host, "GET", "/none").context("GET /none")?,
        "a path that is none of Docker's is answered"
    );
    let mut outcome = Outcome { all: 0, there: 0, missing: Vec::new() };
    for operation in OPERATIONS.lines().filter(|l| !l.is_empty()) {
        let (method, path) = operation.split_once(' ').context("an operation is a method and a path")?;
        outcome.all += 1;
        match there(host, method, path).with_context(|| operation.to_owned())? {
            true => outcome.there += 1,
            false => outcome.missing.push(format!("{method} {}", path.split('?').next().unwrap_or(path))),
        }
    }
    Ok(outcome)
}

/// Whether there is an operation behind a route: not "page not found", not 501, and not a kind of object that is
/// only said to have no members because it is not kept yet.
fn there(host: &Host, method: &str, path: &str) -> Result<bool> {
    let mut stream = UnixStream::connect(host.socket())?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    // No document: nothing is made, begun or changed by it.
    let body = if matches!(method, "POST" | "PUT") { "[" } else { "" };
    write!(
        stream,
        "{method} /v1.50{path} HTTP/1.1\r\nHost: skep\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).with_context(|| format!("answered {answer:?}"))?;
    Ok(status != "501" && !answer.contains("page not found") && !answer.contains("version of Skep yet"))
}
