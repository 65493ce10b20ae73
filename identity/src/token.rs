//! Join tokens: `SWMTKN-1-<digest of the root certificate>-<secret>`, in Swarm's own form so that tools
//! written for it recognise them. The digest lets a joiner trust the first answer it gets.

use std::fmt;
use std::str::FromStr;

use rand::Rng;

use crate::{Error, base36};

const PREFIX: &str = "SWMTKN";
const VERSION: &str = "1";
const DIGEST_DIGITS: usize = 50;
const SECRET_DIGITS: usize = 25;

/// A parsed join token.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    digest: String,
    secret: String,
}

impl JoinToken {
    /// A new token with a fresh secret for the root with this SHA-256 digest.
    pub fn generate(root_digest: &[u8; 32], rng: &mut impl Rng) -> Self {
        Self { digest: base36::encode(root_digest, DIGEST_DIGITS), secret: skep_proto::ids::random(rng) }
    }

    /// Whether the token pins the root with this digest.
    pub fn pins(&self, root_digest: &[u8; 32]) -> bool {
        self.digest == base36::encode(root_digest, DIGEST_DIGITS)
    }

    /// The pinned digest as the token spells it.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Whether both are the same token; takes the same time wherever they differ.
    pub fn matches(&self, other: &JoinToken) -> bool {
        let (a, b) = (self.to_string(), other.to_string());
        a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |acc, (x, y)| acc | (x ^ y)) == 0
    }
}

impl FromStr for JoinToken {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |reason: String| Err(Error::Token(reason));
        let parts: Vec<&str> = text.trim().split('-').collect();
        if parts.first() != Some(&PREFIX) {
            return bad(format!("it should begin with {PREFIX}-{VERSION}-"));
        }
        let [_, version, digest, secret] = parts[..] else {
            return bad(format!("it has {} parts between dashes, not 4", parts.len()));
        };
        if version != VERSION {
            return bad(format!("its version is \"{version}\", not {VERSION}"));
        }
        for (part, text, digits) in [("digest", digest, DIGEST_DIGITS), ("secret", secret, SECRET_DIGITS)] {
            if text.len() != digits || !base36::is_valid(text) {
                return bad(format!("its {part} should be {digits} digits and small letters"));
            }
        }
        Ok(Self { digest: digest.to_owned(), secret: secret.to_owned() })
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}-{VERSION}-{}-{}", self.digest, self.secret)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}-{VERSION}-{}-<secret>", self.digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_refusals() {
        let token = JoinToken::generate(&[7; 32], &mut rand::rng());
        let text = token.to_string();
        let parsed: JoinToken = text.parse().expect("own text");
        assert!(parsed.matches(&token) && parsed.pins(&[7; 32]) && !parsed.pins(&[8; 32]));
        assert!(!format!("{token:?}").contains(&token.secret));
        for (bad, says) in [
            ("", "begin with SWMTKN-1-"),
            ("SWMTKN-1-abc", "3 parts"),
            (&text.replace("SWMTKN-1", "SWMTKN-2"), "version is \"2\""),
            (&text[..text.len() - 1], "secret should be 25"),
            (&text.to_uppercase(), "digest should be 50"),
        ] {
            let error = bad.parse::<JoinToken>().expect_err(bad).to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
