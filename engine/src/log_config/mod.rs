//! Log drivers and their options: checked with Docker's words, filled in from the daemon's, and read.

mod attributes;
mod fluentd;
mod syslog;
mod tag;
mod values;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use attributes::LogSubject;
pub(crate) use fluentd::FluentdOptions;
pub(crate) use syslog::{SyslogFormat, SyslogOptions};
pub(crate) use values::{Address, parse_bool};

use crate::config::parse_size;

/// Bytes of log kept in memory in mode `non-blocking`, unless `max-buffer-size` says otherwise.
const RING: usize = 1 << 20;
/// Size of a file of driver `local` before it is rotated.
const LOCAL_SIZE: u64 = 20 << 20;
/// Files that driver `local` keeps.
const LOCAL_FILES: u32 = 5;

/// The drivers there are besides `none`, as `info` lists them.
pub const LOG_DRIVERS: [&str; 5] = ["fluentd", "journald", "json-file", "local", "syslog"];

/// Options of every driver.
const COMMON: &[&str] = &["mode", "max-buffer-size", "cache-disabled"];
/// What is told with each message.
const TOLD: &[&str] = &["env", "env-regex", "labels", "labels-regex", "tag"];
/// Options of drivers that write files.
const FILES: &[&str] = &["compress", "max-file", "max-size"];

/// A log driver and its options, as asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Kept")]
pub struct LogConfig {
    /// One of [`LOG_DRIVERS`] or `none`; empty = the daemon's.
    pub driver: String,
    /// Docker's options of it.
    pub options: BTreeMap<String, String>,
}

/// As it is kept on disk: earlier builds had fields for what `json-file` may be told.
#[derive(Deserialize)]
struct Kept {
    driver: String,
    #[serde(default)]
    options: BTreeMap<String, String>,
    max_size: Option<u64>,
    max_file: Option<u32>,
}

impl From<Kept> for LogConfig {
    fn from(kept: Kept) -> Self {
        let mut options = kept.options;
        if let Some(size) = kept.max_size {
            options.insert("max-size".into(), size.to_string());
            options.extend(kept.max_file.map(|n| ("max-file".into(), n.to_string())));
        }
        Self { driver: kept.driver, options }
    }
}

/// How a driver's file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// A JSON object a line.
    Json,
    /// Docker's `local`: protobuf messages between their lengths.
    Entries,
}

/// When files are rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rotation {
    /// Bytes a file may reach; none = no limit.
    pub(crate) max_size: Option<u64>,
    /// Files kept (at least 1).
    pub(crate) max_file: u32,
    /// Those that are full are compressed.
    pub(crate) compress: bool,
}

impl LogConfig {
    /// A driver with options, checked (where no driver is named: once the daemon's is filled in).
    pub fn from_options<'a>(
        driver: &str,
        options: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, String> {
        let options = options.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        let config = Self { driver: driver.to_owned(), options };
        if !config.driver.is_empty() {
            config.check()?;
        }
        Ok(config)
    }

    /// What is not said taken from the daemon's: its driver, and the options of that driver.
    #[must_use]
    pub fn with_default(mut self, default: &Self) -> Self {
        if self.driver.is_empty() {
            self.driver = if default.driver.is_empty() { "json-file".into() } else { default.driver.clone() };
        }
        let same = self.driver == default.driver;
        for (name, value) in &default.options {
            if (same || (name.starts_with("cache-") && self.is_remote())) && !self.options.contains_key(name)
            {
                self.options.insert(name.clone(), value.clone());
            }
        }
        self
    }

