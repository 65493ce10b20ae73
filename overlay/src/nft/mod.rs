//! nftables: one table as plain data ([`Table`]), the difference between what is wanted and what the
//! kernel holds, and one transaction that removes it. Our own encoder, because no crate knows numgen.

mod diff;
mod dump;
mod expr;
mod guest;
mod timeout;
mod transaction;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use diff::{Change, changes, diff};
pub use dump::read;
pub(crate) use expr::digest;
pub use expr::{Builder, Direction, Field, Rule};
pub use guest::{Gate, admit, admitted, withdraw};
pub use timeout::{TCP, Timeout, UDP, probe as probe_timeouts};
pub use transaction::{apply, delete_table};

/// Which packets a table is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// `NFPROTO_*`.
    pub fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }

    /// Bytes of an address.
    fn bytes(self) -> u32 {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }
}

/// A table with all it holds, as wanted or as read from the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Chains by name.
    pub chains: BTreeMap<String, Chain>,
    /// Sets and maps by name; shared, because the large ones seldom change.
    pub sets: BTreeMap<String, Arc<Set>>,
    /// Timeouts of connections by name.
    pub timeouts: BTreeMap<String, Timeout>,
}

/// A chain; a base chain where it has a hook.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where it hangs.
    pub hook: Option<Hook>,
    /// In order.
    pub rules: Vec<Rule>,
}

/// Where a base chain hangs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// `filter` or `nat`.
    pub kind: String,
    /// `NF_INET_*`.
    pub number: u32,
    /// Lower runs earlier.
    pub priority: i32,
}

/// `NF_INET_PRE_ROUTING`: what arrives.
pub const PREROUTING: u32 = 0;
/// `NF_INET_LOCAL_IN`: what is for the host.
pub const INPUT: u32 = 1;
/// `NF_INET_FORWARD`: what passes through.
pub const FORWARD: u32 = 2;
/// `NF_INET_LOCAL_OUT`: what the host sends.
pub const OUTPUT: u32 = 3;
/// `NF_INET_POST_ROUTING`: what leaves.
pub const POSTROUTING: u32 = 4;

impl Hook {
    /// A hook of this kind.
    pub fn new(kind: &str, number: u32, priority: i32) -> Self {
        Self { kind: kind.into(), number, priority }
    }
}

/// A set, or a map where `data` is not empty, or there are `timeouts`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// Fields of the key, concatenated where there are several.
    pub key: Vec<Field>,
    /// Fields of the value.
    pub data: Vec<Field>,
    /// Elements are ranges; the key then needs two fields or more.
    pub interval: bool,
    /// Values are timeouts of the table.
    pub timeouts: bool,
    /// What it holds.
    pub elements: BTreeSet<Element>,
}

/// One element of a set.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element {
    /// Key, or the start of the range.
    pub key: Vec<u8>,
    /// Last key of the range.
    pub end: Vec<u8>,
    /// Value.
    pub data: Vec<u8>,
    /// Name of the timeout that is its value.
    pub object: String,
}

impl Set {
    /// An empty set of single keys.
    pub fn of(key: &[Field]) -> Self {
        Self { key: key.into(), ..Self::default() }
    }

    /// An empty set of ranges.
    pub fn ranges(key: &[Field]) -> Self {
        Self { key: key.into(), interval: true, ..Self::default() }
    }

    /// An empty map.
    pub fn map(key: &[Field], data: &[Field]) -> Self {
        Self { key: key.into(), data: data.into(), ..Self::default() }
    }

    /// An empty map to timeouts of the table.
    pub fn timeouts(key: &[Field]) -> Self {
        Self { key: key.into(), timeouts: true, ..Self::default() }
    }

    /// Adds a key.
    pub fn add(&mut self, key: Vec<u8>) {
        self.elements.insert(Element { key, ..Element::default() });
    }

    /// Adds a key with its value; a key that is there keeps its own.
    pub fn set(&mut self, key: Vec<u8>, data: Vec<u8>) {
        self.insert(Element { key, data, ..Element::default() });
    }

    /// Adds a key with the timeout it stands for; a key that is there keeps its own.
    pub fn set_timeout(&mut self, key: Vec<u8>, timeout: Timeout) {
        self.insert(Element { key, object: timeout.name(), ..Element::default() });
    }

    fn insert(&mut self, element: Element) {
        let least = Element { key: element.key.clone(), ..Element::default() };
        if self.elements.range(least..).next().is_none_or(|e| e.key != element.key) {
            self.elements.insert(element);
        }
    }

    /// Adds a range of concatenated keys, both ends included.
    pub fn add_range(&mut self, key: Vec<u8>, end: Vec<u8>) {
        self.elements.insert(Element { key, end, ..Element::default() });
    }

    fn same_shape(&self, other: &Self) -> bool {
        let shape = |s: &Self| (s.key.clone(), s.data.clone(), s.interval, s.timeouts);
        shape(self) == shape(other)
    }
}

/// What the transaction could not do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket failed.
    #[error("nftables table {table}: {source}; is nftables built into this kernel?")]
    Socket {
        /// Table.
        table: String,
        /// Cause.
        source: std::io::Error,
    },
    /// The kernel refused a step; nothing of the transaction was done.
    #[error("nftables table {table}: {step}: {errno}")]
    Refused {
        /// Table.
        table: String,
        /// The step refused.
        step: String,
        /// Why.
        errno: nix::errno::Errno,
    },
}
