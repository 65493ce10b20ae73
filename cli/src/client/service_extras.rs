//! Flags of `service create` and `service update` that are Skep's own. What they ask travels in fields of the spec
//! that Docker's clients pass over, and that stay as they are where an update says nothing of them.

use anyhow::{Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};

use super::autoscale;
use super::create_body::{set, without_empty};
use super::service_spec::duration;

/// The flags.
#[derive(Args, Default)]
pub struct ExtraFlags {
    /// Scale by what tasks use: min=2,max=10,cpu=70%,... ("" for not) (Skep's own)
    #[arg(
        long,
        value_name = "options",
        long_help = "Scale by what tasks use (Skep's own): NAME=VALUE with commas between of min and max (replicas), cpu (70%, of \
                     what is reserved, else of the limit, else of one processor), memory (80%, of what is reserved, \
                     else of the limit; or 512M), metric, metric-port, metric-path (/metrics) and metric-target (a \
                     metric of the task's own in Prometheus' text format, and how much of it a task should have), \
                     cooldown (60s, between two changes) and window (5m, for how long fewer must have been enough). An \
                     update changes what is named; \"\" turns it off"
    )]
    autoscale: Option<String>,
    /// What tasks with local volumes do where their data is not to be had ("stay", "prefer", "ignore") (Skep's own)
    #[arg(long, value_name = "string", value_parser = ["stay", "prefer", "ignore"])]
    data_placement: Option<String>,
    /// Services that tasks wait for before they begin (SERVICE[:started|healthy|completed]; "" for none) (Skep's own)
    #[arg(long, value_name = "list")]
    depends_on: Vec<String>,
    /// Show what would come of it, and change nothing (Skep's own)
    #[arg(long)]
    pub dry_run: bool,
    /// How long a connection with its tasks may be idle before nodes forget it (2h, or tcp=2h,udp=5m; "" for as long as any other) (Skep's
    /// own)
    #[arg(long, value_name = "options")]
    idle_timeout: Option<String>,
    /// Move running tasks, a few at a time, where that spreads them more evenly, as over a node that is new or back
    /// (Skep's own)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "bool")]
    rebalance: Option<bool>,
    /// Time from the end of a move to the next (ns|us|ms|s|m|h) (default 5s) (Skep's own)
    #[arg(long, value_name = "duration")]
    rebalance_delay: Option<String>,
    /// Number of tasks that are moved at once (default 1) (Skep's own)
    #[arg(long, value_name = "uint")]
    rebalance_parallelism: Option<u64>,
    /// When a job is begun anew by itself: five fields of cron(8), or @hourly and its like; "" for never (Skep's own)
    #[arg(long, value_name = "cron")]
    schedule: Option<String>,
    /// What becomes of a run that is due while another is under way ("forbid", "allow", "replace") (Skep's own)
    #[arg(long, value_name = "string", value_parser = ["forbid", "allow", "replace"])]
    schedule_concurrency: Option<String>,
    /// Most that a run may begin late (ns|us|ms|s|m|h) (Skep's own)
    #[arg(long, value_name = "duration")]
    schedule_deadline: Option<String>,
    /// Number of runs that are remembered (default 10) (Skep's own)
    #[arg(long, value_name = "uint")]
    schedule_history: Option<u32>,
    /// Begin no runs by the schedule until this is false (Skep's own)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "bool")]
    schedule_suspend: Option<bool>,
    /// Time zone of the schedule, such as Europe/Berlin (default UTC) (Skep's own)
    #[arg(long, value_name = "string")]
    schedule_time_zone: Option<String>,
    /// Time a task that is to stop goes on with its connections, once it gets no new ones (ns|us|ms|s|m|h) (Skep's own)
    #[arg(long, value_name = "duration")]
    drain_time: Option<String>,
}

