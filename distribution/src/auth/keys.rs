//! Keys that sign tokens: by name from certificates (libtrust's key IDs) and JSON Web Key Sets (RFC 7517), and by
//! certificates that come with a token (`x5c`) if a known one vouches for them.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::jwt::Header;
use crate::error::Error;

/// All keys that are trusted.
#[derive(Debug)]
pub(super) struct Keys {
    named: Vec<(Option<String>, Key)>,
    roots: RootCertStore,
    certificates: Vec<CertificateDer<'static>>,
}

/// A public key.
#[derive(Debug)]
enum Key {
    /// RFC 8017's RSAPublicKey.
    Rsa(Vec<u8>),
    Parts {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// An uncompressed point of P-256 or P-384, told apart by its length.
    Point(Vec<u8>),
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    crv: String,
    #[serde(default)]
    n: String,
    #[serde(default)]
    e: String,
    #[serde(default)]
    x: String,
    #[serde(default)]
    y: String,
}

impl Keys {
    /// Reads what there is of both.
    pub(super) fn read(certificates: Option<&Path>, jwks: Option<&Path>) -> Result<Self, Error> {
        let mut keys = Self { named: Vec::new(), roots: RootCertStore::empty(), certificates: Vec::new() };
        if let Some(path) = certificates {
            let bad = |e: String| Error::Invalid(format!("cannot use {}: {e}", path.display()));
            let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            for certificate in all.map_err(|e| bad(e.to_string()))? {
                let (id, key) = key_of(&certificate).map_err(bad)?;
                keys.named.push((Some(id), key));
                // One that is no authority vouches for itself alone.
                let _ = keys.roots.add(certificate.clone());
                keys.certificates.push(certificate);
            }
        }
        if let Some(path) = jwks {
            let bad = |e: String| Error::Invalid(format!("cannot use {}: {e}", path.display()));
            let text = std::fs::read(path).map_err(Error::io("read", path))?;
            let set: Set = serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))?;
            for jwk in set.keys {
                keys.named.push((jwk.kid.clone(), jwk.key().map_err(bad)?));
            }
        }
        if keys.named.is_empty() {
            return Err(Error::Invalid("no key to check tokens with was found".into()));
        }
        Ok(keys)
    }

    /// Checks a signature by the key that a token's header names.
    pub(super) fn verify(&self, header: &Header, signed: &[u8], signature: &[u8]) -> Result<(), String> {
        let alg = header.alg.as_str();
        if let Some(chain) = header.x5c.as_ref().filter(|c| !c.is_empty()) {
            let key = self.vouched_for(chain)?;
            return key.verify(alg, signed, signature);
        }
        let fits = |named: &Option<String>| header.kid.is_none() || named.is_none() || *named == header.kid;
        let mut last = format!("no key {:?} is known", header.kid.as_deref().unwrap_or_default());
        for (_, key) in self.named.iter().filter(|(name, _)| fits(name)) {
            match key.verify(alg, signed, signature) {
                Ok(()) => return Ok(()),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    fn vouched_for(&self, chain: &[String]) -> Result<Key, String> {
        if chain.len() > 10 {
            return Err("its chain of certificates is too long".into());
        }
        let decode =
            |c: &String| STANDARD.decode(c).map(CertificateDer::from).map_err(|e| format!("its x5c: {e}"));
        let chain: Vec<CertificateDer<'static>> = chain.iter().map(decode).collect::<Result<_, _>>()?;
        let (_, key) = key_of(&chain[0])?;
        if self.certificates.contains(&chain[0]) {
            return Ok(key);
        }
        let parsed = rustls::server::ParsedCertificate::try_from(&chain[0]).map_err(|e| e.to_string())?;
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            &chain[1..],
            UnixTime::now(),
            algorithms.all,
        )
        .map_err(|e| format!("its certificate: {e}"))?;
        Ok(key)
    }
}

impl Jwk {
    fn key(&self) -> Result<Key, String> {
        let part = |name: &str, text: &str| {
            URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok().filter(|b| !b.is_empty()).ok_or_else(
                || format!("{name:?} of key {:?} is not base64url", self.kid.as_deref().unwrap_or("")),
            )
        };
        match (self.kty.as_str(), self.crv.as_str()) {
            ("RSA", _) => Ok(Key::Parts { n: part("n", &self.n)?, e: part("e", &self.e)? }),
            ("EC", curve @ ("P-256" | "P-384")) => {
                let (x, y) = (part("x", &self.x)?, part("y", &self.y)?);
                let length = if curve == "P-256" { 32 } else { 48 };
                if x.len() != length || y.len() != length {
                    return Err(format!("the point of an EC key is not of {curve}"));
                }
                Ok(Key::Point([vec![4], x, y].concat()))
            }
            (kty, crv) => Err(format!(
                "keys of the type {kty:?} {crv:?} are not known: want RSA, or EC with P-256 or P-384"
            )),
        }
    }
}

impl Key {
    fn verify(&self, alg: &str, signed: &[u8], sig: &[u8]) -> Result<(), String> {
        let rsa: Option<&'static signature::RsaParameters> = match alg {
            "RS256" => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
            "RS384" => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
            "RS512" => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
            _ => None,
        };
        let point: Option<&'static dyn VerificationAlgorithm> = match (alg, self) {
            ("ES256", Self::Point(p)) if p.len() == 65 => Some(&signature::ECDSA_P256_SHA256_FIXED),
            ("ES384", Self::Point(p)) if p.len() == 97 => Some(&signature::ECDSA_P384_SHA384_FIXED),
            _ => None,
        };
        let checked = match (self, rsa, point) {
            (Self::Rsa(der), Some(rsa), _) => UnparsedPublicKey::new(rsa, der).verify(signed, sig),
            (Self::Parts { n, e }, Some(rsa), _) => RsaPublicKeyComponents { n, e }.verify(rsa, signed, sig),
            (Self::Point(p), _, Some(ecdsa)) => UnparsedPublicKey::new(ecdsa, p).verify(signed, sig),
            _ => return Err(format!("algorithm {alg:?} is not one of its key")),
        };
        checked.map_err(|_| "its signature is wrong".to_owned())
    }
}

