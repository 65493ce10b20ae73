//! What travels between Skep's parts and what managers replicate: the messages of `skep/v1/*.proto`,
//! typed identifiers, and defaults. Imports nothing else of Skep.

#![forbid(unsafe_code)]

pub mod defaults;
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
}