    /// Refuses by name what is not known or not valid.
    pub fn check(&self) -> Result<(), String> {
        let driver = self.driver.as_str();
        if driver == "none" {
            return Ok(());
        }
        let get = |name: &str| self.options.get(name).map(String::as_str);
        if !["", "blocking", "non-blocking"].contains(&get("mode").unwrap_or_default()) {
            return Err(format!("logger: logging mode not supported: {}", get("mode").unwrap_or_default()));
        }
        if let Some(size) = get("max-buffer-size") {
            if get("mode") != Some("non-blocking") {
                return Err(
                    "logger: max-buffer-size option is only supported with 'mode=non-blocking'".into()
                );
            }
            parse_size(size)
                .filter(|n| *n > 0)
                .ok_or_else(|| format!("error parsing option max-buffer-size: invalid size: '{size}'"))?;
        }
        let own: &[&str] = match driver {
            "json-file" | "local" => FILES,
            "journald" => &[],
            "syslog" => syslog::OPTIONS,
            "fluentd" => fluentd::OPTIONS,
            other => return Err(format!("logger: no log driver named '{other}' is registered")),
        };
        for name in self.options.keys().map(String::as_str) {
            let cache = name.strip_prefix("cache-").is_some_and(|n| FILES.contains(&n));
            if !(COMMON.contains(&name) || TOLD.contains(&name) || own.contains(&name) || cache) {
                return Err(match driver {
                    "local" => format!("unknown log opt '{name}' for log driver local"),
                    _ => format!("unknown log opt '{name}' for {driver} log driver"),
                });
            }
        }
        let disabled = get("cache-disabled").unwrap_or_default();
        if !disabled.is_empty() && parse_bool(disabled).is_none() {
            return Err(format!("invalid value for option cache-disabled: {disabled}"));
        }
        self.files("")?;
        self.files("cache-")?;
        attributes::check(&self.options)?;
        match driver {
            "syslog" => SyslogOptions::read(&self.options).map(drop),
            "fluentd" => FluentdOptions::read(&self.options).map(drop),
            _ => Ok(()),
        }
    }

    /// Whether messages leave this host's files: `syslog`, `journald` and `fluentd`.
    pub(crate) fn is_remote(&self) -> bool {
        matches!(self.driver.as_str(), "syslog" | "journald" | "fluentd")
    }

    /// The file it writes; a remote driver's is what `logs` reads. None = nothing can be read.
    pub(crate) fn format(&self) -> Option<LogFormat> {
        match self.driver.as_str() {
            "json-file" | "" => Some(LogFormat::Json),
            "local" => Some(LogFormat::Entries),
            "none" => None,
            _ => {
                let disabled = self.options.get("cache-disabled").and_then(|v| parse_bool(v));
                (disabled != Some(true)).then_some(LogFormat::Entries)
            }
        }
    }

    /// Rotation of that file.
    pub(crate) fn rotation(&self) -> Rotation {
        let prefix = if self.is_remote() { "cache-" } else { "" };
        // What is not valid was refused when the container was made.
        self.files(prefix).unwrap_or(Rotation { max_size: None, max_file: 1, compress: false })
    }

    /// Bytes that may wait for a receiver; what comes on top is lost. None = the container waits.
    pub(crate) fn ring(&self) -> Option<usize> {
        let get = |name: &str| self.options.get(name).map(String::as_str);
        if get("mode") == Some("non-blocking") {
            let size = get("max-buffer-size").and_then(parse_size).and_then(|n| usize::try_from(n).ok());
            return Some(size.unwrap_or(RING));
        }
        let fluentd =
            (self.driver == "fluentd").then(|| FluentdOptions::read(&self.options).ok()).flatten()?;
        fluentd.asynchronous.then_some(fluentd.buffer_limit)
    }

