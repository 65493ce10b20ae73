//! Options of driver `fluentd`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Address, parse_bool};
use crate::config::parse_size;
use crate::parse_duration;

/// Its own options.
pub(super) const OPTIONS: &[&str] = &[
    "fluentd-address",
    "fluentd-async",
    "fluentd-buffer-limit",
    "fluentd-max-retries",
    "fluentd-request-ack",
    "fluentd-retry-wait",
    "fluentd-sub-second-precision",
];

/// What is asked of driver `fluentd`.
#[derive(Clone, Debug)]
pub(crate) struct FluentdOptions {
    pub(crate) address: Address,
    /// The container starts, and goes on, without a receiver.
    pub(crate) asynchronous: bool,
    /// Bytes kept for a receiver that is away, where `asynchronous`.
    pub(crate) buffer_limit: usize,
    pub(crate) retry_wait: Duration,
    pub(crate) max_retries: u32,
    pub(crate) sub_second: bool,
    pub(crate) request_ack: bool,
}

impl FluentdOptions {
    /// Reads them; the error names the option.
    pub(crate) fn read(options: &BTreeMap<String, String>) -> Result<Self, String> {
        let get = |name: &str| options.get(name).map(String::as_str).filter(|v| !v.is_empty());
        let bad = |name: &str, want: &str| {
            format!("{name}: invalid value {:?}: give {want}", get(name).unwrap_or_default())
        };
        let flag = |name: &str| match get(name) {
            None => Ok(false),
            Some(v) => parse_bool(v).ok_or_else(|| bad(name, "true or false")),
        };
        let given = get("fluentd-address").unwrap_or("127.0.0.1:24224");
        let (scheme, rest) = Address::scheme(given).unwrap_or(("tcp", given));
        let address = match scheme {
            "udp" => Err("the forward protocol needs a stream".into()),
            _ => Address::parse(scheme, rest, 24224),
        };
        let buffer_limit = match get("fluentd-buffer-limit") {
            None => 1 << 20,
            Some(v) => parse_size(v)
                .and_then(|n| usize::try_from(n).ok())
                .filter(|n| *n > 0)
                .ok_or_else(|| bad("fluentd-buffer-limit", "a size like 8m"))?,
        };
        Ok(Self {
            address: address.map_err(|e| format!("invalid fluentd-address {given}: {e}"))?,
            asynchronous: flag("fluentd-async")?,
            buffer_limit,
            retry_wait: match get("fluentd-retry-wait") {
                None => Duration::from_secs(1),
                Some(v) => parse_duration(v).ok_or_else(|| bad("fluentd-retry-wait", "a time like 500ms"))?,
            },
            max_retries: match get("fluentd-max-retries") {
                None => u32::MAX,
                Some(v) => v.parse().map_err(|_| bad("fluentd-max-retries", "a number"))?,
            },
            sub_second: flag("fluentd-sub-second-precision")?,
            request_ack: flag("fluentd-request-ack")?,
        })
    }
}
