//! Who is at the other end of a connection, read from its verified certificate.

use std::net::SocketAddr;

use rustls::pki_types::CertificateDer;
use skep_proto::ids::{ClusterId, NodeId};
use tonic::{Extensions, Status};

use crate::{Error, Role};

/// A node as its certificate names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The node (CN).
    pub node_id: NodeId,
    /// Its role (OU).
    pub role: Role,
    /// Its cluster (O).
    pub cluster_id: ClusterId,
}

/// What each gRPC request carries about its connection.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// The node, or none for a host that has no certificate yet.
    pub identity: Option<PeerIdentity>,
    /// Where the connection comes from.
    pub addr: SocketAddr,
}

/// The OU of a role.
pub(crate) fn unit(role: Role) -> &'static str {
    match role {
        Role::Worker => "swarm-worker",
        Role::Manager => "swarm-manager",
    }
}

impl PeerIdentity {
    /// Reads the names from a certificate; verifying it is TLS's part.
    pub fn from_der(der: &CertificateDer<'_>) -> Result<Self, Error> {
        let bad = |reason: &str| Error::certificate("node certificate", reason);
        let (_, cert) = x509_parser::parse_x509_certificate(der)
            .map_err(|e| Error::certificate("node certificate", e))?;
        let subject = cert.subject();
        let only = |mut values: Vec<Option<String>>, name: &str| match (values.pop().flatten(), values.len())
        {
            (Some(v), 0) => Ok(v),
            _ => Err(bad(&format!("its subject needs exactly one {name}"))),
        };
        let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().ok().map(str::to_owned);
        let node = only(subject.iter_common_name().map(text).collect(), "CN")?;
        let unit_name = only(subject.iter_organizational_unit().map(text).collect(), "OU")?;
        let cluster = only(subject.iter_organization().map(text).collect(), "O")?;
        let role = [Role::Worker, Role::Manager]
            .into_iter()
            .find(|r| unit(*r) == unit_name)
            .ok_or_else(|| bad(&format!("its OU \"{unit_name}\" is no role")))?;
        Ok(Self { node_id: node.into(), role, cluster_id: cluster.into() })
    }
}

/// The connection a request came over.
pub fn peer(extensions: &Extensions) -> Option<&PeerInfo> {
    extensions.get::<PeerInfo>()
}

/// The node a request comes from, whatever its role.
pub fn require_any(extensions: &Extensions) -> Result<PeerIdentity, Status> {
    peer(extensions).and_then(|p| p.identity.clone()).ok_or_else(|| {
        Status::unauthenticated(
            "this call needs a node certificate: join the swarm first (docker swarm join)",
        )
    })
}

/// The node a request comes from, refused unless it has `role`.
pub fn require(extensions: &Extensions, role: Role) -> Result<PeerIdentity, Status> {
    let identity = require_any(extensions)?;
    if identity.role != role {
        return Err(Status::permission_denied(format!(
            "this call is for the role {}, the certificate of node {} says {}",
            unit(role),
            identity.node_id,
            unit(identity.role)
        )));
    }
    Ok(identity)
}
