//! Plain, gzip, zstd, bzip2 or xz, told by the first bytes.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::Error;

/// How a stream is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    Plain,
    Gzip,
    Zstd,
    Bzip2,
    Xz,
}

impl Compression {
    fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            [b'B', b'Z', b'h', b'1'..=b'9', b'1', b'A', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            _ => Self::Plain,
        }
    }
}

/// Looks at the head of `inner` and gives a reader of what it holds.
pub(super) fn decoder<'a, R: Read + Send + 'a>(
    inner: R,
) -> io::Result<(Compression, Box<dyn Read + Send + 'a>)> {
    let mut buffered = Peeked::new(BufReader::with_capacity(128 << 10, inner));
    let compression = Compression::of(buffered.peek(6)?);
    let reader: Box<dyn Read + Send + 'a> = match compression {
        Compression::Plain => Box::new(buffered),
        Compression::Gzip => {
            Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(128 << 10, buffered)))
        }
        Compression::Zstd => Box::new(ZstdFrames { source: Some(buffered), frame: None }),
        Compression::Bzip2 => Box::new(bzip2::read::MultiBzDecoder::new(buffered)),
        Compression::Xz => Box::new(lzma_rust2::XzReader::new(buffered, true)),
    };
    Ok((compression, reader))
}

/// How a file is compressed; its position is left where it was.
pub(super) fn kind_of(file: &File) -> io::Result<Compression> {
    let mut head = [0; 6];
    let n = file.read_at(&mut head, 0)?;
    Ok(Compression::of(&head[..n]))
}

/// Compresses what `write` writes into a new file, the same bytes to the same bytes each time. Its digest and size.
pub(super) fn to_gzip(
    to: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<(), Error>,
) -> Result<(String, u64), Error> {
    let out = Counted {
        file: File::create_new(to).map_err(Error::io("create", to))?,
        hash: Sha256::new(),
        size: 0,
    };
    // No name, no time: nothing but the content counts.
    let mut encoder = flate2::GzBuilder::new().mtime(0).write(out, flate2::Compression::fast());
    write(&mut encoder)?;
    let out = encoder.finish().map_err(Error::io("compress into", to))?;
    out.file.sync_all().map_err(Error::io("sync", to))?;
    Ok((format!("sha256:{}", hex::encode(out.hash.finalize())), out.size))
}

/// Hashes and counts what is written.
struct Counted {
    file: File,
    hash: Sha256,
    size: u64,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.hash.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A reader whose first bytes were looked at already.
struct Peeked<R> {
    head: Vec<u8>,
    taken: usize,
    inner: BufReader<R>,
}

impl<R: Read> Peeked<R> {
    fn new(inner: BufReader<R>) -> Self {
        Self { head: Vec::new(), taken: 0, inner }
    }

    fn peek(&mut self, n: u64) -> io::Result<&[u8]> {
        (&mut self.inner).take(n).read_to_end(&mut self.head)?;
        Ok(&self.head)
    }

    /// No more bytes.
    fn at_end(&mut self) -> io::Result<bool> {
        Ok(self.taken == self.head.len() && self.inner.fill_buf()?.is_empty())
    }
}

impl<R: Read> Read for Peeked<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.taken < self.head.len() {
            let n = (&self.head[self.taken..]).read(buf)?;
            self.taken += n;
            return Ok(n);
        }
        self.inner.read(buf)
    }
}

type ZstdDecoder<R> = ruzstd::decoding::StreamingDecoder<Peeked<R>, ruzstd::decoding::FrameDecoder>;

/// All frames of a zstd stream, one after another.
struct ZstdFrames<R: Read> {
    source: Option<Peeked<R>>,
    frame: Option<Box<ZstdDecoder<R>>>,
}

impl<R: Read> Read for ZstdFrames<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            if let Some(mut frame) = self.frame.take() {
                let n = frame.read(buf)?;
                if n > 0 {
                    self.frame = Some(frame);
                    return Ok(n);
                }
                self.source = Some(frame.into_inner());
            }
            let Some(mut source) = self.source.take() else { return Ok(0) };
            if source.at_end()? {
                self.source = Some(source);
                return Ok(0);
            }
            let frame = ZstdDecoder::new(source)
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
            self.frame = Some(Box::new(frame));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> (Compression, io::Result<Vec<u8>>) {
        let (c, mut r) = decoder(bytes).expect("opens");
        let mut out = Vec::new();
        (c, r.read_to_end(&mut out).map(|_| out))
    }

    #[test]
    fn reads_each_kind_and_reports_a_cut() {
        let text = b"some text ".repeat(1000);
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&text).expect("compresses");
        let gz = gz.finish().expect("finishes");
        let zst = ruzstd::encoding::compress_to_vec(&text[..], ruzstd::encoding::CompressionLevel::Fastest);
        let twice = [zst.clone(), zst.clone()].concat();
        for (bytes, kind, times) in [
            (&text, Compression::Plain, 1),
            (&gz, Compression::Gzip, 1),
            (&zst, Compression::Zstd, 1),
            (&twice, Compression::Zstd, 2),
        ] {
            let (c, out) = read(bytes);
            assert_eq!((c, out.expect("reads")), (kind, text.repeat(times)));
        }
        assert!(read(&gz[..gz.len() / 2]).1.is_err());
        assert!(read(&zst[..zst.len() / 2]).1.is_err());
        assert_eq!(read(b"").1.expect("reads"), b"");
    }

    #[test]
    fn the_same_bytes_are_compressed_to_the_same_bytes() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let plain = dir.path().join("plain");
        std::fs::write(&plain, b"some text ".repeat(1000)).expect("writes");
        let once = |name: &str| {
            let to = dir.path().join(name);
            let mut from = File::open(&plain).expect("opens");
            let copy =
                |out: &mut dyn Write| io::copy(&mut from, out).map(drop).map_err(Error::io("read", &plain));
            let (digest, size) = to_gzip(&to, copy).expect("compresses");
            let bytes = std::fs::read(&to).expect("reads");
            assert_eq!((super::super::layer::digest_of(&bytes), bytes.len() as u64), (digest.clone(), size));
            assert_eq!(kind_of(&File::open(&to).expect("opens")).expect("reads"), Compression::Gzip);
            digest
        };
        assert_eq!(once("a"), once("b"));
    }
}