impl ExtraFlags {
    /// Sets in `spec` what is given.
    pub fn apply(&self, spec: &mut Value) -> Result<()> {
        set(&mut spec["DrainTime"], duration(self.drain_time.as_deref())?);
        set(&mut spec["DataPlacement"], self.data_placement.clone());
        let schedule = &mut spec["Schedule"];
        set(&mut schedule["Cron"], self.schedule.clone());
        set(&mut schedule["Concurrency"], self.schedule_concurrency.clone());
        set(&mut schedule["StartingDeadline"], duration(self.schedule_deadline.as_deref())?);
        set(&mut schedule["History"], self.schedule_history);
        set(&mut schedule["Suspend"], self.schedule_suspend);
        set(&mut schedule["TimeZone"], self.schedule_time_zone.clone());
        without_empty(schedule);
        let asked = schedule.as_object().is_some_and(|s| !s.is_empty());
        ensure!(
            !asked || schedule["Cron"].is_string(),
            "a schedule is set by --schedule; the other flags beginning with it say more of one that is set"
        );
        if !asked {
            spec["Schedule"] = Value::Null;
        }
        if let Some(text) = &self.autoscale {
            autoscale::flag(&mut spec["Autoscale"], text)?;
            without_empty(&mut spec["Autoscale"]);
        }
        if let Some(text) = &self.idle_timeout {
            spec["IdleTimeout"] = idle_timeout(text)?;
        }
        let rebalance = &mut spec["Rebalance"];
        set(&mut rebalance["Enabled"], self.rebalance);
        set(&mut rebalance["Delay"], duration(self.rebalance_delay.as_deref())?);
        set(&mut rebalance["Parallelism"], self.rebalance_parallelism);
        without_empty(rebalance);
        let asked = rebalance.as_object().is_some_and(|r| !r.is_empty());
        ensure!(
            !asked || rebalance["Enabled"].is_boolean(),
            "tasks are moved with --rebalance; the other flags beginning with it say more of that"
        );
        if !asked {
            spec["Rebalance"] = Value::Null;
        }
        if let Some(list) = self.depends_on()? {
            spec["DependsOn"] = list;
        }
        Ok(())
    }

    /// What is depended on, where that is said: an empty list asks for nothing to be.
    pub fn depends_on(&self) -> Result<Option<Value>> {
        if self.depends_on.is_empty() {
            return Ok(None);
        }
        let one = |text: &String| {
            let (service, condition) = text.split_once(':').unwrap_or((text, "started"));
            ensure!(
                ["started", "healthy", "completed"].contains(&condition) && !service.is_empty(),
                "invalid --depends-on {text:?}: want SERVICE[:started|healthy|completed]"
            );
            Ok(json!({ "Service": service, "Condition": condition }))
        };
        self.depends_on.iter().filter(|t| !t.is_empty()).map(one).collect::<Result<Value>>().map(Some)
    }
}

/// A duration for both protocols, or one for each that is named.
fn idle_timeout(text: &str) -> Result<Value> {
    let mut out = json!({ "TCP": 0, "UDP": 0 });
    for word in text.split(',').filter(|w| !w.is_empty()) {
        let (protocols, time): (&[&str], _) = match word.split_once('=') {
            Some(("tcp", time)) => (&["TCP"], time),
            Some(("udp", time)) => (&["UDP"], time),
            Some((other, _)) => bail!("invalid --idle-timeout {text:?}: {other:?} is neither tcp nor udp"),
            None => (&["TCP", "UDP"], word),
        };
        let time = if time == "0" { Some(0) } else { duration(Some(time))? };
        for protocol in protocols {
            set(&mut out[*protocol], time);
        }
    }
    Ok(out)
}

/// Sets in `spec` what `held` has and a file says nothing of to what it is by itself: the daemon would keep it.
pub fn forget_unnamed(spec: &mut Value, held: &Value) {
    let by_itself: [(&str, Value); 7] = [
        ("DrainTime", (skep_proto::defaults::DRAIN.as_nanos() as u64).into()),
        ("DataPlacement", "stay".into()),
        ("DependsOn", json!([])),
        ("IdleTimeout", json!({ "TCP": 0, "UDP": 0 })),
        ("Schedule", json!({ "Cron": "" })),
        ("Rebalance", json!({ "Enabled": false })),
        ("Autoscale", json!({ "Min": 0, "Max": 0 })),
    ];
    for (field, value) in by_itself {
        if spec[field].is_null() && !held[field].is_null() {
            spec[field] = value;
        }
    }
    // As many as what they use has made of them.
    let replicas = &held["Mode"]["Replicated"]["Replicas"];
    if spec["Autoscale"]["Max"].as_u64() > Some(0) && !held["Autoscale"].is_null() && !replicas.is_null() {
        spec["Mode"]["Replicated"]["Replicas"] = replicas.clone();
    }
    // A port that was open on one address.
    let held = held["EndpointSpec"]["Ports"].as_array().into_iter().flatten();
    for port in spec["EndpointSpec"]["Ports"].as_array_mut().into_iter().flatten() {
        let same =
            |p: &Value| p["TargetPort"] == port["TargetPort"] && p["PublishedPort"] == port["PublishedPort"];
        if port["HostIP"].is_null() && held.clone().any(|p| same(p) && !p["HostIP"].is_null()) {
            port["HostIP"] = "0.0.0.0".into();
        }
    }
}
