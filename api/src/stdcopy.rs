//! Docker's multiplexed stream: `[stream, 0, 0, 0, length as big-endian u32]` before each piece.

use bytes::{BufMut, Bytes, BytesMut};

/// Stream number of standard output.
pub const STDOUT: u8 = 1;
/// Stream number of standard error.
pub const STDERR: u8 = 2;
/// Stream number of the daemon's own errors: a client reports them and stops.
pub const SYSTEM_ERROR: u8 = 3;
/// Content type of a multiplexed stream.
pub const MULTIPLEXED: &str = "application/vnd.docker.multiplexed-stream";
/// Content type of a terminal's bytes, as they are.
pub const RAW: &str = "application/vnd.docker.raw-stream";

/// Frames one piece of output, made of a prefix (may be empty) and data.
pub fn frame(stream: u8, prefix: &[u8], data: &[u8]) -> Bytes {
    // A piece is a log line or a read buffer, far below 4 GiB; should one ever be longer, it is cut
    // into several frames rather than announced with a wrong length.
    let mut out = BytesMut::with_capacity(8 + prefix.len() + data.len());
    let mut put = |piece: &[u8], rest: &[u8]| {
        let length = u32::try_from(piece.len() + rest.len()).unwrap_or(u32::MAX);
        out.put_slice(&[stream, 0, 0, 0]);
        out.put_u32(length);
        out.put_slice(piece);
        out.put_slice(rest);
    };
    const LONGEST: usize = u32::MAX as usize;
    if prefix.len() + data.len() <= LONGEST {
        put(prefix, data);
    } else {
        put(prefix, &[]);
        data.chunks(LONGEST).for_each(|chunk| put(chunk, &[]));
    }
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_carries_its_stream_and_length() {
        assert_eq!(&frame(STDERR, b"p ", b"hi\n")[..], b"\x02\0\0\0\0\0\0\x05p hi\n");
        assert_eq!(&frame(STDOUT, b"", b"")[..], b"\x01\0\0\0\0\0\0\0");
    }

    proptest::proptest! {
        /// Frames, whatever is in them, are taken apart again by their headers alone.
        #[test]
        fn frames_are_taken_apart_as_they_were_put_together(
            pieces in proptest::collection::vec((0..4u8, "\\PC{0,5}", proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40)), 0..8),
        ) {
            let wire: Vec<u8> = pieces.iter().flat_map(|(s, p, d)| frame(*s, p.as_bytes(), d)).collect();
            let (mut rest, mut found) = (wire.as_slice(), Vec::new());
            while let [stream, 0, 0, 0, a, b, c, d, more @ ..] = rest {
                let (data, after) = more.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
                found.push((*stream, data.to_vec()));
                rest = after;
            }
            proptest::prop_assert!(rest.is_empty());
            let wanted: Vec<_> = pieces.iter().map(|(s, p, d)| (*s, [p.as_bytes(), d].concat())).collect();
            proptest::prop_assert_eq!(found, wanted);
        }
    }
}
