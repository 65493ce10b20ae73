//! Whether the limits that a container is given go together and can be kept on this host, in Docker's words.

use std::ops::RangeInclusive;

use crate::config::ResourceLimits;
use crate::error::Error;
use crate::runtime::cgroup::{cpuset_available, real_time};

/// Docker's least, so that there is room for a start.
const LEAST_MEMORY: u64 = 6 << 20;

/// Checks what is asked for, of a new container or in an `update`.
pub(super) fn check(l: &ResourceLimits, update: bool) -> Result<(), Error> {
    memory(l, update)?;
    cpus(l, || std::thread::available_parallelism().map_or(1, usize::from))?;
    real_time_share(l, real_time::available)?;
    if l.cpuset_cpus.is_none() && l.cpuset_mems.is_none() {
        return Ok(());
    }
    let (cpus, nodes) = cpuset_available().unwrap_or_default();
    available("cpuset cpus", "CPUs", l.cpuset_cpus.as_deref(), &cpus)?;
    available("cpuset mems", "memory nodes", l.cpuset_mems.as_deref(), &nodes)
}

fn refused(why: impl Into<String>) -> Result<(), Error> {
    Err(Error::Invalid(why.into()))
}

fn memory(l: &ResourceLimits, update: bool) -> Result<(), Error> {
    let (hard, soft) = (l.memory.unwrap_or(0), l.memory_reservation.unwrap_or(0));
    let with_swap = l.memory_swap.filter(|s| *s > 0).map(i64::unsigned_abs);
    if (1..LEAST_MEMORY).contains(&hard) {
        return refused("Minimum memory limit allowed is 6MB");
    }
    if hard > 0 && with_swap.is_some_and(|s| s < hard) {
        return refused("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if hard == 0 && with_swap.is_some() && !update {
        return refused("You should always set the Memory limit when using Memoryswap limit, see usage");
    }
    if (1..LEAST_MEMORY).contains(&soft) {
        return refused("Minimum memory reservation allowed is 6MB");
    }
    if hard > 0 && soft > hard {
        return refused("Minimum memory limit can not be less than memory reservation limit, see usage");
    }
    Ok(())
}

fn cpus(l: &ResourceLimits, here: impl Fn() -> usize) -> Result<(), Error> {
    let nano = l.nano_cpus.unwrap_or(0);
    if nano > 0 && l.cpu_period.is_some_and(|p| p > 0) {
        return refused("Conflicting options: Nano CPUs and CPU Period cannot both be set");
    }
    if nano > 0 && l.cpu_quota.is_some_and(|q| q > 0) {
        return refused("Conflicting options: Nano CPUs and CPU Quota cannot both be set");
    }
    if nano > 0 {
        let here = here();
        if nano > (here as u64).saturating_mul(1_000_000_000) {
            return refused(format!(
                "range of CPUs is from 0.01 to {here}.00, as there are only {here} CPUs available"
            ));
        }
    }
    if l.cpu_period.is_some_and(|p| p != 0 && !(1000..=1_000_000).contains(&p)) {
        return refused(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        );
    }
    if l.cpu_quota.is_some_and(|q| (1..1000).contains(&q)) {
        return refused("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    Ok(())
}

fn real_time_share(l: &ResourceLimits, here: impl Fn() -> bool) -> Result<(), Error> {
    if l.is_real_time() && !here() {
        return refused("kernel does not support CPU real-time scheduler");
    }
    match (l.cpu_rt_runtime, l.cpu_rt_period) {
        (Some(runtime), Some(period)) if runtime > period => {
            refused("cpu real-time runtime cannot be higher than cpu real-time period")
        }
        _ => Ok(()),
    }
}

/// Checks a list like `0-2,5` against the one that the host has; an empty one of the host's says nothing.
fn available(option: &str, what: &str, asked: Option<&str>, here: &str) -> Result<(), Error> {
    let Some(asked) = asked else { return Ok(()) };
    let Some(wanted) = ranges(asked) else {
        return refused(format!("Invalid value {asked} for {option}"));
    };
    let Some(there) = ranges(here) else { return Ok(()) };
    let found = |n: u16| there.iter().any(|r| r.contains(&n));
    match wanted.into_iter().flatten().all(found) {
        true => Ok(()),
        false => {
            refused(format!("Requested {what} are not available - requested {asked}, available: {here}"))
        }
    }
}

fn ranges(list: &str) -> Option<Vec<RangeInclusive<u16>>> {
    let number = |n: &str| n.trim().parse::<u16>().ok();
    let range = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to) = (number(from)?, number(to)?);
        (from <= to).then_some(from..=to)
    };
    list.split(',').map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_go_together_or_is_not_there_is_refused() {
        const M: u64 = 1 << 20;
        let none = ResourceLimits::default;
        for (limits, said) in [
            (ResourceLimits { memory: Some(5 * M), ..none() }, "Minimum memory limit allowed is 6MB"),
            (
                ResourceLimits { memory: Some(9 * M), memory_swap: Some(8 << 20), ..none() },
                "Minimum memoryswap limit should be larger",
            ),
            (ResourceLimits { memory_swap: Some(8 << 20), ..none() }, "You should always set the Memory"),
            (ResourceLimits { memory_reservation: Some(M), ..none() }, "Minimum memory reservation allowed"),
            (
                ResourceLimits { memory: Some(8 * M), memory_reservation: Some(9 * M), ..none() },
                "can not be less than memory reservation",
            ),
            (
                ResourceLimits { nano_cpus: Some(1), cpu_period: Some(5000), ..none() },
                "Nano CPUs and CPU Period",
            ),
            (
                ResourceLimits { nano_cpus: Some(1), cpu_quota: Some(5000), ..none() },
                "Nano CPUs and CPU Quota",
            ),
            (ResourceLimits { nano_cpus: Some(u64::MAX), ..none() }, "range of CPUs is from 0.01 to "),
            (ResourceLimits { cpu_period: Some(999), ..none() }, "CPU cfs period"),
            (ResourceLimits { cpu_quota: Some(999), ..none() }, "CPU cfs quota"),
            (
                ResourceLimits { cpuset_cpus: Some("2-1".into()), ..none() },
                "Invalid value 2-1 for cpuset cpus",
            ),
            (ResourceLimits { cpuset_mems: Some("a".into()), ..none() }, "Invalid value a for cpuset mems"),
        ] {
            let e = check(&limits, false).expect_err(said).to_string();
            assert!(e.contains(said), "{e}");
        }
        for good in [
            ResourceLimits { memory: Some(6 * M), memory_swap: Some(-1), ..none() },
            ResourceLimits { nano_cpus: Some(1), cpu_quota: Some(-1), ..none() },
            none(),
        ] {
            check(&good, false).expect("goes together");
        }
        check(&ResourceLimits { memory_swap: Some(8 << 20), ..none() }, true).expect("in an update");
        assert_eq!(
            cpus(&ResourceLimits { nano_cpus: Some(2_000_000_001), ..none() }, || 2)
                .expect_err("one")
                .to_string(),
            "range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available"
        );
        let both = ResourceLimits {
            cpu_rt_runtime: Some(10_000),
            cpu_rt_period: Some(5000),
            ..ResourceLimits::default()
        };
        for (here, said) in
            [(false, "kernel does not support CPU real-time"), (true, "cannot be higher than")]
        {
            let e = real_time_share(&both, || here).expect_err(said).to_string();
            assert!(e.contains(said), "{e}");
        }
        let of = |asked| available("cpuset cpus", "CPUs", Some(asked), "0-2,5");
        for good in ["0", "1-2", "5,0", " 2 , 5"] {
            of(good).expect(good);
        }
        assert_eq!(
            of("1-3").expect_err("3 is not there").to_string(),
            "Requested CPUs are not available - requested 1-3, available: 0-2,5"
        );
        available("cpuset cpus", "CPUs", Some("99"), "").expect("nobody knows");
    }
}
