//! A tar reader that trusts nothing: every header is bounded and checked, and a cut archive is an error
//! that says where it ends. ustar, GNU long names, pax, and the sparse forms of GNU tar.

mod pax;
mod sparse;

use std::io::{self, Read};

use tar::EntryType;

use self::pax::{Records, decimal, timestamp};
use crate::error::Error;

const BLOCK: u64 = 512;
/// Bytes of one long-name or pax header.
const MAX_EXTENSION: u64 = 1 << 20;

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
    global: Records,
    /// Whether an end without the two zero blocks is an error.
    trailer_required: bool,
}

/// What is said of an input that is no archive at all.
pub(crate) const NO_ARCHIVE: &str = "it is not a tar archive, nor one compressed with gzip or zstd";
/// What is said of an input without anything in it.
pub(crate) const EMPTY: &str = "it is empty";

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
            global: Records::new(),
            trailer_required,
        }
    }

    /// The next entry; what is left of the current one is skipped.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, Error> {
        let mut long_path: Option<Vec<u8>> = None;
        let mut long_link: Option<Vec<u8>> = None;
        let mut own: Option<Records> = None;
        loop {
            self.skip()?;
            let Some(block) = self.header_block()? else {
                if long_path.is_some() || long_link.is_some() || own.is_some() {
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
                EntryType::XHeader => own = Some(pax::records(&self.extension()?, &self.current)?),
                EntryType::XGlobalHeader => {
                    let more = pax::records(&self.extension()?, &self.current)?;
                    self.global.extend(more);
                }
                _ => {
                    let mut keys = self.global.clone();
                    keys.extend(own.unwrap_or_default());
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
                    return Err(broken(EMPTY));
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
                    return Err(broken(NO_ARCHIVE));
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
            return Err(broken(NO_ARCHIVE));
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
        pax: &Records,
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
        sparse::check(extents.as_deref().unwrap_or_default(), size, self.left, &name)?;
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

    /// The stream below.
    pub(super) fn source(&self) -> &R {
        &self.inner
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
