//! Health of a container: how it is checked, what checks have found, and what follows from a result. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;
/// Results kept.
const KEPT: usize = 5;

/// How health is checked. Zero and empty mean Docker's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthConfig {
    /// `NONE`; or `CMD` and the words of a command; or `CMD-SHELL` and a line for the shell. Empty = the image's.
    pub test: Vec<String>,
    /// From the end of one check to the beginning of the next.
    pub interval: Duration,
    /// Longest time a check may run.
    pub timeout: Duration,
    /// Time after the start in which failures do not count.
    pub start_period: Duration,
    /// Interval in that time.
    pub start_interval: Duration,
    /// Failures in a row that make it unhealthy.
    pub retries: u32,
}

impl HealthConfig {
    /// What an image says, in Docker's JSON (durations in nanoseconds).
    pub(crate) fn of_image(json: &Value) -> Self {
        let ns = |key: &str| Duration::from_nanos(json[key].as_u64().unwrap_or(0));
        let words = json["Test"].as_array().into_iter().flatten();
        Self {
            test: words.filter_map(Value::as_str).map(str::to_owned).collect(),
            interval: ns("Interval"),
            timeout: ns("Timeout"),
            start_period: ns("StartPeriod"),
            start_interval: ns("StartInterval"),
            retries: json["Retries"].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
        }
    }

    /// The same in an image's JSON.
    pub(crate) fn to_image(&self) -> Value {
        let ns = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        json!({
            "Test": self.test,
            "Interval": ns(self.interval),
            "Timeout": ns(self.timeout),
            "StartPeriod": ns(self.start_period),
            "StartInterval": ns(self.start_interval),
            "Retries": self.retries,
        })
    }

    /// What was asked, filled up with what the image says.
    pub(crate) fn merged(asked: Option<&Self>, image: Option<&Value>) -> Option<Self> {
        let image = image.filter(|v| v.is_object()).map(Self::of_image);
        let (Some(asked), Some(image)) = (asked, &image) else { return asked.cloned().or(image) };
        let or = |ours: Duration, theirs: Duration| if ours.is_zero() { theirs } else { ours };
        Some(Self {
            test: if asked.test.is_empty() { image.test.clone() } else { asked.test.clone() },
            interval: or(asked.interval, image.interval),
            timeout: or(asked.timeout, image.timeout),
            start_period: or(asked.start_period, image.start_period),
            start_interval: or(asked.start_interval, image.start_interval),
            retries: if asked.retries == 0 { image.retries } else { asked.retries },
        })
    }

    /// Why it cannot be.
    pub(crate) fn check(&self) -> Result<(), String> {
        for (name, value) in [
            ("Interval", self.interval),
            ("Timeout", self.timeout),
            ("StartPeriod", self.start_period),
            ("StartInterval", self.start_interval),
        ] {
            if !value.is_zero() && value < Duration::from_millis(1) {
                return Err(format!("{name} in Healthcheck cannot be less than 1ms"));
            }
        }
        match self.test.first().map(String::as_str) {
            None | Some("NONE") => Ok(()),
            Some("CMD" | "CMD-SHELL") if self.test.len() > 1 => Ok(()),
            Some("CMD" | "CMD-SHELL") => Err("Healthcheck.Test names no command".into()),
            Some(other) => {
                Err(format!("Unknown healthcheck type {other:?} (expected CMD, CMD-SHELL or NONE)"))
            }
        }
    }

    /// The command that checks; none = there is nothing to check.
    pub fn command(&self, shell: &[String]) -> Option<Vec<String>> {
        let (kind, rest) = self.test.split_first()?;
        match kind.as_str() {
            "CMD" if !rest.is_empty() => Some(rest.to_vec()),
            "CMD-SHELL" if !rest.is_empty() => {
                let default = || vec!["/bin/sh".to_owned(), "-c".to_owned()];
                let shell = if shell.is_empty() { default() } else { shell.to_vec() };
                Some(shell.into_iter().chain(rest.iter().cloned()).collect())
            }
            _ => None,
        }
    }

    /// How long a check may run.
    pub(crate) fn longest(&self) -> Duration {
        if self.timeout.is_zero() { TIMEOUT } else { self.timeout }
    }

    /// Time to the next check of a container that was started `age` ago.
    pub(crate) fn pause(&self, status: HealthStatus, age: Duration) -> Duration {
        if age < self.start_period && status == HealthStatus::Starting {
            return if self.start_interval.is_zero() { START_INTERVAL } else { self.start_interval };
        }
        if self.interval.is_zero() { INTERVAL } else { self.interval }
    }
}

/// Docker's states of health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    /// Not known yet.
    #[default]
    Starting,
    /// The last check went well, or too few failed since.
    Healthy,
    /// Too many checks in a row failed.
    Unhealthy,
}

