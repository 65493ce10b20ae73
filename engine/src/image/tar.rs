//! A tar reader that trusts nothing: every header is bounded and checked, and a cut archive is an error
//! that says where it ends. ustar, GNU long names, pax, and the sparse forms of GNU tar.

use std::collections::BTreeMap;
use std::io::{self, Read};

use tar::EntryType;

use crate::error::Error;

const BLOCK: u64 = 512;
/// Bytes of one long-name or pax header.
const MAX_EXTENSION: u64 = 1 << 20;
/// Pieces of one sparse file.
const MAX_EXTENTS: usize = 1 << 16;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// One entry; its data follows in the reader.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: (i64, i64),
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Bytes of the file once unpacked.
    pub(super) size: u64,
    /// Where the archived bytes go, for a sparse file.
    pub(super) extents: Option<Vec<(u64, u64)>>,
}

impl Entry {
    /// The path for messages.
    pub(super) fn name(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }
}

/// Reads entries one after another; `Read` gives the data of the current one.
pub(super) struct TarReader<R> {
    inner: R,
    left: u64,
    padding: u64,
    current: String,
    entries: u64,
    global: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Whether an end without the two zero blocks is an error.
    trailer_required: bool,
}

fn broken(what: impl Into<String>) -> Error {
    Error::Archive(what.into())
}

impl<R: Read> TarReader<R> {
    /// With `trailer_required`, an archive that ends without its end mark counts as cut short.
    pub(super) fn new(inner: R, trailer_required: bool) -> Self {
        Self {
            inner,
            left: 0,
            padding: 0,
            current: String::new(),
            entries: 0,
            global: BTreeMap::new(),
            trailer_required,
        }
    }

