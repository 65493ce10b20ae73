//! TLS to a far daemon, as Docker's client has it: `--tls`, `--tlsverify` and the files they use.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

/// Flags before the command.
#[derive(Args, Clone, Debug, Default)]
pub struct TlsFlags {
    /// Use TLS; implied by --tlsverify
    #[arg(long)]
    tls: bool,
    /// Trust certs signed only by this CA [default: ~/.docker/ca.pem]
    #[arg(long, value_name = "string")]
    tlscacert: Option<PathBuf>,
    /// Path to TLS certificate file [default: ~/.docker/cert.pem]
    #[arg(long, value_name = "string")]
    tlscert: Option<PathBuf>,
    /// Path to TLS key file [default: ~/.docker/key.pem]
    #[arg(long, value_name = "string")]
    tlskey: Option<PathBuf>,
    /// Use TLS and verify the remote
    #[arg(long)]
    tlsverify: bool,
}

impl TlsFlags {
    /// What connections over TCP are to be made with; none = plain ones. `config` is the directory of `--config`.
    pub fn connector(&self, config: Option<&str>) -> Result<Option<TlsConnector>> {
        let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
        let verify = self.tlsverify || set("DOCKER_TLS_VERIFY").is_some();
        if !verify && !self.tls && set("DOCKER_TLS").is_none() {
            return Ok(None);
        }
        let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker"));
        let dir = set("DOCKER_CERT_PATH").or_else(|| config.map(Into::into)).or_else(|| set("DOCKER_CONFIG"));
        let dir = dir.map(PathBuf::from).or_else(home);
        let file = |given: &Option<PathBuf>, name: &str| match (given, &dir) {
            (Some(path), _) => (path.clone(), true),
            (None, Some(dir)) => (dir.join(name), false),
            (None, None) => (name.into(), false),
        };
        let provider = Arc::new(ring::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let builder = match verify {
            true => {
                let (path, _) = file(&self.tlscacert, "ca.pem");
                let mut roots = RootCertStore::empty();
                for certificate in certificates(&path)? {
                    roots.add(certificate).with_context(|| format!("use the CA {}", path.display()))?;
                }
                builder.with_root_certificates(roots)
            }
            false => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(skep_registry::Anybody(provider))),
        };
        let ((cert, asked), (key, _)) = (file(&self.tlscert, "cert.pem"), file(&self.tlskey, "key.pem"));
        // Files that nobody named need not be there.
        let config = match asked || cert.exists() {
            false => builder.with_no_client_auth(),
            true => {
                let secret = PrivateKeyDer::from_pem_file(&key)
                    .map_err(|e| anyhow::anyhow!("open {}: {e}", key.display()))?;
                builder.with_client_auth_cert(certificates(&cert)?, secret)?
            }
        };
        Ok(Some(TlsConnector::from(Arc::new(config))))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    read.map_err(|e| anyhow::anyhow!("open {}: {e}", path.display()))
}
