//! Benches that live beside their code and are run by cargo: their output is read.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::table::{Row, Target};
use crate::build;

/// Runs a bench, shows its output and returns it.
fn bench(package: &str, name: &str, args: &[&str]) -> Result<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["bench", "--quiet", "-p", package, "--bench", name, "--"]).args(args);
    let mut child = command.current_dir(build::root()).stdout(Stdio::piped()).spawn().context("run cargo")?;
    let mut all = String::new();
    for line in BufReader::new(child.stdout.take().context("no output")?).lines() {
        let line = line?;
        println!("{line}");
        all.push_str(&line);
        all.push('\n');
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("cargo bench -p {package} --bench {name} failed ({status})");
    }
    Ok(all)
}

/// TCP between two hosts through the tunnel, Debian's wireguard-go and the bare link.
pub fn overlay() -> Result<Vec<Row>> {
    let text = bench("skep-overlay", "tunnel", &["5", "5"])?;
    let mut rows = Vec::new();
    for part in text.split(" TCP stream(s)").skip(1).zip(["1 stream", "4 streams"]) {
        let rates = |way: &str| rates(part.0, way);
        let what = format!("overlay TCP between two hosts, {}", part.1);
        let (ours, link) = (rates("skep wireguard")?, rates("bare link")?);
        rows.push(
            Row::new(&what, "Gbit/s", ours.clone(), Target::RatioAtLeast(2.0))
                .beside("wireguard-go", rates("wireguard-go")?),
        );
        rows.push(Row::new(what, "Gbit/s", ours, Target::None).beside("bare link", link));
    }
    Ok(rows)
}

/// The single rates of a line like `  wireguard-go   0.31 0.28 median 0.31`.
fn rates(text: &str, way: &str) -> Result<Vec<f64>> {
    let line = text.lines().find_map(|l| l.trim_start().strip_prefix(way));
    let line = line.with_context(|| format!("no line {way:?} in {text:?}"))?;
    let (rates, _) = line.split_once("median").with_context(|| format!("no median in {line:?}"))?;
    rates.split_whitespace().map(|r| r.parse().with_context(|| format!("rate {r:?}"))).collect()
}

/// Placement, whose bench prints its own table (see `manager/benches/scheduler.rs` for the targets).
pub fn scheduler() -> Result<Vec<Row>> {
    bench("skep-manager", "scheduler", &[]).map(|_| Vec::new())
}