    /// The next entry; what is left of the current one is skipped.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, Error> {
        let mut long_path: Option<Vec<u8>> = None;
        let mut long_link: Option<Vec<u8>> = None;
        let mut pax: Option<BTreeMap<Vec<u8>, Vec<u8>>> = None;
        loop {
            self.skip()?;
            let Some(block) = self.header_block()? else {
                if long_path.is_some() || long_link.is_some() || pax.is_some() {
                    return Err(broken("it ends after an extension header whose entry is missing"));
                }
                return Ok(None);
            };
            let header = tar::Header::from_byte_slice(&block);
            let name = String::from_utf8_lossy(&header.path_bytes()).into_owned();
            self.check(header, &name)?;
            let stored = or_blank(&header.as_old().size, header.entry_size())
                .map_err(|e| broken(format!("entry {name:?} has no valid size: {e}")))?;
            self.entries += 1;
            self.begin(name, stored)?;
            match header.entry_type() {
                EntryType::GNULongName => long_path = Some(self.long_name()?),
                EntryType::GNULongLink => long_link = Some(self.long_name()?),
                EntryType::XHeader => pax = Some(self.pax()?),
                EntryType::XGlobalHeader => {
                    let more = self.pax()?;
                    self.global.extend(more);
                }
                _ => {
                    let mut keys = self.global.clone();
                    keys.extend(pax.unwrap_or_default());
                    return self.entry(header, long_path, long_link, &keys).map(Some);
                }
            }
        }
    }

    fn header_block(&mut self) -> Result<Option<[u8; BLOCK as usize]>, Error> {
        let mut block = [0; BLOCK as usize];
        let mut zeros = 0;
        loop {
            let n = fill(&mut self.inner, &mut block).map_err(|e| self.unreadable(&e))?;
            if n == 0 {
                if self.entries == 0 && zeros == 0 {
                    return Err(broken("it is empty"));
                }
                if zeros == 0 && self.trailer_required {
                    return Err(broken(format!(
                        "it is cut short: it ends after entry {:?} without its end mark",
                        self.current
                    )));
                }
                return Ok(None);
            }
            if n < block.len() {
                if self.entries == 0 {
                    return Err(broken("it is not a tar archive, nor one compressed with gzip or zstd"));
                }
                return Err(broken(format!(
                    "it is cut short: it ends within the header after entry {:?}",
                    self.current
                )));
            }
            if block.iter().any(|b| *b != 0) {
                if zeros > 0 {
                    return Ok(None);
                }
                return Ok(Some(block));
            }
            zeros += 1;
            if zeros == 2 {
                return Ok(None);
            }
        }
    }

    fn check(&self, header: &tar::Header, name: &str) -> Result<(), Error> {
        let sum: u32 = header
            .as_bytes()
            .iter()
            .enumerate()
            .map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) })
            .sum();
        if header.cksum().ok() == Some(sum) {
            return Ok(());
        }
        if self.entries == 0 {
            return Err(broken("it is not a tar archive, nor one compressed with gzip or zstd"));
        }
        Err(broken(format!(
            "the header of entry {name:?} (after {:?}) is damaged: its checksum does not match",
            self.current
        )))
    }

    fn begin(&mut self, name: String, size: u64) -> Result<(), Error> {
        let padded = size
            .checked_next_multiple_of(BLOCK)
            .ok_or_else(|| broken(format!("entry {name:?} says that it is {size} bytes, which cannot be")))?;
        self.current = name;
        self.left = size;
        self.padding = padded - size;
        Ok(())
    }

    fn entry(
        &mut self,
        header: &tar::Header,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
        pax: &BTreeMap<Vec<u8>, Vec<u8>>,
    ) -> Result<Entry, Error> {
        let text = |key: &str| pax.get(key.as_bytes());
        let path = text("GNU.sparse.name")
            .or_else(|| text("path"))
            .cloned()
            .or(long_path)
            .unwrap_or_else(|| header.path_bytes().into_owned());
        self.current = String::from_utf8_lossy(&path).into_owned();
        let name = self.current.clone();
        let number = |key: &str| -> Result<Option<u64>, Error> {
            text(key)
                .map(|v| decimal(v).ok_or_else(|| broken(format!("entry {name:?} has an invalid {key}"))))
                .transpose()
        };
        if let Some(size) = number("size")? {
            self.begin(name.clone(), size)?;
        }
        let field = |what: &str, r: io::Result<u64>, over: Option<u64>| -> Result<u32, Error> {
            let v = match over {
                Some(v) => v,
                None => r.map_err(|e| broken(format!("entry {name:?} has an invalid {what}: {e}")))?,
            };
            u32::try_from(v)
                .map_err(|_| broken(format!("entry {name:?} has {what} {v}, which is out of range")))
        };
        let old = header.as_old();
        let kind = match header.entry_type() {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse if path.ends_with(b"/") => {
                Kind::Directory
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
            EntryType::Link => Kind::HardLink,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Char => Kind::CharDevice,
            EntryType::Block => Kind::BlockDevice,
            EntryType::Directory => Kind::Directory,
            EntryType::Fifo => Kind::Fifo,
            other => {
                return Err(broken(format!(
                    "entry {name:?} is of unknown type {:?}",
                    char::from(other.as_byte())
                )));
            }
        };
        let extents = self.extents(header, pax)?;
        let size = match (&extents, number("GNU.sparse.realsize")?.or(number("GNU.sparse.size")?)) {
            (Some(_), Some(real)) => real,
            (Some(_), None) => header.size().map_err(|e| broken(format!("entry {name:?}: {e}")))?,
            (None, _) => self.left,
        };
        check_extents(extents.as_deref().unwrap_or_default(), size, self.left, &name)?;
        let device = |what, r: io::Result<Option<u32>>| match kind {
            Kind::CharDevice | Kind::BlockDevice => field(what, r.map(|v| v.unwrap_or(0).into()), None),
            _ => Ok(0),
        };
        Ok(Entry {
            link: text("linkpath")
                .cloned()
                .or(long_link)
                .or_else(|| header.link_name_bytes().map(|l| l.into_owned()))
                .unwrap_or_default(),
            kind,
            mode: field("mode", or_blank(&old.mode, header.mode().map(u64::from)), None)? & 0o7777,
            uid: field("uid", or_blank(&old.uid, header.uid()), number("uid")?)?,
            gid: field("gid", or_blank(&old.gid, header.gid()), number("gid")?)?,
            mtime: text("mtime")
                .and_then(|v| timestamp(v))
                .unwrap_or_else(|| (header.mtime().ok().and_then(|t| i64::try_from(t).ok()).unwrap_or(0), 0)),
            major: device("device major", header.device_major())?,
            minor: device("device minor", header.device_minor())?,
            xattrs: pax
                .iter()
                .filter_map(|(k, v)| Some((k.strip_prefix(b"SCHILY.xattr.")?.to_vec(), v.clone())))
                .collect(),
            path,
            size,
            extents,
        })
    }

    fn extents(
        &mut self,
        header: &tar::Header,
        pax: &BTreeMap<Vec<u8>, Vec<u8>>,
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

    fn extension(&mut self) -> Result<Vec<u8>, Error> {
        if self.left > MAX_EXTENSION {
            return Err(broken(format!(
                "an extension header ({:?}) says that it is {} bytes; the limit is {MAX_EXTENSION}",
                self.current, self.left
            )));
        }
        let mut bytes = Vec::new();
        let size = self.left;
        self.read_to_end(&mut bytes).map_err(|e| self.unreadable(&e))?;
        if (bytes.len() as u64) < size {
            return Err(self.cut(size - bytes.len() as u64));
        }
        Ok(bytes)
    }

    fn long_name(&mut self) -> Result<Vec<u8>, Error> {
        let mut bytes = self.extension()?;
        while bytes.last() == Some(&0) {
            bytes.pop();
        }
        Ok(bytes)
    }

    fn pax(&mut self) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Error> {
        let bytes = self.extension()?;
        let mut rest = bytes.as_slice();
        let mut out = BTreeMap::new();
        while !rest.is_empty() {
            let record = pax_record(rest)
                .ok_or_else(|| broken(format!("extension header {:?} is damaged", self.current)))?;
            out.insert(record.0.to_vec(), record.1.to_vec());
            rest = record.2;
        }
        Ok(out)
    }

    fn skip(&mut self) -> Result<(), Error> {
        let all = self.left + self.padding;
        let skipped =
            io::copy(&mut (&mut self.inner).take(all), &mut io::sink()).map_err(|e| self.unreadable(&e))?;
        // The padding of the very last entry may be missing; its data may not.
        if skipped < self.left {
            return Err(self.cut(self.left - skipped));
        }
        (self.left, self.padding) = (0, 0);
        Ok(())
    }

    /// Archived bytes of the current entry that were not read yet.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// The error for an entry whose data ends early.
    pub(super) fn cut(&self, missing: u64) -> Error {
        broken(format!("it is cut short: {missing} bytes of entry {:?} are missing", self.current))
    }

    /// The error for a stream that cannot be read or decompressed.
    pub(super) fn unreadable(&self, e: &io::Error) -> Error {
        if self.entries == 0 {
            return broken(format!("it cannot be read: {e}"));
        }
        let why = if e.kind() == io::ErrorKind::UnexpectedEof { "it is cut short" } else { "it is damaged" };
        broken(format!("{why} at entry {:?}: {e}", self.current))
    }

    /// The stream below, to be drained.
    pub(super) fn into_inner(self) -> R {
        self.inner
    }
}

impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = (&mut self.inner).take(self.left).read(buf)?;
        self.left -= n as u64;
        Ok(n)
    }
}

fn check_extents(extents: &[(u64, u64)], size: u64, stored: u64, name: &str) -> Result<(), Error> {
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

/// A numeric field that is left blank is 0, as other readers have it.
fn or_blank(raw: &[u8], parsed: io::Result<u64>) -> io::Result<u64> {
    if raw.iter().all(|b| matches!(b, 0 | b' ')) { Ok(0) } else { parsed }
}

/// Reads until the buffer is full or the stream ends.
fn fill(r: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut n = 0;
    while n < buf.len() {
        match r.read(&mut buf[n..]) {
            Ok(0) => break,
            Ok(k) => n += k,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(n)
}

fn decimal(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

fn timestamp(bytes: &[u8]) -> Option<(i64, i64)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let nanos: i64 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    Some((seconds.parse().ok()?, nanos))
}

/// `<length> <key>=<value>\n`: key, value, what follows.
fn pax_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|b| *b == b' ')?;
    let len = usize::try_from(decimal(&bytes[..space])?).ok()?;
    let record = bytes.get(space + 1..len)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|b| *b == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &bytes[len..]))
}
