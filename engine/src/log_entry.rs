//! Docker's `local` log format: protobuf messages (moby's `entry.proto`), each between its length twice, so
//! that a file can be read from either end. It is also how messages go to receivers' processes.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::UNIX_EPOCH;

use prost::Message;

/// Bytes of a length.
pub(crate) const LENGTH: usize = 4;
/// Longest message that is believed.
pub(crate) const MAX_ENTRY: usize = 1 << 20;

/// One message.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct LogEntry {
    /// `stdout` or `stderr`.
    #[prost(string, tag = "1")]
    pub(crate) source: String,
    /// Nanoseconds since the Unix epoch.
    #[prost(int64, tag = "2")]
    pub(crate) time_nano: i64,
    /// Without a line end.
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) line: Vec<u8>,
    #[prost(bool, tag = "4")]
    pub(crate) partial: bool,
    #[prost(message, optional, tag = "5")]
    pub(crate) part: Option<EntryPart>,
    #[prost(message, repeated, tag = "6")]
    pub(crate) attributes: Vec<EntryAttribute>,
}

/// Which part of a long line.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct EntryPart {
    #[prost(bool, tag = "1")]
    pub(crate) last: bool,
    #[prost(string, tag = "2")]
    pub(crate) id: String,
    #[prost(int32, tag = "3")]
    pub(crate) ordinal: i32,
}

/// A label or a variable that is told with it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct EntryAttribute {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(string, tag = "2")]
    pub(crate) value: String,
}

impl LogEntry {
    /// Whether a line ends with it.
    pub(crate) fn ends(&self) -> bool {
        !self.partial || self.part.as_ref().is_some_and(|p| p.last)
    }

    /// Adds it to `out`, between its lengths.
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        let length = u32::try_from(self.encoded_len()).unwrap_or(0).to_be_bytes();
        out.extend_from_slice(&length);
        out.extend_from_slice(&self.encode_to_vec());
        out.extend_from_slice(&length);
    }

    /// Reads what stands between the lengths.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, String> {
        Self::decode(bytes).map_err(|e| e.to_string())
    }
}

/// What tells a file of a log from the others, also once it is compressed: its inode, which another may have after
/// it, and when that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    inode: u64,
    born_ns: u64,
}

/// Subfield of a gzip header (RFC 1952, section 2.3.1.1) with an identity: its name and its length.
const SUBFIELD: [u8; 4] = [b'S', b'K', 16, 0];

impl Identity {
    /// Of an open file. File systems that do not know when a file was made tell inodes apart at least.
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let born = metadata.created().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
        let born_ns = born.and_then(|t| u64::try_from(t.as_nanos()).ok()).unwrap_or(0);
        Ok(Self { inode: metadata.ino(), born_ns })
    }

    /// For the header of the compressed file.
    pub(crate) fn to_extra(self) -> Vec<u8> {
        [&SUBFIELD[..], &self.inode.to_le_bytes(), &self.born_ns.to_le_bytes()].concat()
    }

    /// From such a header.
    pub(crate) fn from_extra(extra: &[u8]) -> Option<Self> {
        let (inode, born) = extra.strip_prefix(&SUBFIELD)?.split_first_chunk()?;
        Some(Self { inode: u64::from_le_bytes(*inode), born_ns: u64::from_le_bytes(born.try_into().ok()?) })
    }
}