/// A certificate's key, and the name that Docker's libtrust gives it.
fn key_of(certificate: &CertificateDer<'_>) -> Result<(String, Key), String> {
    let (_, read) = X509Certificate::from_der(certificate).map_err(|e| format!("a certificate: {e}"))?;
    let info = read.public_key();
    let bits = info.subject_public_key.data.to_vec();
    let key = match info.algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.113549.1.1.1" => Key::Rsa(bits),
        "1.2.840.10045.2.1" if matches!(bits.len(), 65 | 97) => Key::Point(bits),
        other => return Err(format!("a certificate's key of the kind {other} is not known")),
    };
    Ok((key_id(info.raw), key))
}

/// `ABCD:EFGH:...`: 240 bits of the key's SHA-256 in base32, in groups of four.
fn key_id(spki: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let hash = Sha256::digest(spki);
    let mut text = String::new();
    for (at, five) in hash[..30].chunks(5).enumerate() {
        let bits = five.iter().fold(0u64, |all, b| all << 8 | u64::from(*b));
        for i in 0..8 {
            if i % 4 == 0 && (at, i) != (0, 0) {
                text.push(':');
            }
            let index = usize::try_from(bits >> (35 - 5 * i) & 31).unwrap_or(0);
            text.push(char::from(ALPHABET[index]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SigningKey};
    use serde_json::json;

    use super::*;

    fn header(value: serde_json::Value) -> Header {
        serde_json::from_value(value).expect("a header")
    }

    /// Made with `openssl genrsa` and `openssl dgst -sha256 -sign`.
    #[test]
    fn rsa_keys_of_a_set() {
        let n = "9lrUEM-FkmLXOoHH2_4QKdFqS9BoNK5zaHZNt1IG1T6Atp8pKfiHusCOOpDRe-IzkOGiXcZrWIzv1Oa58QUgzsqtZGspFbTsSmyReNW7mwif2AnMAaodz0OPnSjE4OOCvgwUpMaYZO-d66ypcfUqC3SJ3WWScfwRrEPkC-tCSCMIyWi4Lm7uyRmyhsnx1pWYtz05hVocW09an2_meupR39BS1A7kflkmG5vPAlRZ7rKk5k2kSXOOAmb5TIe6hyjuyK6MiGz2hZeBPMhBkwmPLYn18K3UEfEGrkQpc2lgmhGDKSIKWILt-bUvtYOEen-nrM2CP9fLhXWN0cc9xMRI3w";
        let signed = r#"{"alg":"RS256"}.{"iss":"joe"}"#;
        let signature = "W9s0Cg3mbRs_YEhNPPhaPoUD3BHB603G0KgQKWZYLCEmsE8HbL5NTRxrQg8nQ_JhQC9dfkWJ5evmx7syUvnamh8hrTVmMf9Ow1O8t3z_tZ0ym5iVeXa32AwlLjh-PX0nIVLJM0DATA4-HlG0XtjAutMzxwXqPwPGSdHurNAF8gmysZ65stvdPSIRfZsTwf411-0p_eKj6bdHldYWEy-1klhYP8D66WBMW-j299OUQD26-qQxx4V9_he7XzJ3ut-nPKx0Ls02w8DkbAQw1g_GJdE7Sikf2wZiVS0noZnlrv37BKLL66H-oNvDFzJTyhr2qX3qMNZAIOREo7JM_Z1Pbw";
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("jwks");
        let write = |set: serde_json::Value| std::fs::write(&path, set.to_string()).expect("writes");
        write(json!({ "keys": [{ "kty": "RSA", "n": n, "e": "AQAB" }] }));
        let keys = Keys::read(None, Some(&path)).expect("reads");
        let signature = URL_SAFE_NO_PAD.decode(signature).expect("base64");
        let check = |alg: &str, text: &str| {
            keys.verify(&header(json!({ "alg": alg, "kid": "any" })), text.as_bytes(), &signature)
        };
        assert_eq!(check("RS256", signed), Ok(()));
        assert!(check("RS256", &signed.replace('e', "f")).is_err());
        for alg in ["RS512", "ES256", "HS256", "none", ""] {
            assert!(check(alg, signed).is_err(), "{alg}");
        }
        for bad in [
            json!({ "keys": [] }),
            json!({ "keys": [{ "kty": "oct", "k": "AA" }] }),
            json!({ "keys": [{ "kty": "RSA", "n": "", "e": "AQAB" }] }),
            json!({ "keys": [{ "kty": "EC", "crv": "P-256", "x": "AA", "y": "AA" }] }),
            json!([]),
        ] {
            write(bad.clone());
            assert!(Keys::read(None, Some(&path)).is_err(), "{bad}");
        }
    }

    /// Signs with a key whose certificate is among the roots, or vouched for by one.
    #[test]
    fn keys_of_certificates() {
        let authority = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&authority).expect("a certificate");
        let issuer = Issuer::new(params, authority);
        let (key, other) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
        let leaf = CertificateParams::default().signed_by(&key, &issuer).expect("a certificate");
        let stranger = CertificateParams::default().self_signed(&other).expect("a certificate");
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("bundle");
        std::fs::write(&path, root.pem()).expect("writes");
        let keys = Keys::read(Some(&path), None).expect("reads");
        let id = keys.named[0].0.clone().expect("a name");
        assert!(id.len() == 59 && id.split(':').all(|group| group.len() == 4), "{id}");

        // ASN.1 to the fixed form of tokens: two numbers of 32 bytes.
        let sign = |key: &KeyPair| {
            let der = key.sign(b"text").expect("signs");
            let number = |at: usize| {
                let length = usize::from(der[at + 1]);
                let bytes = &der[at + 2..at + 2 + length];
                let bare = &bytes[bytes.iter().take_while(|b| **b == 0).count()..];
                ([vec![0; 32 - bare.len()], bare.to_vec()].concat(), at + 2 + length)
            };
            let (r, next) = number(2);
            [r, number(next).0].concat()
        };
        let b64 = |c: &rcgen::Certificate| STANDARD.encode(c.der());
        let check =
            |value: serde_json::Value, signature: &[u8]| keys.verify(&header(value), b"text", signature);
        let by_root = sign(issuer.key());
        assert_eq!(check(json!({ "alg": "ES256", "kid": id }), &by_root), Ok(()));
        assert!(check(json!({ "alg": "ES256", "kid": "else" }), &by_root).is_err());
        assert_eq!(check(json!({ "alg": "ES256", "x5c": [b64(&root)] }), &by_root), Ok(()));
        assert_eq!(check(json!({ "alg": "ES256", "x5c": [b64(&leaf)] }), &sign(&key)), Ok(()));
        assert_eq!(check(json!({ "alg": "ES256", "x5c": [b64(&leaf), b64(&root)] }), &sign(&key)), Ok(()));
        assert!(check(json!({ "alg": "ES256", "x5c": [b64(&leaf)] }), &sign(&other)).is_err());
        assert!(check(json!({ "alg": "ES256", "x5c": [b64(&stranger)] }), &sign(&other)).is_err());
        assert!(check(json!({ "alg": "ES256", "x5c": ["nonsense"] }), &sign(&key)).is_err());
    }
}
