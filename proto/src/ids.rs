//! Typed identifiers: 25 characters of base 36 drawn at random (124 bits), as Swarm's are.

use std::fmt;
use std::sync::Arc;

use rand::Rng;

const ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
const LENGTH: usize = 25;

/// A fresh random identifier. `rng` is a parameter so that simulations replay from a seed.
pub fn random(rng: &mut impl Rng) -> String {
    (0..LENGTH).map(|_| ALPHABET[rng.random_range(0..ALPHABET.len())] as char).collect()
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// A fresh random identifier.
            pub fn random(rng: &mut impl Rng) -> Self {
                Self(random(rng).into())
            }
            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl From<&str> for $name {
            fn from(s: &str) -> Self {
                Self(s.into())
            }
        }
        impl From<String> for $name {
            fn from(s: String) -> Self {
                Self(s.into())
            }
        }
        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.as_ref().to_owned()
            }
        }
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// Identifies a node; also the CN of its certificate.
    NodeId
);
id!(
    /// Identifies a service.
    ServiceId
);
id!(
    /// Identifies a task: one incarnation of one slot.
    TaskId
);
id!(
    /// Identifies a swarm-scoped network.
    NetworkId
);
id!(
    /// Identifies the cluster; also the O of its certificates.
    ClusterId
);
