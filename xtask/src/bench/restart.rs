//! A daemon that is killed and started again: how long its containers are without names.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use skep_e2e::Host;

use super::http::Client;
use super::table::{Row, Target};
use super::{go_on, hosts};

/// Times the daemon is killed.
const KILLS: usize = 10;
const LONG: Duration = Duration::from_secs(20);

/// From the start of the new daemon until a container's name server answers.
pub fn names(host: &Host) -> Result<Row> {
    let mut api = hosts::client(host);
    api.post("/networks/create", Some(&json!({ "Name": "names" })))?;
    let web = start(&mut api, "web")?;
    let asks = start(&mut api, "asks")?;
    let pid = api.get(&format!("/containers/{asks}/json"))?["State"]["Pid"].to_string();
    let query = ["nsenter", "-t", &pid, "-n", "busybox", "nslookup", "web", "127.0.0.11"];
    host.exec(&query).context("names before the daemon is killed")?;
    let mut times = Vec::new();
    for _ in 0..KILLS {
        host.stop_daemon("-KILL")?;
        ensure!(host.exec(&query).is_err(), "names are answered without a daemon");
        let began = Instant::now();
        let answered = std::thread::scope(|scope| {
            // Asks without the daemon's help; nobody listens until it does, so each refusal comes at once.
            let answered = scope.spawn(|| {
                while let Err(e) = host.exec(&query) {
                    ensure!(began.elapsed() < LONG, "names are not answered: {e:#}");
                }
                Ok::<_, anyhow::Error>(began.elapsed().as_secs_f64())
            });
            host.start_daemon()?;
            answered.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the asking thread panicked")))
        })?;
        println!("names after {answered:.3} s");
        times.push(answered);
        go_on()?;
    }
    let mut api = hosts::client(host);
    for id in [web, asks] {
        api.delete(&format!("/containers/{id}?force=1"))?;
    }
    Ok(Row::new("daemon killed and started: until names are answered", "s", times, Target::P95(1.0)))
}

fn start(api: &mut Client, name: &str) -> Result<String> {
    let body =
        json!({ "Image": "bb", "Cmd": ["sleep", "1000000"], "HostConfig": { "NetworkMode": "names" } });
    let created = api.post(&format!("/containers/create?name={name}"), Some(&body))?;
    let id = created["Id"].as_str().context("no ID")?.to_owned();
    api.post(&format!("/containers/{id}/start"), None)?;
    Ok(id)
}
