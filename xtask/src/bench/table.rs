//! Samples, their medians, and the table of them beside peers and targets.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::build;

/// What Skep has promised of a figure.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// The median is at most this.
    Median(f64),
    /// 95 of 100 are at most this.
    P95(f64),
    /// At most this part of the peer's median.
    RatioAtMost(f64),
    /// At least this many times the peer's median.
    RatioAtLeast(f64),
    /// Nothing was promised.
    None,
}

/// One figure, with the peer's in the same run where there is one.
#[derive(Clone, Debug)]
pub struct Row {
    pub what: String,
    pub unit: &'static str,
    pub ours: Vec<f64>,
    pub peer: Option<(String, Vec<f64>)>,
    pub target: Target,
    /// Load average before and after.
    pub load: String,
}

impl Row {
    /// A row without its load, which the caller knows.
    pub fn new(what: impl Into<String>, unit: &'static str, ours: Vec<f64>, target: Target) -> Self {
        Self { what: what.into(), unit, ours, peer: None, target, load: String::new() }
    }

    /// Beside a peer; left out when the peer was not measured.
    pub fn beside(mut self, name: &str, values: Vec<f64>) -> Self {
        if !values.is_empty() {
            self.peer = Some((name.to_owned(), values));
        }
        self
    }

    fn ratio(&self) -> Option<f64> {
        let (_, theirs) = self.peer.as_ref()?;
        Some(median(&self.ours) / median(theirs))
    }

    /// The target in words, and whether it was met.
    fn verdict(&self) -> (String, &'static str) {
        let say = |met| if met { "met" } else { "missed" };
        match self.target {
            Target::Median(most) => {
                (format!("median <= {most} {}", self.unit), say(median(&self.ours) <= most))
            }
            Target::P95(most) => {
                (format!("p95 <= {most} {}", self.unit), say(quantile(&self.ours, 0.95) <= most))
            }
            Target::RatioAtMost(most) => {
                (format!("ratio <= {most}"), self.ratio().map_or("no peer", |r| say(r <= most)))
            }
            Target::RatioAtLeast(least) => {
                (format!("ratio >= {least}"), self.ratio().map_or("no peer", |r| say(r >= least)))
            }
            Target::None => (String::new(), ""),
        }
    }
}

/// Milliseconds that `f` takes.
pub fn timed<T>(f: impl FnOnce() -> Result<T>) -> Result<f64> {
    let began = Instant::now();
    f()?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

/// The middle one; of an even number the mean of the two in the middle.
pub fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => f64::NAN,
        (n, middle) if n % 2 == 0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
        (_, middle) => sorted[middle],
    }
}

/// The smallest value that at least `part` of all do not exceed.
pub fn quantile(values: &[f64], part: f64) -> f64 {
    let sorted = sorted(values);
    let at = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// One-minute load average of the machine.
pub fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}

/// Three significant figures.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// All rows as a table.
pub fn markdown(rows: &[Row]) -> String {
    let mut out = String::from(
        "| what | Skep: median (p95) of n | peer: median (p95) of n | ratio | target | | load |\n|---|---|---|---|---|---|---|\n",
    );
    let figure = |values: &[f64], unit: &str| {
        let (middle, most) = (number(median(values)), number(quantile(values, 0.95)));
        match values.len() {
            1 => format!("{middle} {unit}"),
            n => format!("{middle} ({most}) {unit} of {n}"),
        }
    };
    for row in rows {
        let peer =
            row.peer.as_ref().map_or_else(String::new, |(name, v)| format!("{name} {}", figure(v, row.unit)));
        let ratio = row.ratio().map_or_else(String::new, number);
        let (target, met) = row.verdict();
        let ours = figure(&row.ours, row.unit);
        // Writing to a String cannot fail.
        let _ =
            writeln!(out, "| {} | {ours} | {peer} | {ratio} | {target} | {met} | {} |", row.what, row.load);
    }
    out
}

/// Keeps the table, and all single values beside it, in `target/bench/`.
pub fn write(rows: &[Row]) -> Result<PathBuf> {
    let directory = build::target().join("bench");
    std::fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
    let values = |list: &[f64]| list.iter().map(|v| format!("{v:.3}")).collect::<Vec<_>>().join(" ");
    let mut text = markdown(rows);
    text.push_str("\nSingle values, in the order measured:\n\n");
    for row in rows {
        let _ = writeln!(text, "- {} ({}): Skep {}", row.what, row.unit, values(&row.ours));
        if let Some((name, theirs)) = &row.peer {
            let _ = writeln!(text, "  {name} {}", values(theirs));
        }
    }
    let path = directory.join("results.md");
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_quantiles_and_verdicts() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        let twenty: Vec<f64> = (1..=20).map(f64::from).collect();
        assert_eq!(quantile(&twenty, 0.95), 19.0);
        assert_eq!(quantile(&[7.0], 0.95), 7.0);
        let row = |target| Row::new("x", "s", vec![1.0], target).beside("peer", vec![10.0]);
        assert_eq!(row(Target::RatioAtMost(0.1)).verdict().1, "met");
        assert_eq!(row(Target::RatioAtLeast(2.0)).verdict().1, "missed");
        assert_eq!(row(Target::P95(0.5)).verdict().1, "missed");
        assert_eq!(Row::new("x", "s", vec![1.0], Target::RatioAtMost(1.0)).verdict().1, "no peer");
    }
}
