//! What it takes to have certificates signed by a server of somebody else: how to connect to it, and whether what it
//! signed is what was asked for.

use std::sync::Arc;

use rcgen::{CertificateSigningRequestParams, PublicKeyData as _};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use skep_proto::ids::NodeId;

use crate::{Error, Host, Identity, PeerIdentity, Role, pem, tls, trust};

/// The TLS configuration for a server at `host` whose certificate `root_pem` signed, as this node.
pub fn tls(
    identity: &Identity,
    root_pem: &str,
    host: &str,
) -> Result<(Arc<ClientConfig>, ServerName<'static>), Error> {
    let roots = pem::certificates(root_pem, "root certificate")?;
    let name = ServerName::try_from(host.to_owned())
        .map_err(|e| Error::certificate("TLS configuration", format!("\"{host}\": {e}")))?;
    Ok((tls::https_config(identity.host(), &identity.current(), &roots)?, name))
}

/// What a certificate was asked for.
pub struct Expected<'a> {
    /// The request, PEM.
    pub csr_pem: &'a str,
    /// The node.
    pub node_id: &'a NodeId,
    /// Its role.
    pub role: Role,
    /// Its cluster.
    pub cluster_id: &'a str,
}

/// The node's own certificate from what a server answered, if it says what it must and `root_pem` signed it.
pub fn check(
    host: &Host,
    answer_pem: &str,
    root_pem: &str,
    expected: &Expected<'_>,
) -> Result<String, Error> {
    let wrong = |reason: String| Error::certificate("certificate of an external CA", reason);
    let answer = pem::certificates(answer_pem, "certificate of an external CA")?;
    let own = &answer[..1];
    let roots = pem::certificates(root_pem, "root certificate")?;
    let peer = PeerIdentity::from_der(&answer[0])?;
    if (peer.node_id.as_str(), peer.role, peer.cluster_id.as_str())
        != (expected.node_id.as_str(), expected.role, expected.cluster_id)
    {
        return Err(wrong(format!("it names {peer:?}, which is not what was asked for")));
    }
    let csr = CertificateSigningRequestParams::from_pem(expected.csr_pem)
        .map_err(|e| Error::certificate("certificate request", e))?;
    let parsed = trust::parse(&answer[0], "certificate of an external CA")?;
    if parsed.public_key().raw != csr.public_key.subject_public_key_info() {
        return Err(wrong("it is for another key".to_owned()));
    }
    tls::verify(host, own, &roots, expected.cluster_id, expected.role)?;
    Ok(pem::to_pem(own))
}
