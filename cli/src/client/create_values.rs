//! What the values of flags of `run`, `create` and `update` must look like. They are checked before anything is asked of
//! the daemon, with Docker's words, and passed on as they are.

use std::net::IpAddr;

use super::create_body;
use super::service_spec;

/// What a limit of resources of processes can be of (setrlimit(2)).
const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// `host:ip`.
pub fn host(text: &str) -> Result<String, String> {
    create_body::host(text).map(|_| text.to_owned()).map_err(|e| format!("{e:#}"))
}

/// One of the standard streams.
pub fn stream(text: &str) -> Result<String, String> {
    let known = ["stdin", "stdout", "stderr"].iter().any(|s| s.eq_ignore_ascii_case(text));
    if known { Ok(text.to_owned()) } else { Err("valid streams are STDIN, STDOUT and STDERR".into()) }
}

/// `/dev/name:value`.
pub fn device(text: &str) -> Result<String, String> {
    match text.split_once(':') {
        Some((path, value)) if path.starts_with("/dev/") && !value.is_empty() => Ok(text.to_owned()),
        Some((path, _)) if !path.starts_with("/dev/") => Err(format!("bad format for device path: {text}")),
        _ => Err(format!("bad format: {text}")),
    }
}

/// `c 42:* rwm`.
pub fn device_rule(text: &str) -> Result<String, String> {
    let number = |n: &str| n == "*" || (!n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    let words: Vec<&str> = text.split(' ').collect();
    let good = match words.as_slice() {
        ["a" | "b" | "c", numbers, access] => {
            let (major, minor) = numbers.split_once(':').unwrap_or_default();
            number(major)
                && number(minor)
                && (1..=3).contains(&access.len())
                && access.bytes().all(|b| b"rwm".contains(&b))
        }
        _ => false,
    };
    if good { Ok(text.to_owned()) } else { Err(format!("invalid device cgroup format '{text}'")) }
}

/// A number of CPUs.
pub fn cpus(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|n: &f64| n.is_finite());
    number.ok_or_else(|| format!("failed to parse {text} as a rational number"))
}

/// An address of a name server.
pub fn address(text: &str) -> Result<String, String> {
    match text.trim().parse::<IpAddr>() {
        Ok(_) => Ok(text.trim().to_owned()),
        Err(_) => Err(format!("IP address is not correctly formatted: {text}")),
    }
}

/// A MAC address, as Go's `net.ParseMAC` reads them: 6, 8 or 20 bytes, in pairs after `:` or `-`, or in fours after `.`.
pub fn is_mac(text: &str) -> bool {
    let hex = |part: &str, n: usize| part.len() == n && part.bytes().all(|b| b.is_ascii_hexdigit());
    [(':', 2, [6, 8, 20]), ('-', 2, [6, 8, 20]), ('.', 4, [3, 4, 10])].iter().any(|(sign, n, lengths)| {
        lengths.contains(&text.split(*sign).count()) && text.split(*sign).all(|part| hex(part, *n))
    })
}

/// `NAME` or `NAME=value`.
pub fn variable(text: &str) -> Result<String, String> {
    let named = text.split('=').next().is_some_and(|name| !name.is_empty());
    if named { Ok(text.to_owned()) } else { Err(format!("invalid environment variable: {text}")) }
}

/// `name` or `name=value`.
pub fn label(text: &str) -> Result<String, String> {
    match text.split('=').next().unwrap_or_default().trim_start_matches([' ', '\t']) {
        "" => Err(format!("invalid label '{text}': empty name")),
        name if name.contains([' ', '\t']) => Err(format!("label '{name}' contains whitespaces")),
        _ => Ok(text.to_owned()),
    }
}

/// A time like `1m30s`.
pub fn duration(text: &str) -> Result<String, String> {
    let read = service_spec::duration(Some(text));
    read.map(|_| text.to_owned()).map_err(|_| format!("time: invalid duration {text:?}"))
}

