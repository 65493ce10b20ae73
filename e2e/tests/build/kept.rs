//! How much of the cache stays by the limits of `builder prune`, and which part of it.

use std::fs;

use anyhow::{Result, ensure};
use skep_e2e::Host;

use crate::{builder, cached, docker_build, run};

const MEGABYTE: usize = 1_000_000;

#[test]
fn what_was_used_last_stays_up_to_the_limit() -> Result<()> {
    let (lab, context) = builder("bkeep")?;
    let host = lab.host(1);
    // A layer of a megabyte each, of a build of its own.
    let build = |name: &str| -> Result<usize> {
        fs::write(context.join(name), vec![name.as_bytes()[0]; MEGABYTE])?;
        fs::write(context.join("Dockerfile"), format!("FROM bb\nCOPY {name} /{name}\n"))?;
        let (ok, said) = run(docker_build(host, &[], &context))?;
        ensure!(ok, "{said}");
        Ok(cached(&said))
    };
    // Images without a name would keep the layers.
    let prune = |prune: fn(&Host, &[&str]) -> Result<String>, limit: &str| -> Result<String> {
        host.docker(&["image", "prune", "-f"])?;
        prune(host, &["builder", "prune", "-af", "--keep-storage", limit])
    };
    for client in [Host::docker as fn(&Host, &[&str]) -> Result<String>, Host::skep] {
        for name in ["a", "b", "c"] {
            ensure!(build(name)? == 0, "{name} is new");
        }
        // Used last: a, then c.
        ensure!(build("a")? == 1);
        let said = prune(client, "4m")?;
        ensure!(said.contains("Total reclaimed space: 0B"), "all of it is within the limit: {said}");
        let said = prune(client, "2500k")?;
        ensure!(said.contains("Total reclaimed space: 1MB"), "one goes: {said}");
        ensure!(build("c")? == 1 && build("a")? == 1, "those that were used last stay");
        ensure!(build("b")? == 0, "the other has gone");
        let said = prune(client, "1k")?;
        ensure!(said.contains("Total reclaimed space: 3MB"), "none of them is so small: {said}");
        let (ok, said) = {
            let mut command = host.skep_command();
            command.args(["builder", "prune", "-f", "--keep-storage", "much"]);
            run(command)?
        };
        ensure!(!ok && said.contains("much"), "{said}");
    }
    lab.down()
}

#[test]
fn a_step_stays_with_those_that_it_was_made_on() -> Result<()> {
    let (lab, context) = builder("bkeepon")?;
    let host = lab.host(1);
    let build = |lines: &str| -> Result<usize> {
        fs::write(context.join("Dockerfile"), format!("FROM bb\n{lines}"))?;
        let (ok, said) = run(docker_build(host, &[], &context))?;
        ensure!(ok, "{said}");
        host.docker(&["image", "prune", "-f"])?;
        Ok(cached(&said))
    };
    let makes = |name: &str, bytes: u32| format!("RUN busybox head -c {bytes} /dev/zero > /{name}\n");
    // Made anew, a step's layer has other times: none that was made on it is of use then.
    let two = makes("a", 1_000_000) + &makes("b", 1_000_000);
    ensure!(build(&two)? == 0 && build(&two)? == 2);
    host.docker(&["builder", "prune", "-af", "--keep-storage", "1500k"])?;
    ensure!(build(&two)? == 1, "the first is kept, though the second was used later");
    // Where the lower one is too much, the upper one goes too.
    host.docker(&["builder", "prune", "-af"])?;
    ensure!(build(&(makes("c", 2_000_000) + &makes("d", 1_000_000)))? == 0);
    let said = host.docker(&["builder", "prune", "-af", "--keep-storage", "1500k"])?;
    ensure!(said.contains("Total reclaimed space: 3MB"), "{said}");
    lab.down()
}

#[test]
fn limits_are_of_what_stays_at_most_and_at_least_and_of_what_is_free() -> Result<()> {
    let (lab, context) = builder("bkeeplim")?;
    let host = lab.host(1);
    // Three layers of a megabyte, of which one is an image's too.
    let build = |name: &str, tag: &[&str]| -> Result<usize> {
        fs::write(context.join(name), vec![name.as_bytes()[0]; MEGABYTE])?;
        fs::write(context.join("Dockerfile"), format!("FROM bb\nCOPY {name} /{name}\n"))?;
        let (ok, said) = run(docker_build(host, tag, &context))?;
        ensure!(ok, "{said}");
        Ok(cached(&said))
    };
    // What was asked for, and how many of two go; the one of an image takes no room.
    const NEVER: u64 = 1 << 60;
    for (limits, gone) in [
        (&[("max-used-space", 2_500_000)][..], 0),
        (&[("max-used-space", 1_500_000)], 1),
        (&[("reserved-space", 1_500_000)], 1),
        (&[("max-used-space", 1), ("reserved-space", 1_500_000)], 1),
        (&[("max-used-space", 1)], 2),
        (&[("min-free-space", 1)], 0),
        (&[("min-free-space", 1), ("max-used-space", 1_500_000)], 1),
        (&[("min-free-space", NEVER)], 2),
        (&[("min-free-space", NEVER), ("reserved-space", 1_500_000)], 1),
    ] {
        for by_api in [false, true] {
            build("a", &["-t", "named"])?;
            build("b", &[])?;
            build("c", &[])?;
            host.docker(&["image", "prune", "-f"])?;
            if by_api {
                let query: String = limits.iter().map(|(name, bytes)| format!("&{name}={bytes}")).collect();
                let answer = host.request("POST", &format!("/build/prune?all=1{query}"), "")?;
                let said: serde_json::Value = serde_json::from_str(&answer.body)?;
                let freed = said["SpaceReclaimed"].as_u64().unwrap_or_default();
                ensure!(answer.status == 200 && freed / 1_000_000 == gone, "{limits:?}: {}", answer.body);
            } else {
                let flags = limits.iter().map(|(name, bytes)| format!("--{name}={bytes}"));
                let said = host.skep_command().args(["builder", "prune", "-af"]).args(flags).output()?.stdout;
                let said = String::from_utf8_lossy(&said).into_owned();
                let freed = if gone == 0 { "0B".to_owned() } else { format!("{gone}MB") };
                ensure!(said.contains(&format!("reclaimed space: {freed}\n")), "{limits:?}: {said}");
            }
            let left = build("c", &[])?;
            ensure!(left == usize::from(gone < 2), "{limits:?}: what was used last stays");
        }
    }
    for (flag, value) in [("--max-used-space", "much"), ("--min-free-space", "-1")] {
        let mut command = host.skep_command();
        command.args(["builder", "prune", "-f", &format!("{flag}={value}")]);
        let (ok, said) = run(command)?;
        ensure!(!ok && said.contains(value) && said.contains(flag), "{said}");
    }
    let answer = host.request("POST", "/build/prune?min-free-space=-1", "")?;
    ensure!(answer.status == 400 && answer.body.contains("min-free-space"), "{}", answer.body);
    lab.down()
}
