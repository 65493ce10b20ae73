//! The key of a stored object: its identifier, held inline so that walking a map of a million tasks
//! does not chase a pointer per comparison.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

const INLINE: usize = 30;

/// An identifier as a map key. Ordered by its bytes.
#[derive(Clone)]
pub struct Key(Repr);

#[derive(Clone)]
enum Repr {
    Inline { len: u8, bytes: [u8; INLINE] },
    Heap(Arc<str>),
}

impl Key {
    /// The identifier's bytes (always the UTF-8 of the string it was made from).
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or(bytes),
            Repr::Heap(s) => s.as_bytes(),
        }
    }

    /// The identifier as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).expect("a Key is only ever made from a str")
    }
}

impl From<&str> for Key {
    fn from(s: &str) -> Self {
        match u8::try_from(s.len()) {
            Ok(len) if s.len() <= INLINE => {
                let mut bytes = [0; INLINE];
                bytes[..s.len()].copy_from_slice(s.as_bytes());
                Key(Repr::Inline { len, bytes })
            }
            _ => Key(Repr::Heap(s.into())),
        }
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}
impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}
impl Eq for Key {}
impl std::hash::Hash for Key {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::Key;

    #[test]
    fn keys_order_as_their_strings_do_whatever_their_length() {
        let long = "x".repeat(200);
        let mut ids = vec!["", "a", "ab", "b", "ü", "0123456789012345678901234", long.as_str()];
        let mut keys: Vec<Key> = ids.iter().map(|s| Key::from(*s)).collect();
        keys.sort();
        ids.sort_unstable();
        assert_eq!(keys.iter().map(Key::as_str).collect::<Vec<_>>(), ids);
    }
}
