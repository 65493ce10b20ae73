//! Resource limits per process (`--ulimit`).

use nix::sys::resource::{Resource, setrlimit};

use super::error::{Context, Error};
use crate::config::UlimitConfig;

/// A limit whose name is known.
pub struct Rlimit {
    resource: Resource,
    name: String,
    soft: u64,
    hard: u64,
}

/// Checks names and values.
pub fn parse(ulimits: &[UlimitConfig]) -> Result<Vec<Rlimit>, Error> {
    ulimits.iter().map(one).collect()
}

/// Whether limits have known names, and values that go together.
pub fn check(ulimits: &[UlimitConfig]) -> Result<(), Error> {
    parse(ulimits).map(drop)
}

fn one(u: &UlimitConfig) -> Result<Rlimit, Error> {
    let resource = match u.name.as_str() {
        "as" => Resource::RLIMIT_AS,
        "core" => Resource::RLIMIT_CORE,
        "cpu" => Resource::RLIMIT_CPU,
        "data" => Resource::RLIMIT_DATA,
        "fsize" => Resource::RLIMIT_FSIZE,
        "locks" => Resource::RLIMIT_LOCKS,
        "memlock" => Resource::RLIMIT_MEMLOCK,
        "msgqueue" => Resource::RLIMIT_MSGQUEUE,
        "nice" => Resource::RLIMIT_NICE,
        "nofile" => Resource::RLIMIT_NOFILE,
        "nproc" => Resource::RLIMIT_NPROC,
        "rss" => Resource::RLIMIT_RSS,
        "rtprio" => Resource::RLIMIT_RTPRIO,
        "rttime" => Resource::RLIMIT_RTTIME,
        "sigpending" => Resource::RLIMIT_SIGPENDING,
        "stack" => Resource::RLIMIT_STACK,
        other => return Err(Error::Refused(format!("unknown ulimit {other:?}"))),
    };
    let value = |v: i64| match v {
        -1 => Ok(libc::RLIM_INFINITY),
        v => u64::try_from(v).map_err(|_| Error::Refused(format!("ulimit {}: {v} is not a limit", u.name))),
    };
    let (soft, hard) = (value(u.soft)?, value(u.hard)?);
    if soft > hard {
        let text = format!("ulimit {}: soft limit {} is above the hard limit {}", u.name, u.soft, u.hard);
        return Err(Error::Refused(text));
    }
    Ok(Rlimit { resource, name: u.name.clone(), soft, hard })
}

impl Rlimit {
    /// In the form of the OCI runtime specification.
    pub fn oci(&self) -> serde_json::Value {
        let kind = format!("RLIMIT_{}", self.name.to_ascii_uppercase());
        serde_json::json!({ "type": kind, "soft": self.soft, "hard": self.hard })
    }
}

/// Sets the limits on this process. They were asked for, so a refusal is an error.
pub fn apply(limits: &[Rlimit]) -> Result<(), Error> {
    for l in limits {
        setrlimit(l.resource, l.soft, l.hard)
            .on("set ulimit", format_args!("{}={}:{}", l.name, l.soft, l.hard))?;
    }
    Ok(())
}
