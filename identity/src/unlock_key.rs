//! The swarm's unlock key: `SWMKEY-1-<base64>`, in Swarm's own form. With autolock it alone opens the keys that a
//! manager keeps on disk.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use rand::Rng;

use crate::Error;
use crate::seal::{self, SealKey};

const PREFIX: &str = "SWMKEY-1-";
const LENGTH: usize = 32;

/// A parsed unlock key.
#[derive(Clone, PartialEq, Eq)]
pub struct UnlockKey(Vec<u8>);

impl UnlockKey {
    /// A new key.
    pub fn generate(rng: &mut impl Rng) -> Self {
        Self(rng.random::<[u8; LENGTH]>().to_vec())
    }

    /// Seals a manager's key, so that only this unlock key opens it; none if the kernel gives no random bytes.
    pub fn seal(&self, key: &SealKey, about: &[u8]) -> Option<Vec<u8>> {
        seal::seal(&self.0, about, key)
    }

    /// Opens what [`UnlockKey::seal`] sealed with the same `about`; none if it was another key, or if any of it
    /// was changed.
    pub fn open(&self, sealed: &[u8], about: &[u8]) -> Option<SealKey> {
        SealKey::try_from(seal::open(&self.0, about, sealed)?).ok()
    }
}

impl FromStr for UnlockKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let digits = text.trim().strip_prefix(PREFIX).ok_or(Error::UnlockKey)?;
        BASE64.decode(digits).map(Self).map_err(|_| Error::UnlockKey)
    }
}

impl fmt::Display for UnlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", BASE64.encode(&self.0))
    }
}

impl fmt::Debug for UnlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}<secret>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_refusals() {
        let key = UnlockKey::generate(&mut rand::rng());
        let text = key.to_string();
        assert_eq!(text.len(), PREFIX.len() + 43);
        assert_eq!(format!(" {text}\n").parse::<UnlockKey>().expect("own text"), key);
        assert!(!format!("{key:?}").contains(&text[PREFIX.len()..]));
        for bad in ["", "SWMKEY-2-AAAA", "SWMKEY-1-a", "SWMKEY-1-AA==", &text[1..]] {
            assert_eq!(bad.parse::<UnlockKey>().expect_err(bad).to_string(), "invalid key string");
        }
    }

    #[test]
    fn only_the_same_key_opens_what_it_sealed() {
        let (one, other) = (UnlockKey::generate(&mut rand::rng()), UnlockKey::generate(&mut rand::rng()));
        let sealed = one.seal(&[7; 32], b"v1").expect("seals");
        assert_eq!(one.open(&sealed, b"v1"), Some([7; 32]));
        assert_eq!(other.open(&sealed, b"v1"), None);
        assert_eq!(one.open(&sealed, b"v2"), None);
        assert!(!sealed.windows(8).any(|w| w == [7; 8]));
        for at in 0..sealed.len() {
            let mut flipped = sealed.clone();
            flipped[at] ^= 1;
            assert_eq!(one.open(&flipped, b"v1"), None, "byte {at}");
            assert_eq!(one.open(&sealed[..at], b"v1"), None, "cut at {at}");
        }
    }
}
