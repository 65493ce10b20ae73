//! Bearer tokens (Docker Registry's "Token Authentication Specification" and "Token Scope Documentation").

use std::path::PathBuf;
use std::time::SystemTime;

use hyper::header::HeaderMap;

use super::jwt::{Claims, Expected};
use super::keys::Keys;
use super::{Need, credentials, quoted, unauthorized};
use crate::error::{Error, Refusal};

/// Whose tokens are taken.
#[derive(Clone, Debug, Default)]
pub struct TokenOptions {
    /// Where clients are told to get a token.
    pub realm: String,
    /// What this registry is called there; a token's `aud`.
    pub service: String,
    /// A token's `iss`.
    pub issuer: String,
    /// PEM certificates of the keys that sign tokens, or of who signs those keys' certificates (`x5c`).
    pub root_certs: Option<PathBuf>,
    /// Keys that sign tokens, as a JSON Web Key Set.
    pub jwks: Option<PathBuf>,
}

/// The same, ready.
#[derive(Debug)]
pub(crate) struct Tokens {
    realm: String,
    expected: Expected,
    keys: Keys,
}

impl Tokens {
    pub(super) fn new(options: &TokenOptions) -> Result<Self, Error> {
        let keys = Keys::read(options.root_certs.as_deref(), options.jwks.as_deref())?;
        let expected = Expected { issuer: options.issuer.clone(), audience: options.service.clone() };
        Ok(Self { realm: options.realm.clone(), expected, keys })
    }

    pub(super) fn check(&self, headers: &HeaderMap, need: &Need) -> Result<String, Refusal> {
        let Some(token) = credentials(headers, "bearer") else {
            return Err(unauthorized(self.challenge(need, None)));
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let claims = Claims::verified(token, &self.keys, &self.expected, now).map_err(|why| {
            tracing::info!(why, "a token was not taken");
            unauthorized(self.challenge(need, Some("invalid_token")))
        })?;
        if claims.grants(need) {
            return Ok(claims.subject);
        }
        Err(unauthorized(self.challenge(need, Some("insufficient_scope"))))
    }

    fn challenge(&self, need: &Need, error: Option<&str>) -> String {
        let (realm, service) = (quoted(&self.realm), quoted(&self.expected.audience));
        let mut text = format!("Bearer realm={realm},service={service}");
        if let Some(scope) = need.scope() {
            text.push_str(&format!(",scope={}", quoted(&scope)));
        }
        if let Some(error) = error {
            text.push_str(&format!(",error={}", quoted(error)));
        }
        text
    }
}
