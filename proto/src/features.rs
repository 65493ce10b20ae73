//! What containers of services may ask for that older versions do not know. Protocol buffers pass unknown fields over
//! without a word (<https://protobuf.dev/programming-guides/proto3/#unknowns>), so a node says what it knows in its
//! description (`NodeDescription.knows`), and none is given what it would drop. A field that is added to what tasks are
//! made of becomes one more of these.

use crate::v1::{ContainerSpec, NodeDescription};

/// A thing that nodes know since some version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    /// `RunOptions.domainname`.
    Domainname,
    /// `RunOptions.annotations`.
    Annotations,
    /// `RunOptions.storage_opt`.
    StorageOpt,
}

impl Feature {
    /// All that this version knows.
    pub const ALL: [Self; 3] = [Self::Domainname, Self::Annotations, Self::StorageOpt];

    /// Its name in a node's description.
    pub fn word(self) -> &'static str {
        match self {
            Self::Domainname => "domainname",
            Self::Annotations => "annotations",
            Self::StorageOpt => "storage-opt",
        }
    }

    /// What to call it.
    pub fn what(self) -> &'static str {
        match self {
            Self::Domainname => "domain names of containers",
            Self::Annotations => "annotations of containers",
            Self::StorageOpt => "storage options of containers",
        }
    }

    /// Whether the node says that it knows it.
    pub fn is_known_to(self, node: &NodeDescription) -> bool {
        node.knows.iter().any(|word| word == self.word())
    }
}

/// What a container asks for of it.
pub fn asked(c: &ContainerSpec) -> Vec<Feature> {
    let Some(run) = &c.run else { return Vec::new() };
    let asks = |f: &Feature| match f {
        Feature::Domainname => !run.domainname.is_empty(),
        Feature::Annotations => !run.annotations.is_empty(),
        Feature::StorageOpt => !run.storage_opt.is_empty(),
    };
    Feature::ALL.into_iter().filter(asks).collect()
}
