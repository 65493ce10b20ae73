//! Maps of sparse files: where the archived bytes go, in GNU tar's own form and in pax formats 0.1 and 1.0
//! (GNU tar manual, "Storing Sparse Files").

use std::io::Read;

use tar::EntryType;

use super::pax::{Records, decimal};
use super::{BLOCK, TarReader, broken, fill};
use crate::error::Error;

/// Pieces of one sparse file.
const MAX_EXTENTS: usize = 1 << 16;

impl<R: Read> TarReader<R> {
    /// The map of the current entry, if it is sparse.
    pub(super) fn extents(
        &mut self,
        header: &tar::Header,
        pax: &Records,
    ) -> Result<Option<Vec<(u64, u64)>>, Error> {
        let name = self.current.clone();
        let bad = move || broken(format!("entry {name:?} has an invalid map of its holes"));
        if header.entry_type() == EntryType::GNUSparse {
            return self.gnu_extents(header).map(Some);
        }
        if pax.get(b"GNU.sparse.major".as_slice()).is_some_and(|v| v == b"1") {
            return self.pax_extents().map(Some);
        }
        if let Some(map) = pax.get(b"GNU.sparse.map".as_slice()) {
            let numbers: Vec<u64> =
                map.split(|b| *b == b',').map(decimal).collect::<Option<_>>().ok_or_else(&bad)?;
            if !numbers.len().is_multiple_of(2) || numbers.len() / 2 > MAX_EXTENTS {
                return Err(bad());
            }
            return Ok(Some(numbers.chunks_exact(2).map(|p| (p[0], p[1])).collect()));
        }
        if pax.keys().any(|k| k.starts_with(b"GNU.sparse.offset")) {
            return Err(broken(format!(
                "entry {:?} uses sparse format 0.0; make the archive with a newer tar",
                self.current
            )));
        }
        Ok(None)
    }

    fn gnu_extents(&mut self, header: &tar::Header) -> Result<Vec<(u64, u64)>, Error> {
        let bad = |name: &str| broken(format!("entry {name:?} has an invalid map of its holes"));
        let gnu = header.as_gnu().ok_or_else(|| bad(&self.current))?;
        let mut out = Vec::new();
        let mut add = |list: &[tar::GnuSparseHeader], name: &str| {
            for s in list.iter().filter(|s| !s.is_empty()) {
                let (Ok(offset), Ok(len)) = (s.offset(), s.length()) else { return Err(bad(name)) };
                out.push((offset, len));
            }
            if out.len() > MAX_EXTENTS { Err(bad(name)) } else { Ok(()) }
        };
        add(&gnu.sparse, &self.current)?;
        let mut more = gnu.is_extended();
        while more {
            let mut extension = tar::GnuExtSparseHeader::new();
            let block = extension.as_mut_bytes();
            let n = fill(&mut self.inner, block).map_err(|e| self.unreadable(&e))?;
            if n < block.len() {
                return Err(self.cut(BLOCK - n as u64));
            }
            add(&extension.sparse, &self.current)?;
            more = extension.isextended[0] == 1;
        }
        Ok(out)
    }

    /// Format 1.0: the map stands before the data, as decimal lines padded to a block.
    fn pax_extents(&mut self) -> Result<Vec<(u64, u64)>, Error> {
        let bad = |name: &str| broken(format!("entry {name:?} has an invalid map of its holes"));
        let mut numbers: Vec<u64> = Vec::new();
        let mut line = Vec::new();
        let mut wanted = 1;
        while numbers.len() < wanted {
            let mut block = [0; BLOCK as usize];
            let n = fill(self, &mut block).map_err(|e| self.unreadable(&e))?;
            if n < block.len() {
                return Err(bad(&self.current));
            }
            for b in block {
                if numbers.len() == wanted {
                    break;
                }
                if b != b'\n' {
                    line.push(b);
                    continue;
                }
                let number = decimal(&line).ok_or_else(|| bad(&self.current))?;
                line.clear();
                if numbers.is_empty() {
                    let count = usize::try_from(number).unwrap_or(usize::MAX);
                    if count > MAX_EXTENTS {
                        return Err(bad(&self.current));
                    }
                    wanted = 1 + 2 * count;
                }
                numbers.push(number);
            }
        }
        Ok(numbers[1..].chunks_exact(2).map(|p| (p[0], p[1])).collect())
    }
}

/// Refuses a map that goes back, goes beyond the file, or needs more bytes than are archived.
pub(super) fn check(extents: &[(u64, u64)], size: u64, stored: u64, name: &str) -> Result<(), Error> {
    let (mut end, mut data) = (0u64, 0u64);
    for (offset, len) in extents {
        let next = offset.checked_add(*len).filter(|n| *offset >= end && *n <= size);
        let Some(next) = next else {
            return Err(broken(format!("entry {name:?} has an invalid map of its holes")));
        };
        end = next;
        data += len;
    }
    if !extents.is_empty() && data > stored {
        return Err(broken(format!("entry {name:?} says it has {data} bytes of data and holds {stored}")));
    }
    Ok(())
}
