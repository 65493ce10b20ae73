//! Flags that `service create` and `service update` share, as a service spec in the API's JSON.

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};

use super::create_body::{pairs, set};
use super::service_extras::ExtraFlags;
use super::service_run::RunFlags;
use crate::compose::units;

/// Flags that create and update share.
#[derive(Args, Default)]
pub struct SpecFlags {
    /// Credential spec for managed service account (Windows only)
    #[arg(long, value_name = "credential-spec")]
    credential_spec: Option<String>,
    /// Endpoint mode (vip or dnsrr)
    #[arg(long, value_name = "string")]
    endpoint_mode: Option<String>,
    /// Overwrite the default ENTRYPOINT of the image
    #[arg(long, value_name = "command")]
    entrypoint: Option<String>,
    /// Command to run to check health
    #[arg(long, value_name = "string")]
    health_cmd: Option<String>,
    /// Time between running the check (ms|s|m|h)
    #[arg(long, value_name = "duration")]
    health_interval: Option<String>,
    /// Consecutive failures needed to report unhealthy
    #[arg(long, value_name = "int")]
    health_retries: Option<i64>,
    /// Time between running the check during the start period (ms|s|m|h)
    #[arg(long, value_name = "duration")]
    health_start_interval: Option<String>,
    /// Time to start in before failures count (ms|s|m|h)
    #[arg(long, value_name = "duration")]
    health_start_period: Option<String>,
    /// Maximum time to allow one check to run (ms|s|m|h)
    #[arg(long, value_name = "duration")]
    health_timeout: Option<String>,
    /// Container hostname
    #[arg(long, value_name = "string")]
    hostname: Option<String>,
    /// Use an init inside each service container to forward signals and reap processes
    #[arg(long)]
    init: bool,
    /// Limit CPUs
    #[arg(long, value_name = "decimal")]
    limit_cpu: Option<f64>,
    /// Limit Memory
    #[arg(long, value_name = "bytes")]
    limit_memory: Option<String>,
    /// Limit maximum number of processes (default 0 = unlimited)
    #[arg(long, value_name = "int")]
    limit_pids: Option<i64>,
    /// Logging driver for service
    #[arg(long, value_name = "string")]
    log_driver: Option<String>,
    /// Logging driver options
    #[arg(long, value_name = "list")]
    log_opt: Vec<String>,
    /// Disable any container-specified HEALTHCHECK
    #[arg(long)]
    no_healthcheck: bool,
    /// Do not query the registry to resolve image digest and supported platforms
    #[arg(long)]
    pub no_resolve_image: bool,
    /// Tune host's OOM preferences (-1000 to 1000)
    #[arg(long, value_name = "int", allow_hyphen_values = true)]
    oom_score_adj: Option<i64>,
    /// Mount the container's root filesystem as read only
    #[arg(long)]
    read_only: bool,
    /// Number of job tasks to run concurrently (default equal to --replicas)
    #[arg(long, value_name = "uint")]
    max_concurrent: Option<u64>,
    /// Number of tasks
    #[arg(long, value_name = "uint")]
    pub replicas: Option<u64>,
    /// Maximum number of tasks per node (default 0 = unlimited)
    #[arg(long, value_name = "uint")]
    replicas_max_per_node: Option<u64>,
    /// Reserve CPUs
    #[arg(long, value_name = "decimal")]
    reserve_cpu: Option<f64>,
    /// Reserve Memory
    #[arg(long, value_name = "bytes")]
    reserve_memory: Option<String>,
    /// Restart when condition is met ("none", "on-failure", "any")
    #[arg(long, value_name = "string")]
    restart_condition: Option<String>,
    /// Delay between restart attempts (ns|us|ms|s|m|h)
    #[arg(long, value_name = "duration")]
    restart_delay: Option<String>,
    /// Maximum number of restarts before giving up
    #[arg(long, value_name = "uint")]
    restart_max_attempts: Option<u64>,
    /// Window used to evaluate the restart policy (ns|us|ms|s|m|h)
    #[arg(long, value_name = "duration")]
    restart_window: Option<String>,
    /// Delay between task rollbacks (ns|us|ms|s|m|h)
    #[arg(long, value_name = "duration")]
    rollback_delay: Option<String>,
    /// Action on rollback failure ("pause", "continue")
    #[arg(long, value_name = "string")]
    rollback_failure_action: Option<String>,
    /// Failure rate to tolerate during a rollback
    #[arg(long, value_name = "float")]
    rollback_max_failure_ratio: Option<f64>,
    /// Duration after each task rollback to monitor for failure (ns|us|ms|s|m|h)
    #[arg(long, value_name = "duration")]
    rollback_monitor: Option<String>,
    /// Rollback order ("start-first", "stop-first")
    #[arg(long, value_name = "string")]
    rollback_order: Option<String>,
    /// Maximum number of tasks rolled back simultaneously (0 to roll back all at once)
    #[arg(long, value_name = "uint")]
    rollback_parallelism: Option<u64>,
    /// Time to wait before force killing a container (ns|us|ms|s|m|h)
    #[arg(long, value_name = "duration")]
    stop_grace_period: Option<String>,
    /// Signal to stop the container
    #[arg(long, value_name = "string")]
    stop_signal: Option<String>,
    /// Allocate a pseudo-TTY
    #[arg(short, long)]
    tty: bool,
    /// Delay between updates (ns|us|ms|s|m|h)
    #[arg(long, value_name = "duration")]
    update_delay: Option<String>,
    /// Action on update failure ("pause", "continue", "rollback")
    #[arg(long, value_name = "string")]
    update_failure_action: Option<String>,
    /// Failure rate to tolerate during an update
    #[arg(long, value_name = "float")]
    update_max_failure_ratio: Option<f64>,
    /// Duration after each task update to monitor for failure (ns|us|ms|s|m|h)
    #[arg(long, value_name = "duration")]
    update_monitor: Option<String>,
    /// Update order ("start-first", "stop-first")
    #[arg(long, value_name = "string")]
    update_order: Option<String>,
    /// Maximum number of tasks updated simultaneously (0 to update all at once)
    #[arg(long, value_name = "uint")]
    update_parallelism: Option<u64>,
    /// Username or UID (format: <name|uid>[:<group|gid>])
    #[arg(short, long, value_name = "string")]
    user: Option<String>,
    /// Send registry authentication details to swarm agents
    #[arg(long)]
    pub with_registry_auth: bool,
    /// Working directory inside the container
    #[arg(short, long, value_name = "string")]
    workdir: Option<String>,
    #[command(flatten)]
    pub extras: ExtraFlags,
    #[command(flatten)]
    pub run: RunFlags,
    /// Exit immediately instead of waiting for the service to converge
    #[arg(short, long)]
    pub detach: bool,
    /// Suppress progress output
    #[arg(short, long)]
    pub quiet: bool,
}

