//! The cluster's roots: whom nodes trust, whose certificates they are to have, and who signs those.

use skep_identity::{Host, RootCa, Trust};
use skep_proto::v1;
use tonic::Status;

pub(super) fn internal(error: impl ToString) -> Status {
    Status::internal(error.to_string())
}

/// Whom all nodes are to trust: while the root is replaced, the old one and the new one.
pub(crate) fn trust(cluster: &v1::Cluster) -> Trust {
    let next = cluster.root_rotation.as_ref().map_or("", |r| &r.ca_pem);
    Trust { roots_pem: format!("{}{next}", cluster.root_ca_pem), epoch: cluster.trust_epoch }
}

/// The root that certificates are signed for now.
pub(super) fn issuer(cluster: &v1::Cluster) -> &str {
    cluster.root_rotation.as_ref().map_or(&cluster.root_ca_pem, |r| &r.ca_pem)
}

/// What a node that is up to date says of itself.
pub(crate) fn wanted(cluster: &v1::Cluster) -> Result<v1::TlsInfo, Status> {
    skep_identity::tls_info(&trust(cluster).roots_pem, issuer(cluster)).map_err(internal)
}

/// Whether managers can sign themselves.
pub(super) fn has_key(cluster: &v1::Cluster) -> bool {
    !cluster.root_rotation.as_ref().map_or(&cluster.root_key_pem, |r| &r.key_pem).is_empty()
}

/// What signs certificates now.
pub(super) fn signer(host: &Host, cluster: &v1::Cluster) -> Result<RootCa, Status> {
    let id = cluster.id.as_str().into();
    if !has_key(cluster) {
        return Err(Status::failed_precondition(
            "this swarm's managers do not have the key of its root, and no external CA has it: name one with \
             `docker swarm update --external-ca`",
        ));
    }
    match &cluster.root_rotation {
        None => RootCa::from_pem(host, &id, &cluster.root_ca_pem, &cluster.root_key_pem),
        Some(next) => RootCa::from_pem(host, &id, &next.ca_pem, &next.key_pem)
            .map(|root| root.cross_signed(&next.cross_signed_pem)),
    }
    .map_err(internal)
}

/// Whether a node's certificate is the wanted one's, and it trusts whom it has to.
pub(super) fn is_current(node: &v1::Node, cluster: &v1::Cluster, wanted: &v1::TlsInfo) -> bool {
    let Some(tls) = node.description.as_ref().and_then(|d| d.tls.as_ref()) else {
        // It has not said yet. A root must not go before it has.
        return cluster.root_rotation.is_none();
    };
    tls.cert_issuer_public_key == wanted.cert_issuer_public_key
        && tls.cert_issuer_subject == wanted.cert_issuer_subject
        && tls.trust_root.contains(issuer(cluster))
}
