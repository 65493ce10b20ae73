//! Flags of `service create` and `service update` that are Skep's own. What they ask travels in fields of the spec
//! that Docker's clients pass over, and that stay as they are where an update says nothing of them.

use anyhow::{Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use super::create_body::set;
use super::service_spec::duration;

/// The flags.
#[derive(Args, Default)]
pub struct ExtraFlags {
    /// What tasks with local volumes do where their data is not to be had ("stay", "prefer", "ignore") (Skep's own)
    #[arg(long, value_name = "string", value_parser = ["stay", "prefer", "ignore"])]
    data_placement: Option<String>,
    /// Services that tasks wait for before they begin (SERVICE[:started|healthy|completed]; "" for none) (Skep's own)
    #[arg(long, value_name = "list")]
    depends_on: Vec<String>,
    /// Show what would come of it, and change nothing (Skep's own)
    #[arg(long)]
    pub dry_run: bool,
    /// Time a task that is to stop goes on with its connections, once it gets no new ones (ns|us|ms|s|m|h) (Skep's own)
    #[arg(long, value_name = "duration")]
    drain_time: Option<String>,
}

impl ExtraFlags {
    /// Sets in `spec` what is given.
    pub fn apply(&self, spec: &mut Value) -> Result<()> {
        set(&mut spec["DrainTime"], duration(self.drain_time.as_deref())?);
        set(&mut spec["DataPlacement"], self.data_placement.clone());
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

/// Sets in `spec` what `held` has and a file says nothing of to what it is by itself: the daemon would keep it.
pub fn forget_unnamed(spec: &mut Value, held: &Value) {
    let by_itself: [(&str, Value); 3] = [
        ("DrainTime", (skep_proto::defaults::DRAIN.as_nanos() as u64).into()),
        ("DataPlacement", "stay".into()),
        ("DependsOn", json!([])),
    ];
    for (field, value) in by_itself {
        if spec[field].is_null() && !held[field].is_null() {
            spec[field] = value;
        }
    }
}
