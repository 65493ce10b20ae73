//! As much of MessagePack as the forward protocol needs.

/// Begins an array.
pub(super) fn array(len: u8, out: &mut Vec<u8>) {
    out.push(0x90 | len);
}

/// Begins a map.
pub(super) fn map(len: usize, out: &mut Vec<u8>) {
    match u16::try_from(len) {
        Ok(n) if n < 16 => out.push(0x80 | n as u8),
        Ok(n) => {
            out.push(0xde);
            out.extend_from_slice(&n.to_be_bytes());
        }
        Err(_) => {
            out.push(0xdf);
            out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
        }
    }
}

/// A string; what is not UTF-8 goes as it is, as from Docker.
pub(super) fn text(s: &[u8], out: &mut Vec<u8>) {
    match s.len() {
        n if n < 32 => out.push(0xa0 | n as u8),
        n if n < 1 << 8 => out.extend_from_slice(&[0xd9, n as u8]),
        n if n < 1 << 16 => {
            out.push(0xda);
            out.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            out.push(0xdb);
            out.extend_from_slice(&(n as u32).to_be_bytes());
        }
    }
    out.extend_from_slice(s);
}

/// A whole number.
pub(super) fn number(n: i64, out: &mut Vec<u8>) {
    out.push(0xd3);
    out.extend_from_slice(&n.to_be_bytes());
}

/// Fluentd's EventTime: seconds and nanoseconds.
pub(super) fn event_time(ns: i64, out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xd7, 0x00]);
    out.extend_from_slice(&(ns.div_euclid(1_000_000_000) as u32).to_be_bytes());
    out.extend_from_slice(&(ns.rem_euclid(1_000_000_000) as u32).to_be_bytes());
}