    fn files(&self, prefix: &str) -> Result<Rotation, String> {
        let get = |name: &str| self.options.get(&format!("{prefix}{name}")).map(String::as_str);
        let bad = |name: &str, value: &str, want: &str| {
            format!("log option {prefix}{name}={value:?} is not valid: give {want}")
        };
        let local = self.driver != "json-file" || !prefix.is_empty();
        let mut rotation = match local {
            true => Rotation { max_size: Some(LOCAL_SIZE), max_file: LOCAL_FILES, compress: true },
            false => Rotation { max_size: None, max_file: 1, compress: false },
        };
        match get("max-size") {
            None => {}
            Some("-1") if !local => rotation.max_size = None,
            Some(value) => {
                let size = parse_size(value).filter(|n| *n > 0);
                rotation.max_size = Some(size.ok_or_else(|| bad("max-size", value, "a size like 10m"))?);
            }
        }
        if let Some(value) = get("max-file") {
            let count = value.parse().map_err(|_| bad("max-file", value, "1 or more"))?;
            if count < 1 {
                return Err("max-file cannot be less than 1".into());
            }
            rotation.max_file = count;
        }
        let rotates = rotation.max_size.is_some() && rotation.max_file > 1;
        match get("compress") {
            None => rotation.compress &= rotates,
            Some(value) => {
                rotation.compress =
                    parse_bool(value).ok_or_else(|| bad("compress", value, "true or false"))?;
                if rotation.compress && !rotates {
                    return Err(
                        "compress cannot be true when max-file is less than 2 or max-size is not set".into(),
                    );
                }
            }
        }
        Ok(rotation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(driver: &str, options: &[(&str, &str)]) -> Result<LogConfig, String> {
        LogConfig::from_options(driver, options.iter().copied())
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        for (driver, options, words) in [
            ("splunk", &[][..], "logger: no log driver named 'splunk' is registered"),
            ("json-file", &[("x", "y")], "unknown log opt 'x' for json-file log driver"),
            ("local", &[("syslog-address", "y")], "unknown log opt 'syslog-address' for log driver local"),
            ("journald", &[("max-size", "1m")], "unknown log opt 'max-size' for journald log driver"),
            (
                "fluentd",
                &[("fluentd-colour", "1")],
                "unknown log opt 'fluentd-colour' for fluentd log driver",
            ),
            ("json-file", &[("mode", "x")], "logger: logging mode not supported: x"),
            ("local", &[("max-buffer-size", "1m")], "only supported with 'mode=non-blocking'"),
            ("syslog", &[("syslog-facility", "x")], "invalid syslog facility"),
            ("syslog", &[("syslog-format", "x")], "Invalid syslog format"),
            (
                "syslog",
                &[("syslog-address", "host")],
                "syslog-address should be in form proto://address, got host",
            ),
            ("syslog", &[("cache-disabled", "x")], "invalid value for option cache-disabled: x"),
            ("json-file", &[("compress", "true")], "compress cannot be true"),
            ("local", &[("max-file", "0")], "max-file cannot be less than 1"),
            ("fluentd", &[("fluentd-retry-wait", "x")], "fluentd-retry-wait"),
            ("json-file", &[("labels-regex", "(")], "labels-regex"),
            ("json-file", &[("tag", "{{.Colour}}")], "Colour"),
        ] {
            let error = config(driver, options).expect_err(words);
            assert!(error.contains(words), "{error:?} lacks {words:?}");
        }
    }

    #[test]
    fn the_daemons_options_count_for_its_driver_only() {
        let daemon = config("local", &[("max-file", "3"), ("cache-max-size", "1m")]).expect("valid");
        let asked = |driver, options| config(driver, options).expect("valid").with_default(&daemon);
        assert_eq!(asked("", &[("max-size", "2m")]).rotation().max_size, Some(2 << 20));
        assert_eq!(asked("", &[]).rotation().max_file, 3);
        assert_eq!(asked("json-file", &[]).rotation().max_file, 1);
        assert_eq!(asked("journald", &[]).rotation().max_size, Some(1 << 20));
        assert_eq!(asked("journald", &[("cache-disabled", "true")]).format(), None);
        assert_eq!(LogConfig::default().with_default(&LogConfig::default()).driver, "json-file");
    }

    #[test]
    fn what_earlier_builds_kept_is_read() {
        let read = |text: &str| serde_json::from_str::<LogConfig>(text).expect("is read");
        let sized = read(r#"{"driver":"json-file","max_size":1000000,"max_file":3}"#);
        assert_eq!(Ok(sized), config("json-file", &[("max-size", "1000000"), ("max-file", "3")]));
        assert_eq!(Ok(read(r#"{"driver":"none","max_size":null,"max_file":1}"#)), config("none", &[]));
        let now = config("local", &[("max-size", "1m")]).expect("valid");
        assert_eq!(read(&serde_json::to_string(&now).expect("is written")), now);
    }
}
