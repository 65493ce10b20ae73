//! A job as its user sees it: so many completions, so many at once, each slot begun until it is complete and never again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use skep_manager::control::ControlHandle;
use skep_manager::store::StoreView;
use skep_proto::v1::service_spec::Mode;
use skep_proto::v1::{self, TaskState};

use crate::client::{Record, Want};
use crate::job;

/// The name of the one there is.
pub const NAME: &str = "batch";
/// Its completions, and how many run beside each other.
pub const COMPLETIONS: u64 = 8;
const AT_ONCE: u64 = 3;

/// Makes the job.
pub struct BatchCommand {
    pub record: Arc<Record>,
}

impl BatchCommand {
    pub async fn run(self, control: ControlHandle) {
        self.record.stranger(NAME, Want { replicas: 0, image: 0 });
        let container = v1::ContainerSpec { image: job::IMAGE.into(), ..Default::default() };
        let restart = v1::RestartPolicy {
            condition: v1::RestartCondition::OnFailure.into(),
            delay_ns: Some(100_000_000),
            ..Default::default()
        };
        let mode = v1::ReplicatedJob { max_concurrent: AT_ONCE, total_completions: COMPLETIONS };
        let spec = v1::ServiceSpec {
            annotations: Some(v1::Annotations { name: NAME.into(), ..Default::default() }),
            task: Some(v1::TaskSpec {
                container: Some(container),
                restart: Some(restart),
                ..Default::default()
            }),
            mode: Some(Mode::ReplicatedJob(mode)),
            ..Default::default()
        };
        self.record.make(&control, "the job", spec).await;
    }
}

/// How many slots are complete; fails where one is twice, where too many are wanted at once, or where one that is complete
/// was begun again. A task that was replaced because its node was given up may yet come to its end there, and counts for
/// the slot alone.
pub fn complete(view: &StoreView) -> Result<u64, String> {
    let service = view.service_by_name(NAME).ok_or("the job is not there")?;
    let mut complete = BTreeSet::new();
    let mut done: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
    let mut wanted: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
    for task in view.tasks_of_service(&service.id) {
        let state = task.status.as_ref().map_or(TaskState::New, |s| s.state());
        let replaced = task.desired_state() != TaskState::Complete;
        if state == TaskState::Complete {
            complete.insert(task.slot);
        }
        if replaced {
            continue;
        }
        if state == TaskState::Complete {
            done.entry(task.slot).or_default().push(&task.id);
        } else if state < TaskState::Complete {
            wanted.entry(task.slot).or_default().push(&task.id);
        }
    }
    if let Some((slot, tasks)) = done.iter().find(|(_, tasks)| tasks.len() > 1) {
        return Err(format!("slot {slot} is complete by {tasks:?}"));
    }
    if let Some((slot, tasks)) =
        wanted.iter().find(|(slot, tasks)| tasks.len() > 1 || done.contains_key(slot))
    {
        return Err(format!("slot {slot} is begun by {tasks:?}, and complete by {:?}", done.get(slot)));
    }
    if wanted.len() as u64 > AT_ONCE {
        return Err(format!("{} run at once, not {AT_ONCE}", wanted.len()));
    }
    Ok(complete.len() as u64)
}
