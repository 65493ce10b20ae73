//! Who a request is made as: what clients send as `X-Registry-Auth`.

use std::collections::BTreeMap;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::{Deserialize, Serialize};

use crate::Error;

/// Base64 for URLs, with or without padding: clients differ.
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
const STANDARD: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Credentials of a registry. All may be empty: nobody in particular.
#[derive(Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password, or an access token in its place.
    pub password: String,
    /// `user:password` in base64, in place of the two.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub auth: String,
    /// Address of the registry, as a client writes it.
    #[serde(rename = "serveraddress", skip_serializing_if = "String::is_empty")]
    pub server_address: String,
    /// Refresh token of an authorization server.
    #[serde(rename = "identitytoken", skip_serializing_if = "String::is_empty")]
    pub identity_token: String,
    /// Bearer token to be sent as it is.
    #[serde(rename = "registrytoken", skip_serializing_if = "String::is_empty")]
    pub registry_token: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

impl Credentials {
    /// Reads the header's value; an empty one is nobody.
    pub fn from_header(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Self::default());
        }
        let bad = || Error::Invalid("invalid X-Registry-Auth header: want JSON in URL-safe base64".into());
        // Some clients send the other alphabet.
        let json = URL_SAFE.decode(text).or_else(|_| STANDARD.decode(text)).map_err(|_| bad())?;
        Self::from_json(&json).map_err(|_| bad())
    }

    /// Reads the value of `X-Registry-Config`: credentials by registry; an empty one is none.
    pub fn several_from_header(text: &str) -> Result<BTreeMap<String, Self>, Error> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(BTreeMap::new());
        }
        let bad = || Error::Invalid("invalid X-Registry-Config header: want JSON in URL-safe base64".into());
        let json = URL_SAFE.decode(text).or_else(|_| STANDARD.decode(text)).map_err(|_| bad())?;
        let map: Option<BTreeMap<String, serde_json::Value>> =
            serde_json::from_slice(&json).map_err(|_| bad())?;
        let one = |(address, value): (String, serde_json::Value)| {
            let read = Self::from_json(value.to_string().as_bytes())?;
            Ok((crate::login::registry_of(&address), read))
        };
        map.unwrap_or_default().into_iter().map(one).collect()
    }

    /// Reads the JSON of `POST /auth`.
    pub fn from_json(json: &[u8]) -> Result<Self, Error> {
        let bad = |e: String| Error::Invalid(format!("the credentials are not valid: {e}"));
        // Serde would take an array for a struct.
        if json.trim_ascii_start().starts_with(b"[") {
            return Err(bad("an array is no object".into()));
        }
        let mut read: serde_json::Value = serde_json::from_slice(json).map_err(|e| bad(e.to_string()))?;
        if let Some(fields) = read.as_object_mut() {
            // What is null was not given.
            fields.retain(|_, v| !v.is_null());
        }
        let read: Option<Self> = serde_json::from_value(read).map_err(|e| bad(e.to_string()))?;
        let mut read = read.unwrap_or_default();
        if read.username.is_empty()
            && let Ok(pair) = STANDARD.decode(&read.auth)
            && let Some((user, password)) = String::from_utf8_lossy(&pair).split_once(':')
        {
            (read.username, read.password) = (user.to_owned(), password.trim_end_matches('\0').to_owned());
        }
        read.auth.clear();
        Ok(read)
    }

    /// The header's value for these.
    pub fn to_header(&self) -> String {
        serde_json::to_vec(self).map(|json| URL_SAFE.encode(json)).unwrap_or_default()
    }

    /// Nobody in particular.
    pub fn is_empty(&self) -> bool {
        self.username.is_empty()
            && self.password.is_empty()
            && self.identity_token.is_empty()
            && self.registry_token.is_empty()
    }

    /// Value of an `Authorization` header.
    pub(crate) fn basic(&self) -> Option<String> {
        (!self.username.is_empty())
            .then(|| format!("Basic {}", STANDARD.encode(format!("{}:{}", self.username, self.password))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_clients_write_them() {
        let me = Credentials { username: "me".into(), password: "s3cret?~".into(), ..Credentials::default() };
        assert_eq!(Credentials::from_header(&me.to_header()).expect("reads"), me);
        assert_eq!(Credentials::from_header(me.to_header().trim_end_matches('=')).expect("reads"), me);
        // user:pass in base64, as config.json holds it.
        let packed = Credentials::from_json(br#"{"auth":"dXNlcjpwYXNz"}"#).expect("reads");
        assert_eq!((packed.username.as_str(), packed.password.as_str()), ("user", "pass"));
        let nulls = Credentials::from_json(br#"{"username":"me","auth":null,"identitytoken":null}"#);
        assert_eq!(nulls.expect("reads").username, "me");
        let several = STANDARD
            .encode(br#"{"localhost:5000":{"username":"me","auth":null},"https://x.example/v1/":{}}"#);
        let several = Credentials::several_from_header(&several).expect("reads");
        assert_eq!(several["localhost:5000"].username, "me");
        assert!(several["x.example"].is_empty());
        assert!(Credentials::from_header("").expect("reads").is_empty());
        assert!(Credentials::from_header("e30=").expect("reads").is_empty());
        for bad in ["%%%", "bm8ganNvbg==", "W10="] {
            assert!(Credentials::from_header(bad).is_err(), "{bad}");
        }
        assert!(!format!("{me:?}").contains("s3cret"));
    }
}
