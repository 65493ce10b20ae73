//! TLS to a far daemon, as Docker's client has it: `--tls`, `--tlsverify` and the files they use.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Args;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{AlertDescription, ClientConfig, RootCertStore};
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
    pub fn connector(&self, config: Option<&Path>) -> Result<Option<TlsConnector>> {
        let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
        let verify = self.tlsverify || set("DOCKER_TLS_VERIFY").is_some();
        if !verify && !self.tls && set("DOCKER_TLS").is_none() {
            return Ok(None);
        }
        let dir =
            set("DOCKER_CERT_PATH").map_or_else(|| super::credentials::directory(config), PathBuf::from);
        let file = |given: &Option<PathBuf>, name: &str| match given {
            Some(path) => (path.clone(), true),
            None => (dir.join(name), false),
        };
        let trust = if verify { Trust::Ca(file(&self.tlscacert, "ca.pem").0) } else { Trust::Anybody };
        let ((cert, asked), (key, _)) = (file(&self.tlscert, "cert.pem"), file(&self.tlskey, "key.pem"));
        // Files that nobody named need not be there.
        let client = (asked || cert.exists()).then_some((cert, key));
        connector(&trust, client).map(Some)
    }
}

/// What connections are made with by the files of a context: those of `ca.pem`, `cert.pem` and `key.pem` that are there.
pub fn of_files(dir: &Path, skip_verify: bool) -> Result<TlsConnector> {
    let (ca, cert, key) = (dir.join("ca.pem"), dir.join("cert.pem"), dir.join("key.pem"));
    let trust = match (skip_verify, ca.exists()) {
        (true, _) => Trust::Anybody,
        (false, true) => Trust::Ca(ca),
        (false, false) => Trust::System,
    };
    connector(&trust, (cert.exists() && key.exists()).then_some((cert, key)))
}

/// Refuses files for a context that no connection could be made with.
pub fn check(files: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    let failed = "failed to retrieve context tls info";
    let read = |bytes: &[u8]| CertificateDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>();
    let invalid = |bytes: &Vec<u8>| read(bytes).map_or(true, |all| all.is_empty());
    if files.get("ca.pem").is_some_and(invalid) {
        bail!("{failed}: ca.pem seems invalid");
    }
    let (Some(cert), Some(key)) = (files.get("cert.pem"), files.get("key.pem")) else { return Ok(()) };
    let key =
        PrivateKeyDer::from_pem_slice(key).map_err(|_| anyhow::anyhow!("no valid private key found"))?;
    let chain = read(cert).context(failed)?;
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(RootCertStore::empty())
        .with_client_auth_cert(chain, key)
        .context(failed)?;
    Ok(())
}

/// What the daemon found wrong with this client's certificate, where that is why nothing came of a request: with TLS
/// 1.3 it says so after the handshake.
pub fn refusal(e: &(dyn std::error::Error + 'static)) -> Option<String> {
    let alert = std::iter::successors(Some(e), |e| e.source()).find_map(|e| {
        match e.downcast_ref::<std::io::Error>()?.get_ref()?.downcast_ref::<rustls::Error>()? {
            rustls::Error::AlertReceived(alert) => Some(*alert),
            _ => None,
        }
    });
    let why = match alert? {
        AlertDescription::CertificateRequired => "certificate required",
        AlertDescription::UnknownCA => "unknown certificate authority",
        AlertDescription::BadCertificate => "bad certificate",
        AlertDescription::UnsupportedCertificate => "unsupported certificate",
        AlertDescription::CertificateExpired => "expired certificate",
        AlertDescription::CertificateRevoked => "revoked certificate",
        AlertDescription::CertificateUnknown => "unknown certificate",
        _ => return None,
    };
    Some(format!(
        "remote error: tls: {why}: the daemon wants a client certificate that its CA signed (--tlscert, --tlskey)"
    ))
}

/// Whose certificates are believed.
enum Trust {
    /// Those of this authority.
    Ca(PathBuf),
    /// Those of the authorities that this host trusts.
    System,
    Anybody,
}

fn connector(trust: &Trust, client: Option<(PathBuf, PathBuf)>) -> Result<TlsConnector> {
    let provider = Arc::new(ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let builder = match trust {
        Trust::Ca(path) => {
            let mut roots = RootCertStore::empty();
            let trusted = certificates(path)?;
            for certificate in &trusted {
                roots.add(certificate.clone()).with_context(|| format!("use the CA {}", path.display()))?;
            }
            let verifier = skep_registry::verifier(roots, trusted, provider)
                .map_err(|e| anyhow::anyhow!("use the CA {}: {e}", path.display()))?;
            builder.dangerous().with_custom_certificate_verifier(verifier)
        }
        Trust::System => builder.with_root_certificates(skep_registry::system_roots().clone()),
        Trust::Anybody => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(skep_registry::Anybody(provider)))
        }
    };
    let config = match client {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let secret = PrivateKeyDer::from_pem_file(&key)
                .map_err(|e| anyhow::anyhow!("open {}: {e}", key.display()))?;
            builder
                .with_client_auth_cert(certificates(&cert)?, secret)
                .with_context(|| format!("use {} with the key {}", cert.display(), key.display()))?
        }
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    read.map_err(|e| anyhow::anyhow!("open {}: {e}", path.display()))
}
