//! Getting a first certificate with a join token, and later ones with the certificate at hand.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use skep_proto::v1::ca_client::CaClient;
use skep_proto::v1::{
    GetRootRequest, IssueCertificateRequest, IssueCertificateResponse, NodeAvailability,
    RenewCertificateRequest,
};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::client::{channel_with, connect};
use crate::{Credentials, Error, Host, Identity, JoinToken, Network, Role, Trust, ca, explain, pem, tls};

const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// What a host tells of itself when it joins.
pub struct Bootstrap<'a> {
    /// The host that joins.
    pub host: &'a Host,
    /// A manager, host:port.
    pub addr: &'a str,
    /// Token of the role the host is to have.
    pub token: &'a JoinToken,
    /// Whether it takes tasks at once.
    pub availability: NodeAvailability,
    /// Its name.
    pub hostname: &'a str,
}

/// Joins: fetches the root and checks it against the token's digest, then sends a certificate request
/// with the token to that proven manager, and stores what comes back under `dir`.
pub async fn bootstrap(
    network: &Arc<dyn Network>,
    dir: &Path,
    join: Bootstrap<'_>,
) -> Result<Identity, Error> {
    let (addr, host) = (join.addr, join.host);
    // Dialled by hand first: a channel would hide what is wrong with the address.
    connect(network, addr, tls::unverified_config(host)?).await?;
    let on = host.clone();
    let unverified = channel_with(network, addr, move || tls::unverified_config(&on));
    let root_pem = with_timeout(addr, CaClient::new(unverified).get_root(GetRootRequest {}))
        .await
        .map_err(|status| refused("fetch the root certificate", addr, &status))?
        .root_ca_pem;
    let root = pem::certificate(&root_pem, "root certificate")?;
    let digest = ca::digest(&root);
    if !join.token.pins(&digest) {
        let found = crate::base36::encode(&digest, 50);
        let pinned = join.token.digest().to_owned();
        return Err(Error::DigestMismatch { addr: addr.to_owned(), found, pinned });
    }
    connect(network, addr, tls::anonymous_config(host, &root)?).await?;
    let on = host.clone();
    let verified = channel_with(network, addr, move || tls::anonymous_config(&on, &root));
    let (key_pem, csr_pem) = ca::request()?;
    let request = IssueCertificateRequest {
        csr_pem,
        token: join.token.to_string(),
        availability: join.availability.into(),
        hostname: join.hostname.to_owned(),
    };
    let issued = with_timeout(addr, CaClient::new(verified).issue_certificate(request))
        .await
        .map_err(|status| refused("ask for a certificate", addr, &status))?;
    let credentials = Credentials::from_pem(&key_pem, &issued.certificate_pem, trust_of(&issued))?;
    let dir = dir.to_owned();
    let identity = host.blocking(move || Identity::create(&dir, credentials)).await?;
    Ok(identity.on(host.clone()))
}

/// Gets another certificate over `channel` (to a manager), with a new key; returns its role.
pub async fn renew(identity: &Identity, channel: Channel) -> Result<Role, Error> {
    let (key_pem, csr_pem) = ca::request()?;
    let issued = with_timeout(
        "a manager",
        CaClient::new(channel).renew_certificate(RenewCertificateRequest { csr_pem }),
    )
    .await
    .map_err(|status| refused("renew the certificate", "a manager", &status))?;
    let credentials = Credentials::from_pem(&key_pem, &issued.certificate_pem, trust_of(&issued))?;
    let role = credentials.identity().role;
    let (host, identity) = (identity.host().clone(), identity.clone());
    host.blocking(move || identity.replace(credentials)).await?;
    Ok(role)
}

/// Whom a proven manager says to trust.
fn trust_of(issued: &IssueCertificateResponse) -> Trust {
    Trust { roots_pem: issued.root_ca_pem.clone(), epoch: issued.trust_epoch }
}

async fn with_timeout<T>(
    addr: &str,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(result) => result.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded(format!("no answer from {addr} in time"))),
    }
}

fn refused(operation: &'static str, addr: &str, status: &Status) -> Error {
    match status.code() {
        Code::PermissionDenied | Code::InvalidArgument if operation == "ask for a certificate" => {
            Error::TokenRefused(status.message().to_owned())
        }
        Code::Unimplemented => Error::NotAManager {
            addr: addr.to_owned(),
            reason: "it speaks gRPC, but has no certificate authority".to_owned(),
        },
        _ => Error::Call { operation, addr: addr.to_owned(), message: explain(addr, status) },
    }
}
