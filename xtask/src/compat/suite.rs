//! Runs the tests one by one, each in a process of its own on the laboratory host, and judges the outcome by a list.

use std::collections::BTreeMap;
use std::process::{Output, Stdio};

use anyhow::{Context, Result, ensure};
use skep_e2e::Host;

use super::bollard::Test;

/// The tests that cannot pass, each with the reason: `name: reason`.
const CANNOT: &str = include_str!("cannot-pass.txt");

/// Longest time for one test, in seconds: none takes a tenth of it on an idle machine.
const LIMIT: &str = "180";

/// What came of all tests.
pub struct Outcome {
    pub all: usize,
    pub passed: usize,
    /// What contradicts the list.
    pub wrong: Vec<String>,
}

pub fn run(host: &Host, tests: &[Test], only: Option<&str>) -> Result<Outcome> {
    let mut cannot = listed()?;
    let mut outcome = Outcome { all: 0, passed: 0, wrong: Vec::new() };
    for test in tests {
        let reason = cannot.remove(test.name.as_str());
        if only.is_some_and(|part| !test.name.contains(part)) {
            continue;
        }
        outcome.all += 1;
        let output = one(host, test)?;
        let passed = output.status.success();
        outcome.passed += usize::from(passed);
        let said = || format!("{}{}", lossy(&output.stdout), lossy(&output.stderr));
        match (passed, reason) {
            (true, None) => println!("{} ... ok", test.name),
            (true, Some(reason)) => {
                println!("{} ... ok", test.name);
                outcome.wrong.push(format!(
                    "{} passes, and cannot-pass.txt has it ({reason}): take it out of the list",
                    test.name
                ));
            }
            (false, Some(reason)) => println!("{} ... cannot pass: {reason}", test.name),
            (false, None) => {
                println!("{} ... FAILED ({})\n{}", test.name, output.status, said());
                outcome.wrong.push(format!("{} failed", test.name));
            }
        }
        if only.is_some() {
            println!("{}", said());
        }
    }
    let gone = cannot.keys().map(|name| format!("cannot-pass.txt has {name}, which is no test"));
    outcome.wrong.extend(gone);
    Ok(outcome)
}

fn one(host: &Host, test: &Test) -> Result<Output> {
    let (_, name) = test.name.split_once("::").context("a test's name has its file's before it")?;
    // One of them has the path of Docker's own socket built in: it sees the host's there.
    let script = "mount -t tmpfs tmpfs /run && ln -s \"$0\" /run/docker.sock && exec timeout -k 5 \"$@\"";
    let mut command = host.command("unshare")?;
    command.args(["-m", "sh", "-c", script]).arg(host.socket());
    command.arg(LIMIT).arg(&test.program).args(["--exact", name]);
    command.env("DOCKER_HOST", host.docker_host()).stdin(Stdio::null());
    command.output().with_context(|| format!("run {}", test.name))
}

fn listed() -> Result<BTreeMap<&'static str, &'static str>> {
    let lines = CANNOT.lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
    let mut listed = BTreeMap::new();
    for line in lines {
        let (name, reason) = line.split_once(": ").with_context(|| format!("cannot-pass.txt: {line:?}"))?;
        ensure!(listed.insert(name, reason).is_none(), "cannot-pass.txt has {name} twice");
    }
    Ok(listed)
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
