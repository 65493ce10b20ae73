//! JSON Web Tokens (RFC 7519, RFC 7515 compact form) as authorization servers of registries make them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::Value;

use super::Need;
use super::keys::Keys;

/// Longest token read.
const LONGEST: usize = 64 << 10;
/// By how much clocks may differ, in seconds.
const LEEWAY: u64 = 60;

/// What a token must say.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    pub(super) issuer: String,
    pub(super) audience: String,
}

/// What a token says, its signature checked.
#[derive(Clone, Debug)]
pub(super) struct Claims {
    pub(super) subject: String,
    access: Vec<Access>,
}

/// One grant.
#[derive(Clone, Debug, Deserialize)]
struct Access {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    actions: Vec<String>,
}

/// Which key signed, and how.
#[derive(Debug, Deserialize)]
pub(super) struct Header {
    pub(super) alg: String,
    #[serde(default)]
    pub(super) kid: Option<String>,
    #[serde(default)]
    pub(super) x5c: Option<Vec<String>>,
    #[serde(default)]
    crit: Option<Value>,
}

#[derive(Deserialize)]
struct Payload {
    #[serde(default)]
    iss: String,
    #[serde(default)]
    sub: String,
    #[serde(default)]
    aud: Value,
    exp: f64,
    #[serde(default)]
    nbf: Option<f64>,
    #[serde(default)]
    access: Option<Vec<Access>>,
}

impl Claims {
    /// Checks a token at a time (seconds since 1970).
    ///
    /// # Errors
    /// Why it is not taken, for the log: clients are not told.
    pub(super) fn verified(token: &str, keys: &Keys, expected: &Expected, now: u64) -> Result<Self, String> {
        if token.len() > LONGEST {
            return Err(format!("it is longer than {LONGEST} bytes"));
        }
        let mut parts = token.split('.');
        let (Some(head), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err("it has not three parts".into());
        };
        let signed = &token[..head.len() + 1 + payload.len()];
        let decode =
            |text: &str| URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|e| e.to_string());
        let header: Header =
            serde_json::from_slice(&decode(head)?).map_err(|e| format!("its header: {e}"))?;
        if header.crit.is_some() {
            return Err("it has critical extensions".into());
        }
        keys.verify(&header, signed.as_bytes(), &decode(signature)?)?;
        // Nothing of it is looked at before.
        let read: Payload =
            serde_json::from_slice(&decode(payload)?).map_err(|e| format!("its claims: {e}"))?;
        if read.iss != expected.issuer {
            return Err(format!("it is of the issuer {:?}", read.iss));
        }
        let audience = match &read.aud {
            Value::Array(all) => all.iter().any(|a| a.as_str() == Some(&expected.audience)),
            one => one.as_str() == Some(&expected.audience),
        };
        if !audience {
            return Err(format!("it is for {}", read.aud));
        }
        let (early, late) = ((now + LEEWAY) as f64, now.saturating_sub(LEEWAY) as f64);
        if read.exp.is_nan() || read.exp <= late {
            return Err("it has expired".into());
        }
        if read.nbf.is_some_and(|nbf| nbf > early) {
            return Err("it is not valid yet".into());
        }
        Ok(Self { subject: read.sub, access: read.access.unwrap_or_default() })
    }

    /// Whether its grants reach as far.
    pub(super) fn grants(&self, need: &Need) -> bool {
        let (kind, name, actions): (_, &str, &[&str]) = match need {
            Need::Anybody => return true,
            Need::Catalog => ("registry", "catalog", &["*"]),
            Need::Repository { name, actions } => ("repository", name, actions),
        };
        actions.iter().all(|action| {
            self.access.iter().any(|a| {
                // `repository(plugin)` is a repository with a class.
                a.kind.split('(').next() == Some(kind)
                    && a.name == name
                    && a.actions.iter().any(|given| given == action || given == "*")
            })
        })
    }
}
