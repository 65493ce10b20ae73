//! A job with a schedule, as its user sees it: one run a minute of the swarm's time, whoever leads.

use std::sync::Arc;

use skep_manager::control::ControlHandle;
use skep_manager::store::StoreView;
use skep_proto::v1::service_spec::Mode;
use skep_proto::v1::{self, RunOutcome};

use crate::client::{Record, Want};

/// The name of the one there is.
pub const NAME: &str = "tick";
/// Containers of this image come to a good end by themselves.
pub const IMAGE: &str = "job";
/// From one run to the next.
const MINUTE_MS: i64 = 60_000;

/// Makes the job.
pub struct JobCommand {
    pub record: Arc<Record>,
}

impl JobCommand {
    pub async fn run(self, control: ControlHandle) {
        self.record.stranger(NAME, Want { replicas: 0, image: 0 });
        let container = v1::ContainerSpec { image: IMAGE.into(), ..Default::default() };
        let restart = v1::RestartPolicy {
            condition: v1::RestartCondition::OnFailure.into(),
            delay_ns: Some(100_000_000),
            ..Default::default()
        };
        let schedule = v1::Schedule { cron: "* * * * *".into(), history: Some(100), ..Default::default() };
        let spec = v1::ServiceSpec {
            annotations: Some(v1::Annotations { name: NAME.into(), ..Default::default() }),
            task: Some(v1::TaskSpec {
                container: Some(container),
                restart: Some(restart),
                ..Default::default()
            }),
            mode: Some(Mode::ReplicatedJob(v1::ReplicatedJob { max_concurrent: 1, total_completions: 1 })),
            schedule: Some(schedule),
            ..Default::default()
        };
        self.record.make(&control, "the job", spec).await;
    }
}

/// How many runs are complete; fails where one came twice, between the minutes, or came to nothing.
pub fn complete(view: &StoreView) -> Result<usize, String> {
    let service = view.service_by_name(NAME).ok_or("the job is not there")?;
    let runs = service.schedule_status.as_ref().map_or(&[][..], |s| &s.runs);
    if let Some(odd) = runs.iter().find(|r| r.due_ms % MINUTE_MS != 0) {
        return Err(format!("a run was due at {}", odd.due_ms));
    }
    if let Some(pair) =
        runs.windows(2).find(|w| w[0].due_ms >= w[1].due_ms || w[0].iteration >= w[1].iteration)
    {
        return Err(format!("{pair:?} are not one after the other"));
    }
    if let Some(bad) =
        runs.iter().find(|r| !matches!(r.outcome(), RunOutcome::Complete | RunOutcome::Running))
    {
        return Err(format!("{bad:?}"));
    }
    Ok(runs.iter().filter(|r| r.outcome() == RunOutcome::Complete).count())
}
