//! What a record says: one kind byte, then a prost message.

use prost::Message as _;
use skep_proto::v1;

/// A record of a segment or of a snapshot file.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// Whose log this is.
    Identity(v1::RaftIdentity),
    /// Term, vote and commit index.
    HardState(v1::RaftHardState),
    /// One entry; it replaces the entry of the same index and all behind it.
    Entry(v1::RaftEntry),
    /// The log restarts behind a snapshot received from the leader.
    Mark(v1::RaftLogMark),
    /// Head of a snapshot file: everything but its data.
    SnapshotHead(v1::RaftSnapshot),
    /// A piece of a snapshot's data.
    SnapshotChunk(Vec<u8>),
    /// End of a snapshot file: the length of its data.
    SnapshotEnd(u64),
}

impl Record {
    /// Encodes the record.
    pub(super) fn encode(&self) -> Vec<u8> {
        fn with(kind: u8, message: &impl prost::Message) -> Vec<u8> {
            let mut bytes = Vec::with_capacity(1 + message.encoded_len() + super::keys::TAG);
            bytes.push(kind);
            message.encode(&mut bytes).expect("a Vec grows as needed");
            bytes
        }
        match self {
            Self::Identity(message) => with(1, message),
            Self::HardState(message) => with(2, message),
            Self::Entry(message) => with(3, message),
            Self::Mark(message) => with(4, message),
            Self::SnapshotHead(message) => with(5, message),
            Self::SnapshotChunk(bytes) => [&[6], bytes.as_slice()].concat(),
            Self::SnapshotEnd(length) => [&[7], length.to_le_bytes().as_slice()].concat(),
        }
    }

    /// Decodes what `encode` made.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let (kind, rest) = bytes.split_first().ok_or("an empty record")?;
        let bad = |error: prost::DecodeError| format!("record of kind {kind}: {error}");
        Ok(match kind {
            1 => Self::Identity(v1::RaftIdentity::decode(rest).map_err(bad)?),
            2 => Self::HardState(v1::RaftHardState::decode(rest).map_err(bad)?),
            3 => Self::Entry(v1::RaftEntry::decode(rest).map_err(bad)?),
            4 => Self::Mark(v1::RaftLogMark::decode(rest).map_err(bad)?),
            5 => Self::SnapshotHead(v1::RaftSnapshot::decode(rest).map_err(bad)?),
            6 => Self::SnapshotChunk(rest.to_vec()),
            7 => Self::SnapshotEnd(u64::from_le_bytes(
                rest.try_into().map_err(|_| "a snapshot end of wrong length")?,
            )),
            other => return Err(format!("record of unknown kind {other}: written by a newer version")),
        })
    }
}
