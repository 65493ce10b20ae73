//! Changing the limits and the restart policy of a container, running or not.

use crate::config::{ContainerState, ResourceLimits, RestartPolicy};
use crate::engine::Engine;
use crate::error::Error;

impl Engine {
    /// Takes over what `limits` and `restart` say of; what they leave out stays as it is.
    pub async fn update(
        &self,
        id: &str,
        limits: ResourceLimits,
        restart: Option<RestartPolicy>,
    ) -> Result<(), Error> {
        super::limits::check(&limits, true)?;
        let slot = self.table().find(id)?;
        let failed = |why: &str| Error::Conflict(format!("Cannot update container {}: {why}", slot.id));
        let _op = slot.op.lock().await;
        let c = slot.container();
        if matches!(c.state, ContainerState::Removing | ContainerState::Dead) {
            return Err(failed("Container is marked for removal and cannot be \"update\"."));
        }
        let merged = merge(&c.config.resources, limits).map_err(|why| failed(&why))?;
        if c.config.auto_remove && restart.as_ref().is_some_and(|r| *r != RestartPolicy::No) {
            return Err(failed(
                "Restart policy cannot be updated because AutoRemove is enabled for the container",
            ));
        }
        // The kernel has its say before anything is written down.
        if merged != c.config.resources
            && let Some(shim) = slot.shim()
        {
            shim.update(&merged).await.map_err(|e| failed(&e.to_string()))?;
        }
        slot.update(|c| {
            c.config.resources.clone_from(&merged);
            if let Some(restart) = &restart {
                c.config.restart.clone_from(restart);
            }
        });
        self.store(&slot).await?;
        self.emit(&slot, "update", &[]);
        Ok(())
    }
}

/// Docker's rules for what may be changed without what.
fn merge(old: &ResourceLimits, new: ResourceLimits) -> Result<ResourceLimits, String> {
    if new.nano_cpus.is_some() && (old.cpu_quota.is_some() || old.cpu_period.is_some()) {
        return Err(
            "Conflicting options: Nano CPUs cannot be updated as CPU Period/Quota has already been set"
                .into(),
        );
    }
    for (what, given) in [("Quota", new.cpu_quota.is_some()), ("Period", new.cpu_period.is_some())] {
        if given && old.nano_cpus.is_some() {
            return Err(format!(
                "Conflicting options: CPU {what} cannot be updated as NanoCPUs has already been set"
            ));
        }
    }
    let old_swap = old.memory_and_swap();
    if let (Some(memory), None, Some(swap)) = (new.memory, new.memory_swap, old_swap)
        && swap >= 0
        && memory > swap.unsigned_abs()
    {
        return Err("Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time".into());
    }
    let memory_swap = new.memory_swap.or(if old.memory.is_some() { old_swap } else { None });
    let or =
        |list_new: Vec<_>, list_old: &Vec<_>| if list_new.is_empty() { list_old.clone() } else { list_new };
    Ok(ResourceLimits {
        memory: new.memory.or(old.memory),
        memory_swap,
        nano_cpus: new.nano_cpus.or(old.nano_cpus),
        cpu_shares: new.cpu_shares.or(old.cpu_shares),
        pids: new.pids.or(old.pids),
        memory_reservation: new.memory_reservation.or(old.memory_reservation),
        memory_swappiness: new.memory_swappiness.or(old.memory_swappiness),
        oom_kill_disable: new.oom_kill_disable || old.oom_kill_disable,
        cpu_quota: new.cpu_quota.or(old.cpu_quota),
        cpu_period: new.cpu_period.or(old.cpu_period),
        cpu_rt_runtime: new.cpu_rt_runtime.or(old.cpu_rt_runtime),
        cpu_rt_period: new.cpu_rt_period.or(old.cpu_rt_period),
        cpuset_cpus: new.cpuset_cpus.or_else(|| old.cpuset_cpus.clone()),
        cpuset_mems: new.cpuset_mems.or_else(|| old.cpuset_mems.clone()),
        blkio_weight: new.blkio_weight.or(old.blkio_weight),
        blkio_weight_devices: if new.blkio_weight_devices.is_empty() {
            old.blkio_weight_devices.clone()
        } else {
            new.blkio_weight_devices
        },
        blkio_rates: or(new.blkio_rates, &old.blkio_rates),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_stays_and_what_clashes_is_refused() {
        let old = ResourceLimits { memory: Some(64), nano_cpus: Some(5), ..ResourceLimits::default() };
        let same = merge(&old, ResourceLimits::default()).expect("nothing");
        assert_eq!((same.memory, same.memory_swap, same.nano_cpus), (Some(64), Some(128), Some(5)));
        let more = ResourceLimits { memory: Some(100), pids: Some(-1), ..ResourceLimits::default() };
        let merged = merge(&old, more).expect("fits under the swap");
        assert_eq!((merged.memory, merged.memory_swap, merged.pids), (Some(100), Some(128), Some(-1)));
        let usual = ResourceLimits { memory: Some(64), memory_swap: Some(0), ..ResourceLimits::default() };
        let more = ResourceLimits { memory: Some(100), ..ResourceLimits::default() };
        assert_eq!(
            merge(&usual, more).map(|m| m.memory_swap),
            Ok(Some(128)),
            "0 is the default, not a limit"
        );
        for bad in [
            ResourceLimits { memory: Some(200), ..ResourceLimits::default() },
            ResourceLimits { cpu_quota: Some(1), ..ResourceLimits::default() },
        ] {
            assert!(merge(&old, bad).is_err());
        }
    }
}
