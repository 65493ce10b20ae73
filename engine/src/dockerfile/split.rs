//! How the arguments of instructions are cut into words.

/// The first word, and what follows the blanks after it.
pub(super) fn first_word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    match text.find(char::is_whitespace) {
        Some(end) => (&text[..end], text[end..].trim_start()),
        None => (text, &text[text.len()..]),
    }
}

/// A list of strings in JSON, where the text is one.
pub(super) fn json(text: &str) -> Option<Vec<String>> {
    let text = text.trim();
    if !text.starts_with('[') {
        return None;
    }
    serde_json::from_str(text).ok()
}

/// Where the items of such a list begin, in bytes.
pub(super) fn json_items(text: &str) -> Vec<usize> {
    let (mut starts, mut inside, mut escaped) = (Vec::new(), false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = inside,
            '"' => {
                if !inside {
                    starts.push(at);
                }
                inside = !inside;
            }
            _ => {}
        }
    }
    starts
}

/// Words divided by blanks that are neither quoted nor escaped; quotes and escapes stay in them.
pub(super) fn raw_words(text: &str, escape: char) -> Vec<&str> {
    let mut words = Vec::new();
    let (mut start, mut quote, mut escaped) = (None, None, false);
    for (at, c) in text.char_indices() {
        if start.is_none() {
            if c.is_whitespace() {
                continue;
            }
            start = Some(at);
        }
        match (quote, c) {
            _ if escaped => escaped = false,
            (q, c) if c == escape && q != Some('\'') => escaped = true,
            (Some(q), c) if c == q => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, c) if c.is_whitespace() => {
                words.extend(start.take().map(|s| &text[s..at]));
            }
            _ => {}
        }
    }
    words.extend(start.map(|s| &text[s..]));
    words
}

/// A word without its quotes and escapes; none where a quote is open.
pub(super) fn unquote(word: &str, escape: char) -> Option<String> {
    let (mut out, mut quote) = (String::new(), None);
    let mut chars = word.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (q, c) if c == escape && q != Some('\'') => out.extend(chars.next()),
            (_, c) => out.push(c),
        }
    }
    if quote.is_some() { None } else { Some(out) }
}
