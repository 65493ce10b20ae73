//! The files' layout: a header, then framed records; and the verdict on bytes that are not a record.
//!
//! ```text
//! header  magic 8 | sequence 8 | previous segment's length 8 | salt 32 | crc32c 4 | zero 4     (64 bytes)
//! record  magic 4 | length 4 | durable 8 | crc32c 4 | sealed bytes | end mark 8
//! ```
//! `durable` is the offset up to which the file was known to be on disk when the record was written. A bad
//! record below a later record's `durable` was acknowledged: that is damage. At the tail, a write that a
//! crash cut short leaves a sector (or the rest) as it was, zero; a flipped bit does not. Damage is an error,
//! a torn tail is cut.

use super::keys::{FileCipher, Key, TAG};

pub(super) const HEADER: usize = 64;
pub(super) const SEGMENT_MAGIC: &[u8; 8] = b"SKEPWAL1";
pub(super) const SNAPSHOT_MAGIC: &[u8; 8] = b"SKEPSNP1";

const RECORD_MAGIC: [u8; 4] = [0xA7, 0x5C, 0xE1, 0x93];
const END_MARK: [u8; 8] = [0xE7, 0x1D, 0xB5, 0x6A, 0xC3, 0x92, 0xF8, 0x4B];
const PREFIX: usize = 20;
const SECTOR: usize = 512;

/// The first bytes of a file.
pub(super) struct Header {
    pub sequence: u64,
    pub previous: u64,
    pub salt: Key,
}

impl Header {
    pub(super) fn encode(&self, magic: &[u8; 8]) -> [u8; HEADER] {
        let mut bytes = [0u8; HEADER];
        bytes[..8].copy_from_slice(magic);
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.previous.to_le_bytes());
        bytes[24..56].copy_from_slice(&self.salt);
        let crc = crc32c::crc32c(&bytes[..56]);
        bytes[56..60].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(super) fn decode(magic: &[u8; 8], bytes: &[u8]) -> Option<Self> {
        let header = bytes.get(..HEADER)?;
        if &header[..8] != magic || crc32c::crc32c(&header[..56]) != u32_at(header, 56)? {
            return None;
        }
        Some(Self {
            sequence: u64_at(header, 8)?,
            previous: u64_at(header, 16)?,
            salt: header[24..56].try_into().ok()?,
        })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// Bytes a record of `plain` bytes takes in the file.
pub(super) fn record_size(plain: usize) -> usize {
    PREFIX + plain + TAG + END_MARK.len()
}

/// Appends a record that will lie at `offset` of the file.
pub(super) fn encode_record(
    cipher: &FileCipher,
    offset: u64,
    durable: u64,
    mut plain: Vec<u8>,
    out: &mut Vec<u8>,
) {
    let mut prefix = [0u8; PREFIX];
    prefix[..4].copy_from_slice(&RECORD_MAGIC);
    prefix[4..8].copy_from_slice(&((plain.len() + TAG) as u32).to_le_bytes());
    prefix[8..16].copy_from_slice(&durable.to_le_bytes());
    cipher.seal(offset, &prefix[..16], &mut plain);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&prefix[..16]), &plain);
    prefix[16..].copy_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&prefix);
    out.extend_from_slice(&plain);
    out.extend_from_slice(&END_MARK);
}

struct Parsed<'a> {
    durable: u64,
    aad: &'a [u8],
    sealed: &'a [u8],
    next: usize,
}

/// A record whose checksum holds.
fn parse(bytes: &[u8], at: usize) -> Option<Parsed<'_>> {
    if bytes.get(at..at.checked_add(4)?)? != RECORD_MAGIC {
        return None;
    }
    let length = u32_at(bytes, at + 4)? as usize;
    let body = at + PREFIX;
    let sealed = bytes.get(body..body.checked_add(length)?)?;
    let aad = &bytes[at..at + 16];
    if length < TAG || crc32c::crc32c_append(crc32c::crc32c(aad), sealed) != u32_at(bytes, at + 16)? {
        return None;
    }
    Some(Parsed { durable: u64_at(bytes, at + 8)?, aad, sealed, next: body + length + END_MARK.len() })
}

/// What is at an offset.
pub(super) enum Found {
    /// A record, and the offset behind it.
    Record { plain: Vec<u8>, next: usize },
    /// Nothing was written from here on.
    End,
    /// A write that a crash cut short; it was never acknowledged.
    Torn,
    /// Acknowledged bytes that changed.
    Damaged(String),
}

/// Reads the record at `at`. `sealed_end` says that every byte of the file was durable (it is not the last).
pub(super) fn read_record(cipher: &FileCipher, bytes: &[u8], at: usize, sealed_end: bool) -> Found {
    if let Some(record) = parse(bytes, at) {
        return match cipher.open(at as u64, record.aad, record.sealed) {
            Some(plain) => Found::Record { plain, next: record.next.min(bytes.len()) },
            None => Found::Damaged("the record's checksum holds but its encryption does not".into()),
        };
    }
    let Some(last) = bytes[at..].iter().rposition(|byte| *byte != 0).map(|position| at + position) else {
        return if sealed_end && at < bytes.len() {
            Found::Damaged("the file ends in zeros where records were written".into())
        } else {
            Found::End
        };
    };
    if sealed_end {
        return Found::Damaged("a record's checksum does not hold".into());
    }
    if later_record_covers(bytes, at) {
        return Found::Damaged(
            "a record's checksum does not hold, and later records were acknowledged".into(),
        );
    }
    if has_unwritten_sector(bytes, at, last) || !bytes[..=last].ends_with(&END_MARK) {
        return Found::Torn;
    }
    Found::Damaged("the last record was completely written but its checksum does not hold".into())
}

/// Whether a record behind `at` was written when `at` was already durable.
fn later_record_covers(bytes: &[u8], at: usize) -> bool {
    (at + 1..bytes.len())
        .filter(|start| bytes[*start] == RECORD_MAGIC[0])
        .filter_map(|start| parse(bytes, start))
        .any(|record| record.durable > at as u64)
}

/// Whether a sector between the offsets is still as it was before it was written to.
fn has_unwritten_sector(bytes: &[u8], from: usize, last: usize) -> bool {
    let mut start = from;
    while start <= last {
        let end = ((start / SECTOR + 1) * SECTOR).min(last + 1);
        if bytes[start..end].iter().all(|byte| *byte == 0) {
            return true;
        }
        start = end;
    }
    false
}
