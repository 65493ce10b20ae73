//! The server's certificate, read again when its files change.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::error::Error;

/// PEM files.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// Certificate chain.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// When certificate and key changed last, as far as that is known.
type Changed = [Option<SystemTime>; 2];

/// A certificate in use.
pub(crate) struct Tls {
    files: TlsFiles,
    current: Mutex<(Changed, TlsAcceptor)>,
}

impl Tls {
    pub(crate) fn new(files: TlsFiles) -> Result<Self, Error> {
        let current = Mutex::new((files.changed(), files.acceptor()?));
        Ok(Self { files, current })
    }

    /// For the next connection. Files that cannot be used are logged, and those before stay in use.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = self.files.changed();
        if changed != current.0 {
            current.0 = changed;
            match self.files.acceptor() {
                Ok(fresh) => {
                    tracing::info!(cert = %self.files.cert.display(), "the certificate was read again");
                    current.1 = fresh;
                }
                Err(e) => tracing::error!(error = %e, "the certificate stays as it was"),
            }
        }
        current.1.clone()
    }
}

impl TlsFiles {
    fn changed(&self) -> Changed {
        [&self.cert, &self.key].map(|path| std::fs::metadata(path).and_then(|m| m.modified()).ok())
    }

    fn acceptor(&self) -> Result<TlsAcceptor, Error> {
        let bad = |path: &Path, e: &dyn std::fmt::Display| {
            Error::Invalid(format!("cannot use {} for TLS: {e}", path.display()))
        };
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|e| bad(&self.key, &e))?;
        let chain =
            CertificateDer::pem_file_iter(&self.cert).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let chain = chain.map_err(|e| bad(&self.cert, &e))?;
        if chain.is_empty() {
            return Err(bad(&self.cert, &"it holds no certificate"));
        }
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|b| b.with_no_client_auth().with_single_cert(chain, key))
            .map_err(|e| bad(&self.cert, &e))?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}
