//! What travels between Skep's parts and what managers replicate: the messages of `skep/v1/*.proto`,
//! typed identifiers, and defaults. Imports nothing else of Skep.

#![forbid(unsafe_code)]

pub mod defaults;
pub mod ids;

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
