//! A layer that was never an archive: its files are kept as they were written, once, and beside them a recipe: the
//! bytes of its archive that are in none of its files, and which file comes where. Of both the archive is put together
//! again, to the same bytes, once somebody asks for it. How archives are written may change meanwhile.
//!
//! The recipe is compressed with gzip, and a sequence of `r`, length, bytes and `f`, length, path, bytes of the file;
//! lengths are of 32 bits, bytes of files of 64, little-endian.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use nix::fcntl::OFlag;
use sha2::{Digest, Sha256};

use super::layer::{Hasher, Staged};
use crate::error::Error;
use crate::runtime::resolve::{NO_SYMLINKS, Root};

/// Bytes that are collected before they are passed on.
const ROOM: usize = 256 << 10;
/// Bytes of a tar's header.
const HEADER: u64 = 512;
/// Longest part of a recipe that is read.
const LONGEST: u32 = 64 << 20;

/// The file that comes next, as who packs announces it.
pub(super) type Announced = RefCell<Option<(Vec<u8>, u64)>>;

/// What an archive showed that was written nowhere.
pub(super) struct Recorded {
    pub(super) staged: Staged,
    /// Bytes of its files.
    pub(super) unpacked: u64,
}

/// A file that comes: bytes of its header and content that are left.
struct Expected {
    header: u64,
    content: u64,
    path: Vec<u8>,
}

/// Hashes an archive that is written to it, and writes the recipe of it.
pub(super) struct Recorder<'a> {
    announced: &'a Announced,
    hasher: Hasher,
    /// To be hashed.
    pending: Vec<u8>,
    /// Bytes that are in no file, not yet written.
    raw: Vec<u8>,
    recipe: GzEncoder<BufWriter<File>>,
    file: Option<Expected>,
    size: u64,
    unpacked: u64,
}

impl<'a> Recorder<'a> {
    pub(super) fn new(recipe: &Path, announced: &'a Announced) -> Result<Self, Error> {
        let file = File::create_new(recipe).map_err(Error::io("create", recipe))?;
        Ok(Self {
            announced,
            hasher: Hasher::start().map_err(Error::io("hash", recipe))?,
            pending: Vec::with_capacity(ROOM),
            raw: Vec::new(),
            recipe: GzEncoder::new(BufWriter::new(file), Compression::fast()),
            file: None,
            size: 0,
            unpacked: 0,
        })
    }

    fn flush_raw(&mut self) -> io::Result<()> {
        if self.raw.is_empty() {
            return Ok(());
        }
        let length = u32::try_from(self.raw.len()).map_err(io::Error::other)?;
        self.recipe.write_all(b"r")?;
        self.recipe.write_all(&length.to_le_bytes())?;
        self.recipe.write_all(&self.raw)?;
        self.raw.clear();
        Ok(())
    }

    /// Sorts bytes into those of a file and the rest; how many of `bytes` are dealt with.
    fn sort(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some((path, length)) = self.announced.borrow_mut().take() {
            self.file = Some(Expected { header: HEADER, content: length, path });
            self.unpacked += length;
        }
        let Some(file) = &mut self.file else {
            self.raw.extend_from_slice(bytes);
            if self.raw.len() > ROOM {
                self.flush_raw()?;
            }
            return Ok(bytes.len());
        };
        let of = |left: u64| usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        if file.header > 0 {
            let n = of(file.header);
            file.header -= n as u64;
            self.raw.extend_from_slice(&bytes[..n]);
            if file.header == 0 {
                self.name_file()?;
            }
            return Ok(n);
        }
        let n = of(file.content);
        file.content -= n as u64;
        if file.content == 0 {
            self.file = None;
        }
        Ok(n)
    }

    /// The header is written: what comes next is in the file.
    fn name_file(&mut self) -> io::Result<()> {
        let Some(file) = self.file.take().filter(|f| f.content > 0) else { return Ok(()) };
        self.flush_raw()?;
        let length = u32::try_from(file.path.len()).map_err(io::Error::other)?;
        self.recipe.write_all(b"f")?;
        self.recipe.write_all(&length.to_le_bytes())?;
        self.recipe.write_all(&file.path)?;
        self.recipe.write_all(&file.content.to_le_bytes())?;
        self.file = Some(file);
        Ok(())
    }

    fn hash(&mut self) -> io::Result<()> {
        self.hasher.add(&self.pending)?;
        self.pending.clear();
        Ok(())
    }

    /// The end of the archive.
    pub(super) fn finish(mut self) -> io::Result<Recorded> {
        self.hash()?;
        self.flush_raw()?;
        // Dropped, they would keep quiet about what they cannot write.
        self.recipe.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        let staged = Staged { digest: self.hasher.finish()?, size: self.size };
        Ok(Recorded { staged, unpacked: self.unpacked })
    }
}

impl Write for Recorder<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.sort(bytes)?;
        self.pending.extend_from_slice(&bytes[..n]);
        self.size += n as u64;
        if self.pending.len() >= ROOM {
            self.hash()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Puts the archive of a layer together again, from its directory, and writes it to `out`.
///
/// # Errors
/// What was written is not what its digest says: the files have been changed.
pub(super) fn put_together(
    recipe: &Path,
    files: &Path,
    digest: &str,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let root = Root::at(files).map_err(Error::io("open", files))?;
    let mut recipe_file =
        GzDecoder::new(BufReader::new(File::open(recipe).map_err(Error::io("open", recipe))?));
    let mut hash = Sha256::new();
    cook(&mut recipe_file, &root, |bytes| {
        hash.update(bytes);
        out.write_all(bytes)
    })
    .map_err(Error::io("put the archive of a layer together by", recipe))?;
    let made = format!("sha256:{}", hex::encode(hash.finalize()));
    if made != digest {
        return Err(Error::Damaged { digest: digest.to_owned() });
    }
    Ok(())
}

fn cook(recipe: &mut impl Read, root: &Root, mut out: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut buffer = vec![0; ROOM];
    let mut tag = [0];
    while recipe.read(&mut tag)? == 1 {
        let mut length = [0; 4];
        recipe.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length);
        if length > LONGEST {
            return Err(io::Error::other("the recipe is damaged"));
        }
        let mut bytes = vec![0; length as usize];
        recipe.read_exact(&mut bytes)?;
        match &tag {
            b"r" => out(&bytes)?,
            b"f" => {
                let mut left = [0; 8];
                recipe.read_exact(&mut left)?;
                let mut left = u64::from_le_bytes(left);
                let path = Path::new("/").join(std::ffi::OsStr::from_bytes(&bytes));
                let mut file = File::from(root.open(&path, OFlag::O_RDONLY, NO_SYMLINKS)?);
                while left > 0 {
                    let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                    match file.read(&mut buffer[..want])? {
                        0 => {
                            return Err(io::Error::other(format!(
                                "{} is shorter than it was",
                                path.display()
                            )));
                        }
                        n => {
                            out(&buffer[..n])?;
                            left -= n as u64;
                        }
                    }
                }
            }
            _ => return Err(io::Error::other("the recipe is damaged")),
        }
    }
    Ok(())
}