impl SpecFlags {
    /// Sets in `spec` what is given.
    pub fn apply(&self, spec: &mut Value) -> Result<()> {
        set(&mut spec["EndpointSpec"]["Mode"], self.endpoint_mode.clone());
        self.extras.apply(spec)?;
        let task = &mut spec["TaskTemplate"];
        set(&mut task["Placement"]["MaxReplicas"], self.replicas_max_per_node);
        let resources = &mut task["Resources"];
        set(&mut resources["Reservations"]["MemoryBytes"], bytes(self.reserve_memory.as_deref())?);
        set(&mut resources["Limits"]["MemoryBytes"], bytes(self.limit_memory.as_deref())?);
        set(&mut resources["Reservations"]["NanoCPUs"], self.reserve_cpu.map(|c| (c * 1e9) as i64));
        set(&mut resources["Limits"]["NanoCPUs"], self.limit_cpu.map(|c| (c * 1e9) as i64));
        set(&mut resources["Limits"]["Pids"], self.limit_pids);
        let restart = &mut task["RestartPolicy"];
        set(&mut restart["Condition"], self.restart_condition.clone());
        set(&mut restart["Delay"], duration(self.restart_delay.as_deref())?);
        set(&mut restart["MaxAttempts"], self.restart_max_attempts);
        set(&mut restart["Window"], duration(self.restart_window.as_deref())?);
        if self.log_driver.is_some() || !self.log_opt.is_empty() {
            task["LogDriver"] = json!({ "Name": self.log_driver, "Options": pairs(&self.log_opt) });
        }
        self.container(&mut task["ContainerSpec"])?;
        let update = &mut spec["UpdateConfig"];
        set(&mut update["Parallelism"], self.update_parallelism);
        set(&mut update["Delay"], duration(self.update_delay.as_deref())?);
        set(&mut update["FailureAction"], self.update_failure_action.clone());
        set(&mut update["Order"], self.update_order.clone());
        set(&mut update["Monitor"], duration(self.update_monitor.as_deref())?);
        set(&mut update["MaxFailureRatio"], self.update_max_failure_ratio);
        let back = &mut spec["RollbackConfig"];
        set(&mut back["Parallelism"], self.rollback_parallelism);
        set(&mut back["Delay"], duration(self.rollback_delay.as_deref())?);
        set(&mut back["FailureAction"], self.rollback_failure_action.clone());
        set(&mut back["Order"], self.rollback_order.clone());
        set(&mut back["Monitor"], duration(self.rollback_monitor.as_deref())?);
        set(&mut back["MaxFailureRatio"], self.rollback_max_failure_ratio);
        Ok(())
    }

