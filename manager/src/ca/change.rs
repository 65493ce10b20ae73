//! What `swarm ca --rotate` and `swarm update` make of the cluster's roots.

use skep_identity::{Host, RootCa, check_root, normalized_pem};
use skep_proto::v1;
use tonic::Status;

use super::external;
use super::roots::internal;
use crate::context::Context;

/// The root a person asks for; both empty for one of the swarm's own making.
pub(crate) struct Asked<'a> {
    /// PEM of the certificate.
    pub cert: &'a str,
    /// PEM of its key.
    pub key: &'a str,
}

fn refused(message: impl ToString) -> Status {
    Status::invalid_argument(message.to_string())
}

/// Fails unless the keys that managers do not have, now or after this change, are on servers that can be reached.
/// The spec of `cluster` is the new one already.
pub(crate) async fn check(ctx: &Context, cluster: &v1::Cluster, asked: &Asked<'_>) -> Result<(), Status> {
    let cert = match asked.cert {
        "" => String::new(),
        cert => normalized_pem(cert).map_err(refused)?,
    };
    // A key that is brought for the present root makes all servers superfluous.
    let needs_current =
        cluster.root_key_pem.is_empty() && (cert != cluster.root_ca_pem || asked.key.is_empty());
    let current = async {
        match needs_current {
            true => external::reachable(ctx, cluster, &cluster.root_ca_pem, "current").await,
            false => Ok(()),
        }
    };
    let next = cluster.root_rotation.as_ref().filter(|next| next.key_pem.is_empty());
    let desired = async {
        match next {
            _ if !cert.is_empty() && asked.key.is_empty() => {
                external::reachable(ctx, cluster, &cert, "desired").await
            }
            Some(next) if cert.is_empty() => external::reachable(ctx, cluster, &next.ca_pem, "next").await,
            _ => Ok(()),
        }
    };
    // Side by side: one after the other they may take longer than a write may.
    let (current, desired) = tokio::join!(current, desired);
    current.and(desired)
}

/// Brings the roots of `cluster`, whose spec is the new one already, to what is asked for. A rotation that is under
/// way is aborted by asking for the present root, and begun anew by asking for any but the one it leads to.
pub(crate) fn apply(host: &Host, cluster: &mut v1::Cluster, asked: &Asked<'_>) -> Result<(), Status> {
    let force = cluster.spec.as_ref().map_or(0, |s| s.force_rotate);
    if asked.cert.is_empty() {
        if !asked.key.is_empty() {
            return Err(refused(
                "if a signing CA key is provided, the signing CA cert must also be provided",
            ));
        }
        if force != cluster.last_forced_rotation {
            let root = RootCa::generate(host, cluster.id.as_str().into()).map_err(internal)?;
            begin(host, cluster, root.cert_pem(), root.key_pem())?;
            cluster.last_forced_rotation = force;
        }
        return Ok(());
    }
    let cert = normalized_pem(asked.cert).map_err(refused)?;
    check_root(host, &cert).map_err(refused)?;
    if !asked.key.is_empty() {
        let root = RootCa::from_pem(host, &cluster.id.as_str().into(), &cert, asked.key).map_err(refused)?;
        root.try_out(&[&cert]).map_err(refused)?;
    }
    if cert == cluster.root_ca_pem {
        asked.key.clone_into(&mut cluster.root_key_pem);
        if cluster.root_rotation.take().is_some() {
            cluster.trust_epoch += 1;
        }
    } else if let Some(next) = cluster.root_rotation.as_mut().filter(|next| next.ca_pem == cert) {
        asked.key.clone_into(&mut next.key_pem);
    } else {
        begin(host, cluster, &cert, asked.key)?;
    }
    cluster.last_forced_rotation = force;
    Ok(())
}

fn begin(host: &Host, cluster: &mut v1::Cluster, cert: &str, key: &str) -> Result<(), Status> {
    if cluster.root_key_pem.is_empty() {
        return Err(refused(match key {
            "" => "rotating from one external CA to a different external CA is not supported",
            _ => {
                "the present root's key is needed to sign the new root, and an external CA has it: give it first \
                 (docker swarm ca --rotate with the --ca-cert of the present root and its --ca-key)"
            }
        }));
    }
    let id = cluster.id.as_str().into();
    // Signed by the root there was, also where another rotation is under way: that one all nodes know.
    let old = RootCa::from_pem(host, &id, &cluster.root_ca_pem, &cluster.root_key_pem).map_err(internal)?;
    let cross_signed_pem = old.cross_sign(cert).map_err(internal)?;
    if !key.is_empty() {
        let new = RootCa::from_pem(host, &id, cert, key).map_err(refused)?.cross_signed(&cross_signed_pem);
        new.try_out(&[&cluster.root_ca_pem, cert]).map_err(refused)?;
    }
    let (ca_pem, key_pem) = (cert.to_owned(), key.to_owned());
    cluster.root_rotation = Some(v1::RootRotation { ca_pem, key_pem, cross_signed_pem });
    cluster.trust_epoch += 1;
    Ok(())
}

#[cfg(test)]
#[path = "change_tests.rs"]
mod tests;
