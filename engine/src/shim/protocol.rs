//! Frames between daemon and shim: a big-endian u32 length, then one byte of kind and its payload.

/// Longest frame either side accepts.
pub const MAX_FRAME: usize = 1 << 20;
/// Data is cut into frames of at most this.
pub const CHUNK: usize = 16 << 10;

/// To the shim: run the command. Answered.
pub const START: u8 = 1;
/// To the shim: u32 signal, u8 whether to all processes. Answered.
pub const SIGNAL: u8 = 2;
/// To the shim: this connection is a client's stdio (u8 of [`ATTACH_STDIN`] etc.). Answered once, with the i64 time
/// (nanoseconds since the Unix epoch) up to which the log has what came before; then [`OUTPUT`] frames follow until
/// the container's end.
pub const ATTACH: u8 = 3;
/// To the shim, on an attached connection: bytes for stdin. Shutting the connection down for
/// writing is the end of this client's stdin.
pub const STDIN: u8 = 4;
/// To the shim: close the container's stdin. Answered.
pub const CLOSE_STDIN: u8 = 5;
/// To the shim: u16 rows, u16 columns. Answered.
pub const RESIZE: u8 = 6;
/// To the shim: answered by [`STATE`].
pub const GET_STATE: u8 = 7;
/// To the shim: resource limits as JSON. Answered.
pub const UPDATE: u8 = 8;
/// To the shim: answered by [`EXITED`] when there is something to tell.
pub const WAIT: u8 = 9;

/// To the shim: run a further command, an [`ExecSpec`](super::ExecSpec) as JSON. Answered by [`OK`] with its
/// u32 host PID once it is executed; then as after [`ATTACH`], and [`EXITED`] at its end.
pub const EXEC: u8 = 10;
/// To the shim: u16 rows, u16 columns, then an exec's ID. Answered.
pub const RESIZE_EXEC: u8 = 11;
/// To the shim: u32 signal, then an exec's ID. Answered.
pub const SIGNAL_EXEC: u8 = 12;
/// To the shim: an exec's ID. Answered by [`EXITED`] once it has ended.
pub const WAIT_EXEC: u8 = 13;
/// To the shim: answered by [`STATE`], a list of [`ExecState`](super::ExecState) as JSON: those that run, and
/// the last ones whose end nobody was told of.
pub const LIST_EXECS: u8 = 14;

/// To the shim: u8 whether to freeze all processes or let them go on. Answered.
pub const FREEZE: u8 = 15;

/// To the shim: the ports it serves from now on, a list of [`Relay`](super::Relay) as JSON. Answered.
pub const RELAY: u8 = 16;

/// From the shim: u32 host PID; the container waits to be started.
pub const CREATED: u8 = 0x81;
/// From the shim: done.
pub const OK: u8 = 0x82;
/// From the shim: i32 exit code that the failure stands for, then the text.
pub const FAILED: u8 = 0x83;
/// From the shim: u8 stream (1 stdout, 2 stderr), then bytes.
pub const OUTPUT: u8 = 0x84;
/// From the shim: the exit as JSON.
pub const EXITED: u8 = 0x85;
/// From the shim: the state as JSON.
pub const STATE: u8 = 0x86;

/// From the shim, to whoever waits for the exit: something for the daemon's log.
pub const NOTE: u8 = 0x87;

/// Flag of [`ATTACH`].
pub const ATTACH_STDIN: u8 = 1;
/// Flag of [`ATTACH`].
pub const ATTACH_STDOUT: u8 = 2;
/// Flag of [`ATTACH`].
pub const ATTACH_STDERR: u8 = 4;
/// Flag of [`ATTACH`]: begin with the unfinished lines, which no log has yet.
pub const ATTACH_BEGUN: u8 = 8;

/// Appends a frame to `out`.
pub fn put(out: &mut Vec<u8>, kind: u8, payload: &[&[u8]]) {
    let length = 1 + payload.iter().map(|p| p.len()).sum::<usize>();
    out.extend_from_slice(&(length as u32).to_be_bytes());
    out.push(kind);
    for part in payload {
        out.extend_from_slice(part);
    }
}

/// A frame as (whole length, kind, payload).
pub type Frame<'a> = (usize, u8, &'a [u8]);

/// The first frame of `bytes`; none while it is incomplete.
pub fn first(bytes: &[u8]) -> Result<Option<Frame<'_>>, FrameTooLong> {
    let Some((head, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*head) as usize;
    if length == 0 || length > MAX_FRAME {
        return Err(FrameTooLong);
    }
    match rest.get(..length) {
        Some([kind, payload @ ..]) => Ok(Some((4 + length, *kind, payload))),
        _ => Ok(None),
    }
}

/// A length that no frame has: the other side is not what it should be.
#[derive(Debug, thiserror::Error)]
#[error("a frame of no valid length")]
pub struct FrameTooLong;
