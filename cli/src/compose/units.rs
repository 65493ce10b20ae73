//! Durations, sizes and words as Compose files write them.

/// `1h5m30s20ms` in nanoseconds (Go's duration syntax).
pub fn duration(text: &str) -> Option<i64> {
    skep_engine::parse_duration(text).and_then(|d| i64::try_from(d.as_nanos()).ok())
}

/// `64m`, `1.5GiB` or `1000` in bytes.
pub fn size(text: &str) -> Option<i64> {
    skep_engine::parse_size(text).and_then(|n| i64::try_from(n).ok())
}

/// Splits words as a shell does: quotes and backslashes, nothing else. None if a quote is left open.
pub fn words(text: &str) -> Option<Vec<String>> {
    let (mut out, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, Some(q)) if c == q => quote = None,
            ('\\', None | Some('"')) => word.get_or_insert_default().extend(chars.next()),
            (c, None) if c.is_whitespace() => out.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    out.extend(word);
    quote.is_none().then_some(out)
}
