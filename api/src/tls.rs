//! TLS of the API's TCP sockets: the daemon's certificate, and, with a CA, none but clients that have one of its.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

/// PEM files, as dockerd's flags name them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// CA of the clients (`--tlscacert`); none = any client.
    pub ca: Option<PathBuf>,
    /// Certificate chain (`--tlscert`).
    pub cert: PathBuf,
    /// Its private key (`--tlskey`).
    pub key: PathBuf,
}

/// Why TLS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be used.
    #[error("cannot use {path} for TLS: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The files do not go together.
    #[error("cannot serve TLS with the certificate {cert}: {reason}")]
    Together {
        /// The certificate.
        cert: PathBuf,
        /// Why.
        reason: String,
    },
}

fn bad(path: &Path) -> impl Fn(&dyn std::fmt::Display) -> TlsError {
    let path = path.to_path_buf();
    move |e| TlsError::File { path: path.clone(), reason: e.to_string() }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bad = bad(path);
    let all = CertificateDer::pem_file_iter(path).map_err(|e| bad(&e))?;
    let all = all.collect::<Result<Vec<_>, _>>().map_err(|e| bad(&e))?;
    if all.is_empty() { Err(bad(&"it holds no certificate")) } else { Ok(all) }
}

impl TlsFiles {
    /// Reads the files.
    pub fn acceptor(&self) -> Result<TlsAcceptor, TlsError> {
        let together =
            |e: &dyn std::fmt::Display| TlsError::Together { cert: self.cert.clone(), reason: e.to_string() };
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| together(&e))?;
        let builder = match &self.ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(|e| bad(path)(&e))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().map_err(|e| bad(path)(&e))?)
            }
        };
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|e| bad(&self.key)(&e))?;
        let chain = certificates(&self.cert)?;
        let config = builder.with_single_cert(chain, key).map_err(|e| together(&e))?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}
