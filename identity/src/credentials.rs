//! A node's key, its certificate and the roots it trusts: one unit, stored as one file. With autolock a
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
use skep_proto::v1::TlsInfo;

use crate::seal::{self, SealKey};
use crate::{Error, PeerIdentity, Trust, pem, trust};

const FILE: &str = "node.pem";
/// Around a key that is sealed, in place of its own PEM.
const SEALED_BEGIN: &str = "-----BEGIN SKEP SEALED KEY-----";
const SEALED_END: &str = "-----END SKEP SEALED KEY-----";
/// What the sealing is bound to.
const ABOUT: &[u8] = b"skep node key";
/// Lines before the key. Without them: one certificate, and no root was ever rotated.
const CHAIN: &str = "Skep-Chain: ";
const TRUST_EPOCH: &str = "Skep-Trust-Epoch: ";
const ISSUED_EPOCH: &str = "Skep-Issued-Epoch: ";

/// Key, certificate (with what leads from it to a root) and roots of a node.
pub struct Credentials {
    key_pem: String,
    trust: Trust,
    issued_epoch: u64,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) roots: Vec<CertificateDer<'static>>,
    tls: TlsInfo,
    identity: PeerIdentity,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Credentials {
    /// Checks that all belong together. `chain_pem` begins with the node's own certificate.
    pub fn from_pem(key_pem: &str, chain_pem: &str, trust: Trust) -> Result<Self, Error> {
        let issued_epoch = trust.epoch;
        Self::issued_at(issued_epoch, key_pem, pem::certificates(chain_pem, "node certificate")?, trust)
    }

    fn issued_at(
        issued_epoch: u64,
        key_pem: &str,
        chain: Vec<CertificateDer<'static>>,
        trust: Trust,
    ) -> Result<Self, Error> {
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|e| Error::certificate("node key", e))?;
        let roots = pem::certificates(&trust.roots_pem, "root certificate")?;
        let own = chain.first().ok_or_else(|| Error::certificate("node certificate", "there is none"))?;
        let identity = PeerIdentity::from_der(own)?;
        let tls = trust::tls_info_of(&chain, &roots)?;
        let parsed = trust::parse(own, "node certificate")?;
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
            trust,
            issued_epoch,
            key,
            chain,
            roots,
            tls,
            identity,
            not_before,
            not_after,
        })
    }

    /// The same key and certificate under other roots, if they lead to one of them.
    pub(crate) fn trusting(&self, trust: Trust) -> Result<Self, Error> {
        Self::issued_at(self.issued_epoch, &self.key_pem, self.chain.clone(), trust)
    }

    /// Whom the certificate names.
    pub fn identity(&self) -> &PeerIdentity {
        &self.identity
    }
    /// Whom the node trusts.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }
    /// The epoch of the trust that came with the certificate.
    pub fn issued_epoch(&self) -> u64 {
        self.issued_epoch
    }
    /// What the swarm is told of all this.
    pub fn tls_info(&self) -> &TlsInfo {
        &self.tls
    }
    /// The node's certificate, and what leads from it to a root.
    pub fn chain_pem(&self) -> String {
        pem::to_pem(&self.chain)
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
        let about = format!(
            "{CHAIN}{}\n{TRUST_EPOCH}{}\n{ISSUED_EPOCH}{}\n",
            self.chain.len(),
            self.trust.epoch,
            self.issued_epoch
        );
        let text = format!("{about}{}\n{}{}", key.trim(), self.chain_pem(), pem::to_pem(&self.roots));
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
        let number = |name: &str, default: u64| -> u64 {
            let lines = text.lines().take_while(|l| !l.starts_with("-----"));
            lines.filter_map(|l| l.strip_prefix(name)).find_map(|n| n.parse().ok()).unwrap_or(default)
        };
        let sections = split(&text);
        let length = usize::try_from(number(CHAIN, 1)).unwrap_or(usize::MAX);
        let parts =
            sections.split_first().and_then(|(key, rest)| Some((key, rest.split_at_checked(length)?)));
        let Some((key, (chain, roots))) = parts.filter(|(_, (_, roots))| !roots.is_empty()) else {
            let source = std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                format!("only {} PEM sections are left: leave the swarm and join again", sections.len()),
            );
            return Err(Error::File { operation: "read node identity", path, source });
        };
        let opened = if key.starts_with(SEALED_BEGIN) {
            let seal = seal.ok_or(Error::Sealed { path })?;
            opened_pem(seal, key)
                .ok_or_else(|| Error::certificate("node key", "it is sealed by another key, or damaged"))?
        } else {
            key.clone()
        };
        let chain = pem::certificates(&chain.concat(), "node certificate")?;
        let trust = Trust { roots_pem: roots.concat(), epoch: number(TRUST_EPOCH, 0) };
        Self::issued_at(number(ISSUED_EPOCH, 0), &opened, chain, trust).map(Some)
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

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Credentials").field(&self.identity).finish()
    }
}
