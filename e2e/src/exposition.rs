//! Reads Prometheus' text format 0.0.4 as strictly as `promtool check metrics` does: whatever is not as the format
//! says is an error that names the line.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};

/// One value.
#[derive(Clone, Debug)]
pub struct Sample {
    /// `NAME` or, of a histogram, `NAME_bucket`, `NAME_sum`, `NAME_count`.
    pub name: String,
    /// By name.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

/// All that was exposed.
#[derive(Clone, Debug, Default)]
pub struct Exposition {
    /// Types by family.
    pub types: BTreeMap<String, String>,
    /// Help texts by family.
    pub help: BTreeMap<String, String>,
    /// Values in order.
    pub samples: Vec<Sample>,
}

impl Exposition {
    /// Reads and checks.
    pub fn parse(text: &str) -> Result<Self> {
        ensure!(text.is_empty() || text.ends_with('\n'), "the last line has no end");
        let mut all = Self::default();
        let mut ended = BTreeSet::new();
        let mut open = String::new();
        for line in text.lines().filter(|l| !l.is_empty()) {
            let at = || format!("line {line:?}");
            if let Some(comment) = line.strip_prefix("# ") {
                let mut words = comment.splitn(3, ' ');
                let (kind, name) = (words.next().unwrap_or_default(), words.next().with_context(at)?);
                let rest = words.next().unwrap_or_default().to_owned();
                let old = match kind {
                    "HELP" => all.help.insert(name.to_owned(), rest),
                    "TYPE" => {
                        ensure!(
                            ["counter", "gauge", "histogram", "summary", "untyped"].contains(&rest.as_str()),
                            at()
                        );
                        all.types.insert(name.to_owned(), rest)
                    }
                    _ => bail!("{}: neither HELP nor TYPE", at()),
                };
                ensure!(old.is_none(), "{}: told twice", at());
                continue;
            }
            let sample = sample(line).with_context(at)?;
            let family = all.family(&sample.name).with_context(at)?.to_owned();
            if family != open {
                ensure!(ended.insert(family.clone()), "{}: its family is not in one piece", at());
                open = family;
            }
            all.samples.push(sample);
        }
        all.check()?;
        Ok(all)
    }

    /// The family of a sample; it must have been announced.
    fn family<'a>(&self, sample: &'a str) -> Result<&'a str> {
        if self.types.contains_key(sample) {
            return Ok(sample);
        }
        let parts = ["_bucket", "_sum", "_count"];
        let family = parts.iter().find_map(|p| sample.strip_suffix(p)).context("no TYPE before it")?;
        ensure!(self.types.get(family).is_some_and(|t| t == "histogram"), "no TYPE before it");
        Ok(family)
    }

    fn check(&self) -> Result<()> {
        let mut seen = BTreeSet::new();
        for s in &self.samples {
            ensure!(seen.insert(format!("{} {:?}", s.name, s.labels)), "{s:?} twice");
        }
        for (family, kind) in &self.types {
            ensure!(self.help.get(family).is_some_and(|h| !h.is_empty()), "{family} has no help");
            ensure!(kind != "counter" || family.ends_with("_total"), "counter {family} is not called _total");
            ensure!(
                self.samples.iter().any(|s| self.family(&s.name).is_ok_and(|f| f == family)),
                "{family} is empty"
            );
        }
        self.check_histograms()
    }

    /// Buckets grow, and the last holds all.
    fn check_histograms(&self) -> Result<()> {
        for (family, _) in self.types.iter().filter(|(_, t)| *t == "histogram") {
            let bucket = format!("{family}_bucket");
            let mut rows: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
            for s in self.samples.iter().filter(|s| s.name == bucket) {
                let mut labels = s.labels.clone();
                let le = labels.remove("le").with_context(|| format!("{s:?} has no le"))?;
                rows.entry(format!("{labels:?}")).or_default().push((number(&le)?, s.value));
            }
            for s in self.samples.iter().filter(|s| s.name == format!("{family}_count")) {
                let row =
                    rows.get(&format!("{:?}", s.labels)).with_context(|| format!("{s:?}: no buckets"))?;
                ensure!(row.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{family}: {row:?}");
                ensure!(row.last() == Some(&(f64::INFINITY, s.value)), "{family}: {row:?} of {}", s.value);
            }
        }
        Ok(())
    }

    /// The one value with this name and these labels.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        let is = |s: &&Sample| {
            s.name == name && labels.iter().all(|(k, v)| s.labels.get(*k).is_some_and(|l| l == v))
        };
        let mut found = self.samples.iter().filter(is);
        let value = found.next().with_context(|| format!("no {name} with {labels:?}"))?.value;
        ensure!(found.next().is_none(), "more than one {name} with {labels:?}");
        Ok(value)
    }
}

fn number(text: &str) -> Result<f64> {
    match text {
        "+Inf" => Ok(f64::INFINITY),
        "-Inf" => Ok(f64::NEG_INFINITY),
        "NaN" => Ok(f64::NAN),
        other => other.parse().with_context(|| format!("{other:?} is no number")),
    }
}

fn named(name: &str) -> Result<String> {
    let begins = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == ':');
    let goes_on = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':');
    ensure!(begins && goes_on, "{name:?} is no name");
    Ok(name.to_owned())
}

fn sample(line: &str) -> Result<Sample> {
    let (head, labels, value) = match line.split_once('{') {
        Some((head, rest)) => {
            let (labels, value) = self::labels(rest)?;
            (head, labels, value)
        }
        None => {
            let (head, value) = line.split_once(' ').context("no value")?;
            (head, BTreeMap::new(), value)
        }
    };
    Ok(Sample { name: named(head)?, labels, value: number(value.trim())? })
}

/// What follows `{`: the labels, and what follows `}`.
fn labels(mut rest: &str) -> Result<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        if let Some(after) = rest.strip_prefix('}') {
            return Ok((labels, after));
        }
        let (name, quoted) = rest.split_once("=\"").context("a label without value")?;
        let mut value = String::new();
        let mut chars = quoted.char_indices();
        let end = loop {
            match chars.next().context("a label without end")? {
                (at, '"') => break at,
                (_, '\\') => match chars.next().context("a label without end")?.1 {
                    'n' => value.push('\n'),
                    c @ ('\\' | '"') => value.push(c),
                    c => bail!("\\{c} in a label"),
                },
                (_, c) => value.push(c),
            }
        };
        ensure!(labels.insert(named(name)?, value).is_none(), "label {name} twice");
        rest = &quoted[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
}
