//! TLS towards a registry: this host's authorities, those of the registry's own directory, and its client
//! certificates.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Where distributions keep the authorities they trust.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The configuration for one registry. `lax` believes any certificate.
pub(crate) fn config(host: &str, lax: bool, directories: &[PathBuf]) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let mut roots = system_roots().clone();
    let mut identity = None;
    let mut own = Vec::new();
    for dir in directories.iter().map(|d| d.join(host)) {
        read_directory(&dir, &mut own, &mut identity)?;
    }
    for (path, cert) in &own {
        roots.add(cert.clone()).map_err(|e| format!("{} is no authority: {e}", path.display()))?;
    }
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let builder = if lax {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
    } else if own.is_empty() {
        builder.with_root_certificates(roots)
    } else {
        let own = own.into_iter().map(|(_, cert)| cert).collect();
        builder.dangerous().with_custom_certificate_verifier(crate::verifier(roots, own, provider)?)
    };
    match identity {
        None => Ok(builder.with_no_client_auth()),
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|e| format!("the client certificate for {host} cannot be used: {e}")),
    }
}

type ClientIdentity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// `*.crt` are authorities, or the registry's own certificate; `NAME.cert` goes with `NAME.key`.
fn read_directory(
    dir: &Path,
    own: &mut Vec<(PathBuf, CertificateDer<'static>)>,
    identity: &mut Option<ClientIdentity>,
) -> Result<(), String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(()) };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    paths.sort();
    for path in paths {
        match path.extension().and_then(|e| e.to_str()) {
            Some("crt") => {
                own.extend(certificates(&path)?.into_iter().map(|cert| (path.clone(), cert)));
            }
            Some("cert") => {
                let key = path.with_extension("key");
                let read = PrivateKeyDer::from_pem_file(&key).map_err(|e| {
                    format!("missing key {} for client certificate {}: {e}", key.display(), path.display())
                })?;
                *identity = Some((certificates(&path)?, read));
            }
            Some("key") if !path.with_extension("cert").exists() => {
                let cert = path.with_extension("cert");
                return Err(format!(
                    "missing client certificate {} for key {}; CA certificates must use the extension .crt",
                    cert.display(),
                    path.display()
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|e| format!("cannot read certificate {}: {e}", path.display()))
}

/// The authorities this host trusts. Read once: they change with the distribution's packages only.
pub fn system_roots() -> &'static RootCertStore {
    static ROOTS: OnceLock<RootCertStore> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        let own = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
        let found = own.into_iter().chain(BUNDLES.map(PathBuf::from)).find(|p| p.exists());
        match found.map(|p| certificates(&p)) {
            Some(Ok(all)) => {
                roots.add_parsable_certificates(all);
            }
            Some(Err(e)) => tracing::warn!(error = e, "this host's certificate authorities are not trusted"),
            None => tracing::debug!("this host has no bundle of certificate authorities"),
        }
        roots
    })
}

/// Believes every certificate, as a user asked for: by `insecure-registries`, by `--tls` without `--tlsverify`, or by
/// `syslog-tls-skip-verify`.
/// That the other side holds the certificate's key is checked all the same.
#[derive(Debug)]
pub struct Anybody(pub Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// What Go's client says of the same failure, which is what people search for.
pub(crate) fn reason(e: &std::io::Error) -> String {
    let inner = e.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) => {
            "http: server gave HTTP response to HTTPS client".into()
        }
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)) => {
            "tls: failed to verify certificate: x509: certificate signed by unknown authority".into()
        }
        Some(e @ rustls::Error::InvalidCertificate(_)) => format!("tls: failed to verify certificate: {e}"),
        Some(e) => format!("tls: {e}"),
        None => e.to_string(),
    }
}
