//! A node's key, its certificate and the root it is verified against: one unit, stored as one file. With autolock a
//! manager's key is sealed in it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::seal::{self, SealKey};
use crate::{Error, PeerIdentity};

const FILE: &str = "node.pem";
/// Around a key that is sealed, in place of its own PEM.
const SEALED_BEGIN: &str = "-----BEGIN SKEP SEALED KEY-----";
const SEALED_END: &str = "-----END SKEP SEALED KEY-----";
/// What the sealing is bound to.
const ABOUT: &[u8] = b"skep node key";

/// Key, certificate and root of a node.
pub struct Credentials {
    key_pem: String,
    cert_pem: String,
    root_pem: String,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) cert: CertificateDer<'static>,
    pub(crate) root: CertificateDer<'static>,
    identity: PeerIdentity,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Credentials {
    /// Checks that the three belong together.
    pub fn from_pem(key_pem: &str, cert_pem: &str, root_pem: &str) -> Result<Self, Error> {
        let bad = |reason: String| Error::certificate("node certificate", reason);
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|e| Error::certificate("node key", e))?;
        let cert = pem_certificate(cert_pem, "node certificate")?;
        let root = pem_certificate(root_pem, "root certificate")?;
        let identity = PeerIdentity::from_der(&cert)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&cert).map_err(|e| bad(e.to_string()))?;
        let (_, parsed_root) = x509_parser::parse_x509_certificate(&root)
            .map_err(|e| Error::certificate("root certificate", e))?;
        parsed
            .verify_signature(Some(parsed_root.public_key()))
            .map_err(|e| bad(format!("the root did not sign it: {e}")))?;
        let pair = rcgen::KeyPair::from_pem(key_pem).map_err(|e| Error::certificate("node key", e))?;
        if parsed.public_key().subject_public_key.data.as_ref() != pair.public_key_raw() {
            return Err(Error::certificate("node key", "it is not the key of the certificate"));
        }
        let at = |t: x509_parser::time::ASN1Time| {
            SystemTime::UNIX_EPOCH + Duration::from_secs(t.timestamp().max(0).unsigned_abs())
        };
        let (not_before, not_after) = (at(parsed.validity().not_before), at(parsed.validity().not_after));
        Ok(Self {
            key_pem: key_pem.to_owned(),
            cert_pem: cert_pem.to_owned(),
            root_pem: root_pem.to_owned(),
            key,
            cert,
            root,
            identity,
            not_before,
            not_after,
        })
    }

    /// Whom the certificate names.
    pub fn identity(&self) -> &PeerIdentity {
        &self.identity
    }
    /// The root certificate.
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }
    /// The node's certificate.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }
    /// First and last moment of validity.
    pub fn validity(&self) -> (SystemTime, SystemTime) {
        (self.not_before, self.not_after)
    }

    /// Writes the file so that a crash leaves either the old one or the new one; with a key, the node's is sealed.
    pub(crate) fn store(&self, dir: &Path, seal: Option<&SealKey>) -> Result<(), Error> {
        let path = dir.join(FILE);
        let temporary = dir.join(format!(".{FILE}.new"));
        let key = match seal {
            None => self.key_pem.clone(),
            Some(key) => sealed_pem(key, &self.key_pem)
                .ok_or_else(|| Error::certificate("node key", "it could not be sealed"))?,
        };
        let text = format!("{}\n{}\n{}\n", key.trim(), self.cert_pem.trim(), self.root_pem.trim());
        let write = || {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            fs::File::open(dir)?.sync_all()
        };
        write().map_err(|source| Error::File { operation: "write node identity", path: path.clone(), source })
    }

    /// Reads the file; none if this host has no identity. `seal` opens a sealed key.
    pub(crate) fn load(dir: &Path, seal: Option<&SealKey>) -> Result<Option<Self>, Error> {
        let path = dir.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::File { operation: "read node identity", path, source }),
        };
        let sections = split(&text);
        let [key, cert, root] = &sections[..] else {
            let source = std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                format!("{} PEM sections instead of 3: leave the swarm and join again", sections.len()),
            );
            return Err(Error::File { operation: "read node identity", path, source });
        };
        if !key.starts_with(SEALED_BEGIN) {
            return Self::from_pem(key, cert, root).map(Some);
        }
        let seal = seal.ok_or(Error::Sealed { path })?;
        let opened = opened_pem(seal, key)
            .ok_or_else(|| Error::certificate("node key", "it is sealed by another key, or damaged"))?;
        Self::from_pem(&opened, cert, root).map(Some)
    }

    /// Removes the file: this host has left its swarm.
    pub(crate) fn forget(dir: &Path) -> Result<(), Error> {
        let path = dir.join(FILE);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::File { operation: "remove node identity", path, source })
            }
            _ => Ok(()),
        }
    }
}

fn sealed_pem(seal: &SealKey, key_pem: &str) -> Option<String> {
    let sealed = seal::seal(seal, ABOUT, key_pem.as_bytes())?;
    Some(format!("{SEALED_BEGIN}\n{}\n{SEALED_END}\n", BASE64.encode(sealed)))
}

fn opened_pem(seal: &SealKey, text: &str) -> Option<String> {
    let text: String = text.lines().filter(|l| !l.starts_with("-----")).collect();
    String::from_utf8(seal::open(seal, ABOUT, &BASE64.decode(text).ok()?)?).ok()
}

fn split(text: &str) -> Vec<String> {
    let mut sections = Vec::new();
    for line in text.lines().filter(|l| !l.trim().is_empty()) {
        if line.starts_with("-----BEGIN") {
            sections.push(String::new());
        }
        if let Some(section) = sections.last_mut() {
            section.push_str(line);
            section.push('\n');
        }
    }
    sections
}

pub(crate) fn pem_certificate(pem: &str, what: &'static str) -> Result<CertificateDer<'static>, Error> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| Error::certificate(what, e))
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Credentials").field(&self.identity).finish()
    }
}
