//! TLS to a receiver of syslog messages.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use skep_registry::{Anybody, system_roots};

use crate::log_config::SyslogOptions;

/// Longest the end of a connection is waited for.
const FAREWELL: Duration = Duration::from_secs(5);
pub(super) const CLOSED: &str = "the receiver has closed the connection";

/// A stream within TLS.
pub(super) type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// Whom to trust, and who we are.
pub(super) struct Trust(Arc<ClientConfig>);

impl Trust {
    /// Reads the files that the options name.
    pub(super) fn read(o: &SyslogOptions) -> io::Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone());
        let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
        let builder = if o.skip_verify {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        } else {
            builder.with_root_certificates(roots(o.ca.as_deref())?)
        };
        let config = match &o.identity {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let key_der = PrivateKeyDer::from_pem_file(key).map_err(|e| unreadable(key, &e))?;
                builder.with_client_auth_cert(certificates(cert)?, key_der).map_err(io::Error::other)?
            }
        };
        Ok(Self(Arc::new(config)))
    }

    /// Shakes hands over a stream.
    pub(super) fn wrap(&self, mut stream: TcpStream, host: &str) -> io::Result<TlsStream> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let mut connection = ClientConnection::new(self.0.clone(), name).map_err(io::Error::other)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut stream)?;
        }
        Ok(StreamOwned::new(connection, stream))
    }
}

/// The other end has not closed it. What came meanwhile is taken in: session tickets, or word that it is closed.
pub(super) fn open(s: &mut TlsStream) -> io::Result<()> {
    s.sock.set_nonblocking(true)?;
    let came = loop {
        match s.conn.read_tls(&mut s.sock) {
            Ok(0) => break Err(io::Error::new(io::ErrorKind::BrokenPipe, CLOSED)),
            Ok(_) => match s.conn.process_new_packets() {
                Ok(state) if state.peer_has_closed() => {
                    break Err(io::Error::new(io::ErrorKind::BrokenPipe, CLOSED));
                }
                Ok(_) => {}
                Err(e) => break Err(io::Error::other(e)),
            },
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break Ok(()),
            Err(e) => break Err(e),
        }
    };
    s.sock.set_nonblocking(false)?;
    came
}

/// Says that nothing more comes and waits, for a while, until the other end has read that. A socket that is closed
/// with something unread in it is reset, and a reset takes away what the other end has not read (RFC 2525, section 2.17);
/// TLS 1.3 always leaves something: the tickets of the session.
pub(super) fn end(mut s: TlsStream) {
    let said = s.sock.set_write_timeout(Some(FAREWELL)).and_then(|()| {
        s.conn.send_close_notify();
        s.flush()
    });
    let said = said.and_then(|()| s.sock.shutdown(Shutdown::Write));
    let until = Instant::now() + FAREWELL;
    let mut buffer = [0; 4096];
    while said.is_ok() {
        let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
            return;
        };
        match s.sock.set_read_timeout(Some(left)).and_then(|()| s.sock.read(&mut buffer)) {
            Ok(n) if n > 0 => {}
            _ => return,
        }
    }
}

fn unreadable(path: &Path, e: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {e}", path.display()))
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_file_iter(path).map_err(|e| unreadable(path, &e))?;
    all.map(|c| c.map_err(|e| unreadable(path, &e))).collect()
}

fn roots(ca: Option<&Path>) -> io::Result<RootCertStore> {
    let Some(path) = ca else {
        let roots = system_roots();
        let none = || io::Error::other("no certificate authority is known: name one with syslog-tls-ca-cert");
        return if roots.is_empty() { Err(none()) } else { Ok(roots.clone()) };
    };
    let mut roots = RootCertStore::empty();
    for c in certificates(path)? {
        roots.add(c).map_err(|e| unreadable(path, &e))?;
    }
    if roots.is_empty() {
        return Err(unreadable(path, &"it holds no certificate"));
    }
    Ok(roots)
}
