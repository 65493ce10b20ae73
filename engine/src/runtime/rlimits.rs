//! Resource limits per process (`--ulimit`).

use nix::sys::resource::{Resource, getrlimit, setrlimit};

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

    fn set(&self, soft: u64, hard: u64) -> Result<(), Error> {
        setrlimit(self.resource, soft, hard)
            .on("set ulimit", format_args!("{}={}:{}", self.name, self.soft, self.hard))
    }
}

/// Sets the limits on this process while it is the host's root. They were asked for, so a refusal is an error. The one
/// of open files is raised only, as setting up takes descriptors: the rest is done by [`lower`].
pub fn apply(limits: &[Rlimit]) -> Result<(), Error> {
    for l in limits {
        if l.resource != Resource::RLIMIT_NOFILE {
            l.set(l.soft, l.hard)?;
            continue;
        }
        let (_, now) = getrlimit(l.resource).on("read ulimit", &l.name)?;
        if l.hard > now {
            l.set(l.hard, l.hard)?;
        }
    }
    Ok(())
}

/// Lowers the limit of open files to what was asked for, which takes no privilege (getrlimit(2)): the last descriptor
/// has been opened.
pub fn lower(limits: &[Rlimit]) -> Result<(), Error> {
    limits.iter().filter(|l| l.resource == Resource::RLIMIT_NOFILE).try_for_each(|l| l.set(l.soft, l.hard))
}
