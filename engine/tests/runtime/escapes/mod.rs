//! The known ways out of a container, tried from inside by `examples/escape`: each is refused under the default
//! profile, and goes through where the user lifts what keeps it back, so that the probe is known to work.

mod calls;
mod files;
mod mounts;
mod processes;

use std::collections::BTreeMap;

use futures::StreamExt;
use skep_engine::shim::{ExecEvent, ExecSpec, Shim, ShimSpec};

use crate::fixture::{Bundle, helper};

/// What came of each probe.
type Told = BTreeMap<String, String>;

fn told(text: &str) -> Told {
    let pairs = text.lines().filter_map(|l| l.split_once(' '));
    pairs.map(|(probe, result)| (probe.to_owned(), result.trim().to_owned())).collect()
}

/// A container that has the probes and runs `argv`.
fn container(argv: &[&str], change: impl FnOnce(&mut ShimSpec)) -> Bundle {
    let mut bundle = Bundle::new(argv);
    let program = helper().with_file_name("escape");
    std::fs::copy(program, bundle.path("lower/bin/escape")).expect("the probes are built with the tests");
    change(&mut bundle.spec);
    bundle
}

/// Runs probes as the command of a container.
async fn tried(probes: &[&str], change: impl FnOnce(&mut ShimSpec)) -> Told {
    let bundle = container(&[&["escape"], probes].concat(), change);
    let (code, text) = bundle.output().await;
    assert_eq!(code, 0, "{text}");
    let found = told(&text);
    assert_eq!(found.len(), probes.len(), "each probe tells one line: {text}");
    found
}

/// Runs probes as a further command of a container that runs.
async fn executed(shim: &Shim, probes: &[&str], cwd: &str) -> Result<Told, String> {
    let argv = [&["escape"], probes].concat().into_iter().map(str::to_owned).collect();
    let spec = ExecSpec { id: "probes".into(), argv, cwd: cwd.into(), ..ExecSpec::default() };
    output(shim, spec).await.map(|text| told(&text))
}

/// Runs a further command to its end.
async fn output(shim: &Shim, spec: ExecSpec) -> Result<String, String> {
    let mut exec = shim.exec(&spec).await.map_err(|e| e.to_string())?;
    let mut text = Vec::new();
    while let Some(event) = exec.output.next().await {
        match event.map_err(|e| e.to_string())? {
            ExecEvent::Output(_, bytes) => text.extend_from_slice(&bytes),
            ExecEvent::Ended(_) => break,
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn privileged(spec: &mut ShimSpec) {
    spec.privileged = true;
}

/// Those that did not end as expected.
fn others<'a>(found: &'a Told, expected: &[&str]) -> Vec<(&'a String, &'a String)> {
    found.iter().filter(|(_, result)| !expected.contains(&result.as_str())).collect()
}

/// Those that did.
fn these<'a>(found: &'a Told, result: &str) -> Vec<&'a String> {
    found.iter().filter(|(_, r)| *r == result).map(|(probe, _)| probe).collect()
}
