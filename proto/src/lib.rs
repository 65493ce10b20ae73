//! What travels between Skep's parts and what managers replicate: the messages of `skep/v1/*.proto`,
//! typed identifiers, and defaults. Imports nothing else of Skep.

#![forbid(unsafe_code)]

pub mod defaults;
pub mod features;
pub mod gpus;
pub mod host_ip;
pub mod ids;
pub mod privileges;

/// Generated messages and services; the fields are documented in the .proto files.
#[allow(missing_docs, clippy::all)]
#[rustfmt::skip]
pub mod v1 {
    include!("gen/skep.v1.rs");
}

impl std::fmt::Debug for v1::Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Content({} bytes)", self.data.len())
    }
}

impl v1::Task {
    /// The slot as users know it: those of a replicated job are counted from 0, as Docker's clients expect. 0 also
    /// where a task is bound to its node.
    #[must_use]
    pub fn shown_slot(&self) -> u64 {
        if self.job_iteration.is_some() { self.slot.saturating_sub(1) } else { self.slot }
    }

    /// What the task, its container and its address are called: `service.slot.id`, or `service.node.id` where it is bound
    /// to its node (and, as with Docker, for the first of a replicated job).
    #[must_use]
    pub fn name(&self, service: &str) -> String {
        match self.shown_slot() {
            0 => format!("{service}.{}.{}", self.node_id, self.id),
            slot => format!("{service}.{slot}.{}", self.id),
        }
    }
}