impl HealthStatus {
    /// Docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// One check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthResult {
    /// Nanoseconds since the Unix epoch.
    pub start_ns: i64,
    /// Nanoseconds since the Unix epoch.
    pub end_ns: i64,
    /// 0 = healthy; -1 = it could not be run, or took too long.
    pub exit_code: i32,
    /// What it wrote, at most 4096 bytes.
    pub output: String,
}

/// What is known of a container's health.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// State.
    pub status: HealthStatus,
    /// Failures in a row.
    pub failing_streak: u32,
    /// The last results, oldest first.
    pub log: Vec<HealthResult>,
}

impl Health {
    /// Takes a result in, of a container that was started at `started_ns`.
    pub(crate) fn record(&mut self, config: &HealthConfig, started_ns: i64, result: HealthResult) {
        let age = Duration::from_nanos(u64::try_from(result.start_ns - started_ns).unwrap_or(0));
        if result.exit_code == 0 {
            self.failing_streak = 0;
            self.status = HealthStatus::Healthy;
        } else if self.status != HealthStatus::Starting || age >= config.start_period {
            self.failing_streak += 1;
            if self.failing_streak >= if config.retries == 0 { RETRIES } else { config.retries } {
                self.status = HealthStatus::Unhealthy;
            }
        }
        self.log.push(result);
        let surplus = self.log.len().saturating_sub(KEPT);
        self.log.drain(..surplus);
    }
}

/// A span as Go prints it.
pub(crate) fn go_duration(d: Duration) -> String {
    let trim = |n: f64, unit: &str| format!("{}{unit}", (n * 1e9).round() / 1e9);
    let ns = d.as_nanos();
    if ns < 1000 {
        return format!("{ns}ns");
    }
    if ns < 1_000_000 {
        return trim(ns as f64 / 1e3, "µs");
    }
    if ns < 1_000_000_000 {
        return trim(ns as f64 / 1e6, "ms");
    }
    let (hours, minutes) = (d.as_secs() / 3600, d.as_secs() / 60 % 60);
    let seconds = trim((d.as_secs() % 60) as f64 + f64::from(d.subsec_nanos()) / 1e9, "s");
    match (hours, minutes) {
        (0, 0) => seconds,
        (0, _) => format!("{minutes}m{seconds}"),
        _ => format!("{hours}h{minutes}m{seconds}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(at_s: i64, exit_code: i32) -> HealthResult {
        HealthResult { start_ns: at_s * 1_000_000_000, exit_code, ..HealthResult::default() }
    }

    #[test]
    fn failures_count_after_the_start_period_and_successes_clear_them() {
        let config =
            HealthConfig { start_period: Duration::from_secs(10), retries: 2, ..HealthConfig::default() };
        let mut health = Health::default();
        let mut after = |at: i64, code: i32| {
            health.record(&config, 0, result(at, code));
            (health.status.as_str(), health.failing_streak, health.log.len())
        };
        assert_eq!(after(1, 1), ("starting", 0, 1));
        assert_eq!(after(11, 1), ("starting", 1, 2));
        assert_eq!(after(12, 0), ("healthy", 0, 3));
        assert_eq!(after(13, -1), ("healthy", 1, 4));
        assert_eq!(after(14, 2), ("unhealthy", 2, 5));
        assert_eq!(after(15, 2), ("unhealthy", 3, 5));
        assert_eq!(after(16, 0), ("healthy", 0, 5));
        let age = Duration::from_secs;
        assert_eq!(config.pause(HealthStatus::Starting, age(1)), START_INTERVAL);
        assert_eq!(config.pause(HealthStatus::Healthy, age(1)), INTERVAL);
        assert_eq!(config.pause(HealthStatus::Starting, age(10)), INTERVAL);
    }

    #[test]
    fn what_is_asked_goes_before_what_the_image_says() {
        let image =
            serde_json::json!({"Test": ["CMD-SHELL", "true"], "Interval": 5_000_000_000u64, "Retries": 9});
        let asked = HealthConfig { retries: 1, ..HealthConfig::default() };
        let merged = HealthConfig::merged(Some(&asked), Some(&image)).expect("both");
        assert_eq!((merged.interval, merged.retries), (Duration::from_secs(5), 1));
        assert_eq!(merged.command(&[]).expect("a command"), ["/bin/sh", "-c", "true"]);
        let none = HealthConfig { test: vec!["NONE".into()], ..HealthConfig::default() };
        assert_eq!(HealthConfig::merged(Some(&none), Some(&image)).and_then(|h| h.command(&[])), None);
        assert!(HealthConfig::merged(None, None).is_none());
        for bad in [&["CMD"][..], &["SHELL", "x"]] {
            let test = bad.iter().map(|w| (*w).to_owned()).collect();
            assert!(HealthConfig { test, ..HealthConfig::default() }.check().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn spans_are_printed_as_go_does() {
        for (ms, text) in
            [(1500, "1.5s"), (30_000, "30s"), (90_000, "1m30s"), (3_600_000, "1h0m0s"), (20, "20ms")]
        {
            assert_eq!(go_duration(Duration::from_millis(ms)), text);
        }
    }
}
