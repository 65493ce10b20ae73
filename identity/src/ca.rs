//! The swarm's own certificate authority: a root (of its own making, P-256, or brought by somebody) that signs node
//! certificates, and the root after it.

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

use crate::peer::unit;
use crate::private_key::key_pair;
use crate::{Credentials, Error, Host, JoinToken, Role, Trust, cross, pem, tls, trust};

/// How far a certificate's validity reaches back, for hosts whose clocks run behind.
const BACKDATE: Duration = Duration::from_secs(3600);
/// Lifetime of the root (Swarm: 20 years).
const ROOT_LIFE: Duration = Duration::from_secs(20 * 365 * 24 * 3600);

/// Shortest time a root that somebody brings must still be valid (Swarm: a year).
const ROOT_LEFT: Duration = Duration::from_secs(365 * 24 * 3600);

/// A root certificate with its key, and the cluster it signs for.
pub struct RootCa {
    host: Host,
    cluster_id: ClusterId,
    cert_pem: String,
    key_pem: String,
    digest: [u8; 32],
    /// What leads from here to the root that nodes trust already; empty if that is this one.
    cross_signed_pem: String,
}

impl RootCa {
    /// A new root for a cluster.
    pub fn generate(host: &Host, cluster_id: ClusterId) -> Result<Self, Error> {
        let key = new_key()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name("swarm-ca", None, &cluster_id);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(SerialNumber::from_slice(&serial(host)));
        set_validity(&mut params, host, ROOT_LIFE);
        let cert = params.self_signed(&key).map_err(|e| Error::certificate("root certificate", e))?;
        Self::from_pem(host, &cluster_id, &cert.pem(), &key.serialize_pem())
    }

    /// The root a cluster object holds.
    pub fn from_pem(
        host: &Host,
        cluster_id: &ClusterId,
        cert_pem: &str,
        key_pem: &str,
    ) -> Result<Self, Error> {
        let der = pem::certificate(cert_pem, "root certificate")?;
        let key = key_pair(key_pem, "root key")?;
        let parsed = trust::parse(&der, "root certificate")?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(Error::certificate("root key", "it is not the key of the root certificate"));
        }
        Ok(Self {
            host: host.clone(),
            cluster_id: cluster_id.clone(),
            cert_pem: pem::to_pem(std::slice::from_ref(&der)),
            key_pem: key_pem.to_owned(),
            digest: digest(&der),
            cross_signed_pem: String::new(),
        })
    }

    /// The same, as another root has signed it: what it issues is known to those who trust that one, too.
    pub fn cross_signed(self, cross_signed_pem: &str) -> Self {
        Self { cross_signed_pem: cross_signed_pem.to_owned(), ..self }
    }

    /// Signs the name and key of another root, which is to take the place of this one.
    pub fn cross_sign(&self, other_pem: &str) -> Result<String, Error> {
        let (old, new) = (self.der()?, pem::certificate(other_pem, "root certificate")?);
        let (old, new) = (trust::parse(&old, "root certificate")?, trust::parse(&new, "root certificate")?);
        let from = OffsetDateTime::from(self.host.now()) - BACKDATE;
        let key = key_pair(&self.key_pem, "root key")?;
        Ok(pem::to_pem(&[cross::sign(&old, &key, &new, &serial(&self.host), from)?]))
    }

    /// Fails unless nodes that trust one of `roots_pem` only would know the nodes this root signs for, one root
    /// after the other.
    pub fn try_out(&self, roots_pem: &[&str]) -> Result<(), Error> {
        let (_, csr) = request()?;
        let issued = self.issue(&csr, &"trial".into(), Role::Manager, ROOT_LEFT)?;
        let chain = pem::certificates(&issued, "node certificate")?;
        for root in roots_pem {
            let root = pem::certificate(root, "root certificate")?;
            tls::verify(&self.host, &chain, &[root], self.cluster_id.as_str(), Role::Manager)?;
        }
        Ok(())
    }

    fn der(&self) -> Result<CertificateDer<'static>, Error> {
        pem::certificate(&self.cert_pem, "root certificate")
    }

    /// Signs a node's request; what leads to the trusted root follows the certificate. Of the request only the key is
    /// taken: names and role are ours to give.
    pub fn issue(
        &self,
        csr_pem: &str,
        node_id: &NodeId,
        role: Role,
        life: Duration,
    ) -> Result<String, Error> {
        let csr = CertificateSigningRequestParams::from_pem(csr_pem)
            .map_err(|e| Error::certificate("certificate request", e))?;
        let key = key_pair(&self.key_pem, "root key")?;
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
        params.serial_number = Some(SerialNumber::from_slice(&serial(&self.host)));
        set_validity(&mut params, &self.host, life);
        let cert = params
            .signed_by(&csr.public_key, &issuer)
            .map_err(|e| Error::certificate("certificate request", e))?;
        Ok(format!("{}{}", cert.pem(), self.cross_signed_pem))
    }

    /// A key and certificate made in one step, for the cluster's first node.
    pub fn credentials(&self, node_id: &NodeId, role: Role, life: Duration) -> Result<Credentials, Error> {
        let (key_pem, csr_pem) = request()?;
        let cert = self.issue(&csr_pem, node_id, role, life)?;
        Credentials::from_pem(&key_pem, &cert, Trust::first(&self.cert_pem))
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

/// Fails unless a certificate that somebody brings can be a swarm's root.
pub fn check_root(host: &Host, cert_pem: &str) -> Result<(), Error> {
    let der = pem::certificate(cert_pem, "CA certificate")?;
    let parsed = trust::parse(&der, "CA certificate")?;
    if !parsed.is_ca() {
        return Err(Error::certificate(
            "CA certificate",
            "it is not the certificate of an authority (CA:TRUE)",
        ));
    }
    let left = OffsetDateTime::from(host.now()) + ROOT_LEFT;
    if parsed.validity().not_after.to_datetime() < left {
        return Err(Error::certificate(
            "CA certificate",
            "CA certificate expires too soon: it must be valid for a year yet",
        ));
    }
    Ok(())
}

/// A new join token with a fresh secret, for a swarm with this root.
pub fn join_token(root_pem: &str, rng: &mut impl Rng) -> Result<JoinToken, Error> {
    Ok(JoinToken::generate(&digest(&pem::certificate(root_pem, "root certificate")?), rng))
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

/// Positive, and of the same length each time.
fn serial(host: &Host) -> [u8; 16] {
    let mut bytes: [u8; 16] = host.rng().random();
    bytes[0] = (bytes[0] & 0x3f) | 0x40;
    bytes
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