/// A size like `512m`.
pub fn size(text: &str) -> Result<String, String> {
    match skep_engine::parse_size(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err(format!("invalid size: '{text}'")),
    }
}

/// The same, or `-1` for no limit.
pub fn swap(text: &str) -> Result<String, String> {
    if text == "-1" { Ok(text.to_owned()) } else { size(text) }
}

/// Passes what a container has of its own, as Docker's client does: a daemon that is older may not look.
pub fn sysctl(text: &str) -> Result<String, String> {
    const OF_IPC: [&str; 8] =
        ["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"];
    let own = text.split_once('=').is_some_and(|(name, _)| {
        let of_ipc = name.strip_prefix("kernel.").is_some_and(|n| OF_IPC.contains(&n));
        of_ipc || name.starts_with("net.") || name.starts_with("fs.mqueue.")
    });
    if own { Ok(text.to_owned()) } else { Err(format!("sysctl '{text}' is not allowed")) }
}

/// `name=soft[:hard]`.
pub fn ulimit(text: &str) -> Result<String, String> {
    let bad = || format!("invalid ulimit argument: {text}");
    let (name, limits) = text.split_once('=').ok_or_else(bad)?;
    if !ULIMITS.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let (soft, hard) = (soft.parse::<i64>().map_err(|_| bad())?, hard.parse::<i64>().map_err(|_| bad())?);
    match (soft, hard) {
        (_, -1) => Ok(text.to_owned()),
        (-1, hard) => Err(format!(
            "ulimit soft limit must be less than or equal to hard limit: soft: -1 (unlimited), hard: {hard}"
        )),
        (soft, hard) if soft > hard => {
            Err(format!("ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"))
        }
        _ => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses_are_gos() {
        for good in ["02:42:0a:5b:00:09", "02-42-0A-5B-00-09", "0242.0a5b.0009", "02:00:5e:10:00:00:00:01"] {
            assert!(is_mac(good), "{good}");
        }
        for bad in ["", "foo", "02:42:0a:5b:00", "02:42:0a:5b:00:9", "0242:0a5b:0009", "02:42-0a:5b:00:09"] {
            assert!(!is_mac(bad), "{bad}");
        }
    }

    #[test]
    fn values_are_checked_as_docker_checks_them() {
        type Read = fn(&str) -> Result<String, String>;
        let table: [(Read, &[&str], &[&str]); 11] = [
            (host, &["a:1.2.3.4", "a=::1", "a:host-gateway"], &["a", "a:b", ":1.2.3.4"]),
            (stream, &["stdin", "STDERR"], &["in", ""]),
            (device, &["/dev/sda:10", "/dev/sda:10mb"], &["/dev/sda", "sda:1", "/dev/sda:"]),
            (
                device_rule,
                &["c 42:* rwm", "a *:* r", "b 1:2 rw"],
                &["c 42:* x", "c 42 r", "d 1:1 r", "c 1:1 rwmr"],
            ),
            (address, &["1.1.1.1", "fd00::1"], &["foo", "1.1.1"]),
            (variable, &["A", "A=", "A=b=c"], &["", "=b"]),
            (label, &["a", "a=", "a.b=c d"], &["", "=x", "a b=c"]),
            (duration, &["1s", "1m30s", "0s"], &["1", "x", "-"]),
            (size, &["1.5g", "512 m", "0b"], &["1e5", "m", "1.2.3g", "inf"]),
            (swap, &["-1", "512m", "1g"], &["-2", "m", "1x"]),
            (
                ulimit,
                &["nofile=5", "nofile=5:6", "core=-1", "core=0:-1"],
                &["nofile", "nofile=x", "what=1", "nofile=6:5", "core=-1:0"],
            ),
        ];
        for (n, (read, good, bad)) in table.into_iter().enumerate() {
            for text in good {
                assert_eq!(read(text).as_deref(), Ok(*text), "{n}");
            }
            for text in bad {
                assert!(read(text).is_err(), "{n}: {text}");
            }
        }
    }
}
