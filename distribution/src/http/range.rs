//! Ranges: of blobs that are read (RFC 9110, 14) and of pieces that are uploaded (OCI distribution, "Pushing a blob in
//! chunks").

/// What of a body is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All; also where a range is not understood, or there are several.
    All,
    /// From the first to the last byte, both included.
    Part(u64, u64),
    /// Nothing that there is.
    Beyond,
}

impl Wanted {
    /// Reads a `Range` header for a body of so many bytes.
    pub(crate) fn read(header: Option<&str>, size: u64) -> Self {
        let Some(spec) = header.and_then(|h| h.trim().strip_prefix("bytes=")) else { return Self::All };
        let Some((first, last)) = spec.trim().split_once('-') else { return Self::All };
        let number = |text: &str| {
            if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            // More digits than fit are more than there is.
            Some(text.parse().unwrap_or(u64::MAX))
        };
        let (first, last) = (first.trim(), last.trim());
        match (number(first), number(last)) {
            (None, _) if !first.is_empty() => Self::All,
            (_, None) if !last.is_empty() => Self::All,
            (None, None) => Self::All,
            (Some(first), Some(last)) if last < first => Self::All,
            (Some(first), _) if first >= size => Self::Beyond,
            (Some(first), last) => Self::Part(first, last.unwrap_or(u64::MAX).min(size - 1)),
            (None, Some(count)) if count == 0 || size == 0 => Self::Beyond,
            (None, Some(count)) => Self::Part(size.saturating_sub(count), size - 1),
        }
    }
}

/// Reads the `Content-Range` of a piece, `START-END` (Docker's and OCI's form) or `bytes START-END/...`.
pub(crate) fn piece(header: &str) -> Option<(u64, u64)> {
    let header = header.trim();
    let range = header.strip_prefix("bytes ").unwrap_or(header);
    let range = range.split('/').next()?;
    let (start, end) = range.split_once('-')?;
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit()).then(|| t.parse::<u64>().ok()).flatten();
    let (start, end) = (digits(start.trim())?, digits(end.trim())?);
    (end >= start).then_some((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        for (header, wanted) in [
            ("bytes=0-3", Wanted::Part(0, 3)),
            ("bytes=5-", Wanted::Part(5, 9)),
            ("bytes=5-100", Wanted::Part(5, 9)),
            ("bytes=-3", Wanted::Part(7, 9)),
            ("bytes=-30", Wanted::Part(0, 9)),
            ("bytes=10-", Wanted::Beyond),
            ("bytes=99999999999999999999999-", Wanted::Beyond),
            ("bytes=-0", Wanted::Beyond),
            ("bytes=3-1", Wanted::All),
            ("bytes=0-1,4-5", Wanted::All),
            ("bytes=x-1", Wanted::All),
            ("bytes=1-x", Wanted::All),
            ("bytes=-", Wanted::All),
            ("bytes=", Wanted::All),
            ("lines=0-3", Wanted::All),
        ] {
            assert_eq!(Wanted::read(Some(header), 10), wanted, "{header}");
        }
        assert_eq!(Wanted::read(Some("bytes=0-"), 0), Wanted::Beyond);
        assert_eq!(Wanted::read(None, 10), Wanted::All);
    }

    #[test]
    fn pieces_are_read() {
        for (header, read) in [
            ("0-9", Some((0, 9))),
            ("bytes 5-5/10", Some((5, 5))),
            ("5-4", None),
            ("-4", None),
            ("+1-4", None),
            ("x", None),
        ] {
            assert_eq!(piece(header), read, "{header}");
        }
    }
}
