//! Flags of `service create` and `service update` that are Skep's own. What they ask travels in fields of the spec
//! that Docker's clients pass over, and that stay as they are where an update says nothing of them.

use anyhow::Result;
use clap::Args;
use serde_json::Value;

use super::create_body::set;
use super::service_spec::duration;

/// The flags.
#[derive(Args, Default)]
pub struct ExtraFlags {
    /// What tasks with local volumes do where their data is not to be had ("stay", "prefer", "ignore") (Skep's own)
    #[arg(long, value_name = "string", value_parser = ["stay", "prefer", "ignore"])]
    data_placement: Option<String>,
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
        Ok(())
    }
}

/// Sets in `spec` what `held` has and a file says nothing of to what it is by itself: the daemon would keep it.
pub fn forget_unnamed(spec: &mut Value, held: &Value) {
    let by_itself: [(&str, Value); 2] = [
        ("DrainTime", (skep_proto::defaults::DRAIN.as_nanos() as u64).into()),
        ("DataPlacement", "stay".into()),
    ];
    for (field, value) in by_itself {
        if spec[field].is_null() && !held[field].is_null() {
            spec[field] = value;
        }
    }
}
