//! The swarm's own certificate authority: a P-256 root that signs node certificates.

use std::time::Duration;

use rand::Rng;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use skep_proto::ids::{ClusterId, NodeId};
use time::OffsetDateTime;

use crate::credentials::pem_certificate;
use crate::peer::unit;
use crate::{Credentials, Error, Host, Role};

/// How far a certificate's validity reaches back, for hosts whose clocks run behind.
const BACKDATE: Duration = Duration::from_secs(3600);
/// Lifetime of the root (Swarm: 20 years).
const ROOT_LIFE: Duration = Duration::from_secs(20 * 365 * 24 * 3600);

/// The root certificate with its key.
pub struct RootCa {
    host: Host,
    cluster_id: ClusterId,
    cert_pem: String,
    key_pem: String,
    digest: [u8; 32],
}

impl RootCa {
    /// A new root for a new cluster.
    pub fn generate(host: &Host, cluster_id: ClusterId) -> Result<Self, Error> {
        let key = new_key()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name("swarm-ca", None, &cluster_id);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial(host));
        set_validity(&mut params, host, ROOT_LIFE);
        let cert = params.self_signed(&key).map_err(|e| Error::certificate("root certificate", e))?;
        Self::from_pem(host, &cert.pem(), &key.serialize_pem())
    }

    /// The root a cluster object holds.
    pub fn from_pem(host: &Host, cert_pem: &str, key_pem: &str) -> Result<Self, Error> {
        let bad = |e: &dyn ToString| Error::certificate("root certificate", e.to_string());
        let der = pem_certificate(cert_pem, "root certificate")?;
        let key = KeyPair::from_pem(key_pem).map_err(|e| Error::certificate("root key", e))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|e| bad(&e))?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(Error::certificate("root key", "it is not the key of the root certificate"));
        }
        let cluster = parsed.subject().iter_organization().next().and_then(|a| a.as_str().ok());
        let cluster_id = cluster.ok_or_else(|| bad(&"it names no cluster (O)"))?.into();
        Ok(Self {
            host: host.clone(),
            cluster_id,
            cert_pem: cert_pem.to_owned(),
            key_pem: key_pem.to_owned(),
            digest: digest(&der),
        })
    }

    /// Signs a node's request. Of the request only the key is taken: names and role are ours to give.
    pub fn issue(
        &self,
        csr_pem: &str,
        node_id: &NodeId,
        role: Role,
        life: Duration,
    ) -> Result<String, Error> {
        let csr = CertificateSigningRequestParams::from_pem(csr_pem)
            .map_err(|e| Error::certificate("certificate request", e))?;
        let key = KeyPair::from_pem(&self.key_pem).map_err(|e| Error::certificate("root key", e))?;
        let issuer = Issuer::from_ca_cert_pem(&self.cert_pem, key)
            .map_err(|e| Error::certificate("root certificate", e))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name(node_id.as_str(), Some(role), &self.cluster_id);
        params.subject_alt_names = [self.cluster_id.as_str(), node_id.as_str(), unit(role)]
            .into_iter()
            .map(|n| n.try_into().map(SanType::DnsName))
            .collect::<Result<_, _>>()
            .map_err(|e| Error::certificate("node name", e))?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial(&self.host));
        set_validity(&mut params, &self.host, life);
        let cert = params
            .signed_by(&csr.public_key, &issuer)
            .map_err(|e| Error::certificate("certificate request", e))?;
        Ok(cert.pem())
    }

    /// A key and certificate made in one step, for the cluster's first node.
    pub fn credentials(&self, node_id: &NodeId, role: Role, life: Duration) -> Result<Credentials, Error> {
        let (key_pem, csr_pem) = request()?;
        let cert = self.issue(&csr_pem, node_id, role, life)?;
        Credentials::from_pem(&key_pem, &cert, &self.cert_pem)
    }

    /// SHA-256 of the root certificate, which join tokens pin.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }
    /// The cluster this is the root of.
    pub fn cluster_id(&self) -> &ClusterId {
        &self.cluster_id
    }
    /// The root certificate.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }
    /// The root's key; kept only inside the encrypted raft log.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }
}

/// SHA-256 of a certificate.
pub(crate) fn digest(der: &CertificateDer<'_>) -> [u8; 32] {
    Sha256::digest(der.as_ref()).into()
}

/// A new key and a request to certify it, both PEM.
pub(crate) fn request() -> Result<(String, String), Error> {
    let key = new_key()?;
    let csr = CertificateParams::default()
        .serialize_request(&key)
        .and_then(|csr| csr.pem())
        .map_err(|e| Error::certificate("certificate request", e))?;
    Ok((key.serialize_pem(), csr))
}

fn new_key() -> Result<KeyPair, Error> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|e| Error::certificate("key", e))
}

fn serial(host: &Host) -> SerialNumber {
    let mut bytes: [u8; 16] = host.rng().random();
    bytes[0] &= 0x7f;
    SerialNumber::from_slice(&bytes)
}

fn name(common: &str, role: Option<Role>, cluster_id: &ClusterId) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    if let Some(role) = role {
        name.push(DnType::OrganizationalUnitName, unit(role));
    }
    name.push(DnType::OrganizationName, cluster_id.as_str());
    name
}

fn set_validity(params: &mut CertificateParams, host: &Host, life: Duration) {
    let now = OffsetDateTime::from(host.now());
    params.not_before = now - BACKDATE;
    params.not_after = now.saturating_add(life.try_into().unwrap_or(time::Duration::MAX));
}

impl std::fmt::Debug for RootCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RootCa").field("cluster_id", &self.cluster_id).finish_non_exhaustive()
    }
}
