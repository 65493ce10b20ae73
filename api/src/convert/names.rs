//! Docker's words for the values of the swarm's enumerations, both ways.

use skep_proto::v1::{
    DataPlacement, EndpointMode, NodeAvailability, NodeRole, NodeState, PortProtocol, PrerequisiteCondition,
    PublishMode, RebalanceState, RestartCondition, RunOutcome, ScheduleConcurrency, TaskState,
    UpdateFailureAction, UpdateOrder, UpdateState,
};

use crate::error::{ApiError, ApiResult};

/// An enumeration with Docker's word for each value; the first is the default of an empty word.
pub trait Named: Copy + PartialEq + TryFrom<i32> + 'static {
    /// Every value with its word.
    const WORDS: &'static [(Self, &'static str)];

    /// Reads a word.
    fn read(path: &str, word: &str) -> ApiResult<Self> {
        if word.is_empty() {
            return Ok(Self::WORDS[0].0);
        }
        Self::WORDS.iter().find(|(_, w)| *w == word).map(|(v, _)| *v).ok_or_else(|| {
            let words: Vec<_> = Self::WORDS.iter().map(|(_, w)| *w).collect();
            ApiError::bad_request(format!("{path} = {word:?} is not valid: use one of {}", words.join(", ")))
        })
    }

    /// The word of a value as it is in a message.
    fn word(value: i32) -> &'static str {
        let value = Self::try_from(value).ok();
        Self::WORDS.iter().find(|(v, _)| Some(*v) == value).map_or("unknown", |(_, w)| w)
    }
}

macro_rules! named {
    ($type:ident: $($value:ident = $word:literal),+ $(,)?) => {
        impl Named for $type {
            const WORDS: &'static [(Self, &'static str)] = &[$(($type::$value, $word)),+];
        }
    };
}

named!(NodeRole: Worker = "worker", Manager = "manager");
named!(NodeAvailability: Active = "active", Pause = "pause", Drain = "drain");
named!(NodeState: Unknown = "unknown", Down = "down", Ready = "ready", Disconnected = "disconnected");
named!(RestartCondition: Any = "any", None = "none", OnFailure = "on-failure");
named!(UpdateFailureAction: Pause = "pause", Continue = "continue", Rollback = "rollback");
named!(UpdateOrder: StopFirst = "stop-first", StartFirst = "start-first");
named!(PublishMode: Ingress = "ingress", Host = "host");
named!(PortProtocol: Tcp = "tcp", Udp = "udp", Sctp = "sctp");
named!(DataPlacement: Stay = "stay", Prefer = "prefer", Ignore = "ignore");
named!(PrerequisiteCondition: Started = "started", Healthy = "healthy", Completed = "completed");
named!(ScheduleConcurrency: Forbid = "forbid", Allow = "allow", Replace = "replace");
named!(RunOutcome:
    Running = "running", Complete = "complete", Failed = "failed", Skipped = "skipped", Missed = "missed",
    Replaced = "replaced",
);
named!(RebalanceState: None = "none", Moving = "moving", Completed = "completed", Stopped = "stopped");
named!(EndpointMode: Vip = "vip", Dnsrr = "dnsrr");
named!(UpdateState:
    None = "", Updating = "updating", Paused = "paused", Completed = "completed",
    RollbackStarted = "rollback_started", RollbackPaused = "rollback_paused",
    RollbackCompleted = "rollback_completed",
);
named!(TaskState:
    New = "new", Pending = "pending", Assigned = "assigned", Accepted = "accepted",
    Preparing = "preparing", Ready = "ready", Starting = "starting", Running = "running",
    Complete = "complete", Shutdown = "shutdown", Failed = "failed", Rejected = "rejected",
    Remove = "remove", Orphaned = "orphaned",
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_and_written() {
        assert_eq!(NodeAvailability::read("A", "drain"), Ok(NodeAvailability::Drain));
        assert_eq!(NodeAvailability::read("A", ""), Ok(NodeAvailability::Active));
        assert_eq!(TaskState::word(TaskState::Running as i32), "running");
        assert_eq!(TaskState::word(-7), "unknown");
        let e = NodeRole::read("Role", "boss").expect_err("no such role");
        assert_eq!(e.message, "Role = \"boss\" is not valid: use one of worker, manager");
    }
}
