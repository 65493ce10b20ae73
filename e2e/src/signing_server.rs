//! A certificate authority of somebody else: answers CFSSL's `sign` over TLS, with a root of its own.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::socket::{Shutdown, shutdown};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};

/// The server; it ends when dropped.
pub struct SigningServer {
    /// PEM of its root.
    pub cert: String,
    /// PEM of the root's key.
    pub key: String,
    shared: Arc<Shared>,
    /// The listener once more, to end it by.
    listener: TcpListener,
}

struct Shared {
    issuer: Issuer<'static, KeyPair>,
    signed: AtomicUsize,
    over: AtomicBool,
}

impl SigningServer {
    /// Serves on `listener`, which clients reach at the IP address `addr`.
    pub fn start(listener: TcpListener, addr: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, "Somebody else");
        params.distinguished_name.push(DnType::CommonName, "Root of somebody else");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = params.self_signed(&key)?;
        let (cert, key_pem) = (root.pem(), key.serialize_pem());
        let issuer = Issuer::new(params, key);
        let own = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::IpAddress(addr.parse()?)];
        params.distinguished_name.push(DnType::CommonName, "signing server");
        let chain = vec![params.signed_by(&own, &issuer)?.der().clone()];
        let own = PrivateKeyDer::try_from(own.serialize_der()).map_err(anyhow::Error::msg)?;
        let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, own)?;
        let shared = Arc::new(Shared { issuer, signed: AtomicUsize::new(0), over: AtomicBool::new(false) });
        let (config, serving) = (Arc::new(config), shared.clone());
        let accepting = listener.try_clone()?;
        std::thread::spawn(move || {
            for stream in accepting.incoming() {
                if serving.over.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                let (config, serving) = (config.clone(), serving.clone());
                std::thread::spawn(move || {
                    if let Err(error) = serving.answer(config, stream) {
                        eprintln!("signing server: {error:#}");
                    }
                });
            }
        });
        Ok(Self { cert, key: key_pem, shared, listener })
    }

    /// How many certificates it has signed.
    pub fn signed(&self) -> usize {
        self.shared.signed.load(Ordering::Relaxed)
    }
}

impl Drop for SigningServer {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        // It listens no more, and the thread that waits in accept finds out.
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
    }
}

impl Shared {
    fn answer(&self, config: Arc<rustls::ServerConfig>, stream: TcpStream) -> Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let tls = rustls::StreamOwned::new(rustls::ServerConnection::new(config)?, stream);
        let mut tls = BufReader::new(tls);
        let (mut line, mut length) = (String::new(), 0);
        // Nothing at all: somebody looks whether it is there.
        if tls.read_line(&mut line).unwrap_or(0) == 0 {
            return Ok(());
        }
        let first = std::mem::take(&mut line);
        while tls.read_line(&mut line)? > 2 {
            if let Some((_, n)) =
                line.split_once(':').filter(|(h, _)| h.eq_ignore_ascii_case("content-length"))
            {
                length = n.trim().parse()?;
            }
            line.clear();
        }
        let mut body = vec![0; length];
        tls.read_exact(&mut body)?;
        let (status, answer) = match self.sign(&first, &body) {
            Ok(certificate) => {
                ("200 OK", json!({ "success": true, "result": { "certificate": certificate }, "errors": [] }))
            }
            Err(e) => {
                let errors = json!([{ "code": 5300, "message": format!("{e:#}") }]);
                ("400 Bad Request", json!({ "success": false, "result": null, "errors": errors }))
            }
        };
        let answer = answer.to_string();
        let head = "Content-Type: application/json\r\nConnection: close";
        let tls = tls.get_mut();
        write!(tls, "HTTP/1.1 {status}\r\n{head}\r\nContent-Length: {}\r\n\r\n{answer}", answer.len())?;
        tls.flush()?;
        tls.conn.send_close_notify();
        tls.flush()?;
        Ok(())
    }

    fn sign(&self, first: &str, body: &[u8]) -> Result<String> {
        if !first.starts_with("POST /api/v1/cfssl/sign ") {
            bail!("{first:?} is not known here");
        }
        let asked: Value = serde_json::from_slice(body)?;
        let csr = asked["certificate_request"].as_str().context("no certificate_request")?;
        let csr = CertificateSigningRequestParams::from_pem(csr)?;
        let mut params = CertificateParams::new(
            asked["hosts"]
                .as_array()
                .context("no hosts")?
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect::<Vec<_>>(),
        )?;
        let (subject, names) = (&asked["subject"], &asked["subject"]["names"][0]);
        for (kind, value) in [
            (DnType::CommonName, &subject["CN"]),
            (DnType::OrganizationalUnitName, &names["OU"]),
            (DnType::OrganizationName, &names["O"]),
        ] {
            params.distinguished_name.push(kind, value.as_str().context("a name is missing")?);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let signed = params.signed_by(&csr.public_key, &self.issuer)?;
        self.signed.fetch_add(1, Ordering::Relaxed);
        Ok(signed.pem())
    }
}