    /// Sets how many tasks there are to be in a service's `mode`.
    pub fn scale(&self, mode: &mut Value) -> Result<()> {
        let (replicated, job) = (!mode["Replicated"].is_null(), !mode["ReplicatedJob"].is_null());
        if !replicated && !job {
            for (given, flag) in [
                (self.replicas.is_some(), "replicas"),
                (self.replicas_max_per_node.is_some_and(|n| n > 0), "replicas-max-per-node"),
            ] {
                ensure!(!given, "{flag} can only be used with replicated or replicated-job mode");
            }
        }
        ensure!(
            self.max_concurrent.is_none() || job,
            "max-concurrent can only be used with replicated-job mode"
        );
        if job {
            set(&mut mode["ReplicatedJob"]["TotalCompletions"], self.replicas);
            set(&mut mode["ReplicatedJob"]["MaxConcurrent"], self.max_concurrent);
        } else if replicated {
            set(&mut mode["Replicated"]["Replicas"], self.replicas);
        }
        Ok(())
    }

    fn container(&self, container: &mut Value) -> Result<()> {
        set(&mut container["StopGracePeriod"], duration(self.stop_grace_period.as_deref())?);
        if let Some(spec) = &self.credential_spec {
            bail!(
                "--credential-spec {spec} is not supported: credential specs are a Windows setting; leave it out"
            );
        }
        set(&mut container["StopSignal"], self.stop_signal.clone());
        set(&mut container["User"], self.user.clone());
        set(&mut container["Dir"], self.workdir.clone());
        set(&mut container["Hostname"], self.hostname.clone());
        set(&mut container["OomScoreAdj"], self.oom_score_adj);
        set(&mut container["Init"], self.init.then_some(true));
        set(&mut container["ReadOnly"], self.read_only.then_some(true));
        set(&mut container["TTY"], self.tty.then_some(true));
        if let Some(text) = &self.entrypoint {
            container["Command"] = json!(words(text)?);
        }
        let check = &mut container["Healthcheck"];
        if self.no_healthcheck {
            *check = json!({ "Test": ["NONE"] });
        }
        set(&mut check["Test"], self.health_cmd.as_ref().map(|c| json!(["CMD-SHELL", c])));
        set(&mut check["Interval"], duration(self.health_interval.as_deref())?);
        set(&mut check["Timeout"], duration(self.health_timeout.as_deref())?);
        set(&mut check["StartPeriod"], duration(self.health_start_period.as_deref())?);
        set(&mut check["StartInterval"], duration(self.health_start_interval.as_deref())?);
        set(&mut check["Retries"], self.health_retries);
        Ok(())
    }
}

fn bytes(text: Option<&str>) -> Result<Option<u64>> {
    text.map(|t| skep_engine::parse_size(t).with_context(|| format!("{t:?} is not a size like 512m")))
        .transpose()
}

/// `1m30s`, `500ms`, `5s` in nanoseconds (Go's duration syntax).
pub fn duration(text: Option<&str>) -> Result<Option<i64>> {
    text.map(|t| units::duration(t).with_context(|| format!("{t:?} is not a duration like 5s or 1m30s")))
        .transpose()
}

/// Splits words as a shell does: quotes and backslashes, nothing else.
pub fn words(text: &str) -> Result<Vec<String>> {
    units::words(text).with_context(|| format!("{text:?}: a quote is not closed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_words_read_as_go_and_a_shell_do() {
        assert_eq!(duration(Some("1m30s")).expect("duration"), Some(90_000_000_000));
        assert_eq!(duration(Some("500ms")).expect("duration"), Some(500_000_000));
        for bad in ["5", "", "s", "5x"] {
            assert!(duration(Some(bad)).is_err(), "{bad}");
        }
        assert_eq!(words("a 'b c' \"d e\" f\\ g").expect("words"), ["a", "b c", "d e", "f g"]);
        assert!(words("'open").is_err());
    }
}
