//! TLS configurations: 1.3 only, ring only, no resumption (a resumed session would keep a role that has
//! since been taken away), and trust in the swarm's own root (in two of them while it is replaced).

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider as _;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use skep_proto::ids::NodeId;

use crate::error::ROLE_MARK;
use crate::peer::unit;
use crate::{Credentials, Error, Host, PeerIdentity, Role};

const ALPN: &[u8] = b"h2";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn store(roots: &[CertificateDer<'static>]) -> Result<Arc<RootCertStore>, Error> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).map_err(|e| Error::certificate("root certificate", e))?;
    }
    Ok(Arc::new(store))
}

fn tls(e: impl ToString) -> Error {
    Error::certificate("TLS configuration", e.to_string())
}

/// For accepting: clients may come without a certificate, never with a bad one.
pub(crate) fn server_config(host: &Host, own: &Credentials) -> Result<Arc<ServerConfig>, Error> {
    let verifier = WebPkiClientVerifier::builder_with_provider(store(&own.roots)?, provider())
        .allow_unauthenticated()
        .build()
        .map_err(tls)?;
    let mut config = ServerConfig::builder_with_details(provider(), Arc::new(host.clone()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(own.chain.clone(), own.key.clone_key())
        .map_err(tls)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Who has to be at the other end.
#[derive(Clone, Debug)]
pub(crate) enum Expected {
    /// Any node in this role.
    Role(Role),
    /// This node, in whichever role.
    Node(NodeId),
}

impl From<Role> for Expected {
    fn from(role: Role) -> Self {
        Self::Role(role)
    }
}

/// For connecting as `own` to a node of the same cluster that is the one expected.
pub(crate) fn client_config(
    host: &Host,
    own: &Credentials,
    expected: impl Into<Expected>,
) -> Result<Arc<ClientConfig>, Error> {
    let verifier = verifier(&own.roots, own.identity().cluster_id.as_str(), expected)?;
    client_builder(host)?
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(own.chain.clone(), own.key.clone_key())
        .map_err(tls)
        .map(finish)
}

/// For connecting without a certificate to a manager under `root`. Its cluster is whichever the root is of.
pub(crate) fn anonymous_config(
    host: &Host,
    root: &CertificateDer<'static>,
) -> Result<Arc<ClientConfig>, Error> {
    let verifier = verifier(std::slice::from_ref(root), unit(Role::Manager), Role::Manager)?;
    Ok(finish(client_builder(host)?.with_custom_certificate_verifier(verifier).with_no_client_auth()))
}

/// For a web server under `roots` that may ask who this is.
pub(crate) fn https_config(
    host: &Host,
    own: &Credentials,
    roots: &[CertificateDer<'static>],
) -> Result<Arc<ClientConfig>, Error> {
    let config = ClientConfig::builder_with_details(provider(), Arc::new(host.clone()))
        .with_safe_default_protocol_versions()
        .map_err(tls)?
        .with_root_certificates(store(roots)?)
        .with_client_auth_cert(own.chain.clone(), own.key.clone_key())
        .map_err(tls)?;
    Ok(Arc::new(config))
}

/// For fetching a root that is checked by its digest afterwards: proves nothing about the server.
pub(crate) fn unverified_config(host: &Host) -> Result<Arc<ClientConfig>, Error> {
    let verifier = Arc::new(Unverified(provider()));
    Ok(finish(client_builder(host)?.with_custom_certificate_verifier(verifier).with_no_client_auth()))
}

struct Danger(rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>);

impl Danger {
    fn with_custom_certificate_verifier(
        self,
        verifier: Arc<dyn ServerCertVerifier>,
    ) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
        self.0.dangerous().with_custom_certificate_verifier(verifier)
    }
}

fn client_builder(host: &Host) -> Result<Danger, Error> {
    ClientConfig::builder_with_details(provider(), Arc::new(host.clone()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls)
        .map(Danger)
}

fn finish(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_sni = false;
    Arc::new(config)
}

/// Fails unless a peer that trusts `roots` would take this chain for a node of the cluster.
pub(crate) fn verify(
    host: &Host,
    chain: &[CertificateDer<'static>],
    roots: &[CertificateDer<'static>],
    cluster: &str,
    expected: Role,
) -> Result<(), Error> {
    let (own, between) = chain.split_first().ok_or_else(|| tls("there is no certificate"))?;
    let verifier = verifier(roots, cluster, expected)?;
    let name = ServerName::try_from(unit(Role::Manager)).map_err(tls)?;
    let now = host.current_time().ok_or_else(|| tls("there is no time of day"))?;
    verifier.verify_server_cert(own, between, &name, &[], now).map(drop).map_err(tls)
}

/// `name` is what all certificates of the cluster are for: its ID, or where that is not known, a role.
fn verifier(
    roots: &[CertificateDer<'static>],
    name: &str,
    expected: impl Into<Expected>,
) -> Result<Arc<dyn ServerCertVerifier>, Error> {
    let chain =
        WebPkiServerVerifier::builder_with_provider(store(roots)?, provider()).build().map_err(tls)?;
    let name = ServerName::try_from(name.to_owned()).map_err(tls)?;
    Ok(Arc::new(PeerVerifier { chain, name, expected: expected.into() }))
}

/// The chain must end in a root of ours, the certificate must be of our cluster, and of whom we expect.
#[derive(Debug)]
struct PeerVerifier {
    chain: Arc<WebPkiServerVerifier>,
    name: ServerName<'static>,
    expected: Expected,
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified =
            self.chain.verify_server_cert(end_entity, intermediates, &self.name, ocsp_response, now)?;
        let peer = PeerIdentity::from_der(end_entity).map_err(|e| rustls::Error::General(e.to_string()))?;
        match &self.expected {
            Expected::Role(role) if peer.role != *role => {
                let (found, expected) = (unit(peer.role), unit(*role));
                Err(rustls::Error::General(format!("{ROLE_MARK}{found} for {expected}")))
            }
            Expected::Node(node) if peer.node_id != *node => {
                Err(rustls::Error::General(format!("it is node {}, not {node}", peer.node_id)))
            }
            Expected::Role(_) | Expected::Node(_) => Ok(verified),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Accepts any certificate whose key the server proves to hold.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
