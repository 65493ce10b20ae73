//! What names a container can resolve, and its /etc/resolv.conf.

use std::net::IpAddr;

use crate::state::Record;

/// Used where the host names no server that a container could reach.
const FALLBACK: [&str; 2] = ["8.8.8.8", "8.8.4.4"];

/// The words after a keyword, from all its lines.
fn values(text: &str, key: &str) -> Vec<String> {
    let words = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    words
        .filter(|words| words.first() == Some(&key))
        .flat_map(|words| words[1..].iter().map(|w| (*w).to_owned()).collect::<Vec<_>>())
        .collect()
}

/// Whole content of the container's /etc/resolv.conf, given the host's.
pub fn resolv_conf(record: &Record, host: &str) -> String {
    let dns = &record.dns;
    let values = |key: &str| values(host, key);
    let mut text = String::new();
    if record.has_dns() {
        text.push_str("nameserver 127.0.0.11\n");
    } else {
        let mut servers: Vec<String> = dns.servers.iter().map(ToString::to_string).collect();
        if servers.is_empty() {
            servers = values("nameserver")
                .into_iter()
                .filter(|s| s.parse::<IpAddr>().is_ok_and(|a| !a.is_loopback() && a.is_ipv4()))
                .collect();
        }
        if servers.is_empty() {
            servers = FALLBACK.map(str::to_owned).into();
        }
        servers.iter().for_each(|s| text.push_str(&format!("nameserver {s}\n")));
    }
    let search: Vec<String> = match dns.search.as_slice() {
        [] => values("search"),
        // Docker's way to say none.
        [dot] if dot == "." => Vec::new(),
        given => given.to_vec(),
    };
    if !search.is_empty() {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    let mut options: Vec<String> = match dns.options.as_slice() {
        [] => values("options"),
        given => given.to_vec(),
    };
    if record.has_dns() && !options.iter().any(|o| o.starts_with("ndots:")) {
        options.push("ndots:0".into());
    }
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    text
}
