//! What parts of images' names may look like (OCI distribution, "Pulling manifests").

/// Longest tag.
const MAX_TAG: usize = 128;

/// A tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
pub fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= MAX_TAG
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

/// A component of a repository's path: runs of lower-case letters and digits, separated by one '.', one or two '_', or
/// any number of '-'.
pub fn is_name_component(text: &str) -> bool {
    let alnum = |ch: char| ch.is_ascii_lowercase() || ch.is_ascii_digit();
    if !(text.starts_with(alnum) && text.ends_with(alnum)) {
        return false;
    }
    text.split(alnum)
        .filter(|s| !s.is_empty())
        .all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}
