//! An image of 300 MB from the node that has it to four others, over links of a set speed, against one plain copy of as
//! many bytes over such a link in the same run.

use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::json;
use skep_e2e::{Host, Lab, eventually};

use super::http::Client;
use super::peers::call;
use super::table::{Row, Target};
use super::{Setup, go_on, hosts};

const OTHERS: u32 = 4;
const BYTES: usize = 300_000_000;
const LAYERS: usize = 3;
/// Of each host's link, both ways: slow enough that this machine's processors are not what is measured.
const MEGABITS: u32 = 200;
const TURNS: usize = 3;
const PORT: &str = "9999";

pub fn run(setup: &Setup) -> Result<Vec<Row>> {
    let lab = hosts::lab(setup, OTHERS + 1)?;
    let mut clients = hosts::clients(&lab);
    hosts::swarm(&mut clients, &lab)?;
    for number in 1..=OTHERS + 1 {
        limit(&lab, number)?;
    }
    let (mut spread, mut copies) = (Vec::new(), Vec::new());
    for turn in 0..TURNS {
        copies.push(copy(lab.host(1), lab.host(2))?);
        spread.push(measure(&lab, &mut clients[0], turn)?);
        go_on()?;
    }
    let what = format!(
        "image of {} MB in {LAYERS} layers, from one node to {OTHERS} others over links of {MEGABITS} Mbit/s, unpacked",
        BYTES / 1_000_000
    );
    Ok(vec![Row::new(what, "s", spread, Target::RatioAtMost(1.5)).beside("one plain copy", copies)])
}

/// Sets the speed of a host's link, both ways.
fn limit(lab: &Lab, number: u32) -> Result<()> {
    let (rate, port) = (format!("{MEGABITS}mbit"), format!("p{number}"));
    let shape = |dev: &str| -> Vec<String> {
        let words =
            ["tc", "qdisc", "replace", "dev", dev, "root", "tbf", "rate", &rate, "burst", "256k", "latency"];
        words.into_iter().chain(["100ms"]).map(str::to_owned).collect()
    };
    let (own, switch) = (shape("eth0"), shape(&port));
    lab.host(number).exec(&own.iter().map(String::as_str).collect::<Vec<_>>())?;
    lab.outside(&switch.iter().map(String::as_str).collect::<Vec<_>>()).map(drop)
}

/// As many bytes over plain TCP.
fn copy(from: &Host, to: &Host) -> Result<f64> {
    let file = from.dir.join("bytes");
    std::fs::write(&file, vec![7; BYTES])?;
    let mut listener = to.command("/bin/busybox")?;
    // Kept open: the end of its input would be the end of all.
    let mut listener =
        listener.args(["nc", "-l", "-p", PORT]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    let input = listener.stdin.take();
    eventually("it listens", std::time::Duration::from_secs(10), || {
        let listening = to.exec(&["ss", "-Hltn", &format!("sport = :{PORT}")])?;
        anyhow::ensure!(!listening.is_empty(), "nothing listens");
        Ok(())
    })?;
    let began = Instant::now();
    let sending = from
        .command("/bin/busybox")?
        .args(["nc", &to.addr, PORT])
        .stdin(std::fs::File::open(&file)?)
        .stdout(Stdio::null())
        .spawn()?
        .wait();
    let ended = listener.wait();
    drop(input);
    sending?;
    ended?;
    let seconds = began.elapsed().as_secs_f64();
    std::fs::remove_file(&file)?;
    println!("one copy: {seconds:.2} s");
    Ok(seconds)
}

/// From the service's creation until all its tasks, one a node, run.
fn measure(lab: &Lab, client: &mut Client, turn: usize) -> Result<f64> {
    let (one, name) = (lab.host(1), format!("spread{turn}"));
    build(one, &name)?;
    let id = client.get(&format!("/images/{name}/json"))?["Id"].as_str().context("an ID")?.to_owned();
    let body = json!({
        "Name": name,
        "TaskTemplate": { "ContainerSpec": {
            "Image": format!("{name}:latest@{id}"),
            "StopGracePeriod": 100_000_000,
        } },
        "Mode": { "Global": {} },
    });
    let began = Instant::now();
    let answer = client.post("/services/create", Some(&body))?;
    let service = answer["ID"].as_str().context("an answer without an ID")?.to_owned();
    let seconds = hosts::until_running(client, &service, OTHERS as usize + 1, "", began)?;
    println!("{name}: {seconds:.2} s");
    hosts::remove_service(client, &service)?;
    for host in lab.hosts() {
        call(host.skep_command().args(["image", "prune", "-af"]))?;
        call(host.skep_command().args(["builder", "prune", "-af"]))?;
    }
    Ok(seconds)
}

/// Builds an image of busybox and random bytes.
fn build(host: &Host, name: &str) -> Result<()> {
    let context = host.dir.join("context");
    std::fs::create_dir_all(&context)?;
    std::fs::copy("/bin/busybox", context.join("busybox"))?;
    let mut dockerfile = "FROM scratch\nCOPY busybox /bin/\n".to_owned();
    for layer in 0..LAYERS {
        let mut random = std::io::Read::take(std::fs::File::open("/dev/urandom")?, (BYTES / LAYERS) as u64);
        std::io::copy(&mut random, &mut std::fs::File::create(context.join(format!("bytes{layer}")))?)?;
        dockerfile.push_str(&format!("COPY bytes{layer} /\n"));
    }
    dockerfile.push_str("CMD [\"/bin/busybox\", \"sleep\", \"100000\"]\n");
    std::fs::write(context.join("Dockerfile"), dockerfile)?;
    let mut command = host.skep_command();
    command.args(["build", "-q", "-t", name]).arg(&context);
    call(&mut command)?;
    Ok(std::fs::remove_dir_all(&context)?)
}
