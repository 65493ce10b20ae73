//! Connections to registries: names resolved by ourselves (a static binary has no name service switch),
//! every address tried, TLS by the registry's own directory of certificates.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::endpoints::host_of;
use crate::proxy::Proxies;
use crate::system_words::of_io;
use crate::tls;

/// Longest wait for one address, and for the TLS handshake.
const PATIENCE: Duration = Duration::from_secs(30);

/// Makes connections; with `lax`, to anybody.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    pub(crate) lax: bool,
    pub(crate) certificates: Arc<Vec<PathBuf>>,
    pub(crate) proxies: Arc<Proxies>,
}

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// A connection, plain or TLS.
pub(crate) struct Stream {
    io: TokioIo<Box<dyn Socket>>,
    /// The other end is a proxy, which is told whole URLs.
    to_proxy: bool,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.to_proxy)
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl tower::Service<Uri> for Connector {
    type Response = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.connect(&uri).await })
    }
}

impl Connector {
    async fn connect(&self, uri: &Uri) -> io::Result<Stream> {
        let authority = uri.authority().map_or("", |a| a.as_str());
        let secure = uri.scheme_str() == Some("https");
        let host = uri.host().unwrap_or_default();
        let name = if host.starts_with('[') { host_of(host) } else { host };
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let proxy = self.proxies.of(secure, name, port);
        let tcp = match &proxy {
            Some(proxy) if secure => {
                let tcp = dial(&proxy.host, proxy.port).await?;
                proxy.connect(tcp, name, port).await?
            }
            Some(proxy) => dial(&proxy.host, proxy.port).await?,
            None => dial(name, port).await?,
        };
        tcp.set_nodelay(true)?;
        if !secure {
            return Ok(Stream { io: TokioIo::new(Box::new(tcp)), to_proxy: proxy.is_some() });
        }
        let (authority, lax, folders) = (authority.to_owned(), self.lax, self.certificates.clone());
        let config = tokio::task::spawn_blocking(move || tls::config(&authority, lax, &folders))
            .await?
            .map_err(io::Error::other)?;
        let server = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let handshake = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(server, tcp);
        let tls = tokio::time::timeout(PATIENCE, handshake)
            .await
            .map_err(|_| io::Error::other("net/http: TLS handshake timeout"))?
            .map_err(|e| io::Error::other(tls::reason(&e)))?;
        Ok(Stream { io: TokioIo::new(Box::new(tls)), to_proxy: false })
    }
}

async fn dial(name: &str, port: u16) -> io::Result<TcpStream> {
    let addrs = match name.parse() {
        Ok(addr) => vec![addr],
        Err(_) => crate::resolve(name)
            .await
            .map_err(|e| io::Error::other(format!("dial tcp: lookup {name}: no such host ({e})")))?,
    };
    let mut last = io::Error::other(format!("dial tcp: lookup {name}: no such host"));
    for addr in addrs {
        let to = std::net::SocketAddr::new(addr, port);
        last = match tokio::time::timeout(PATIENCE, TcpStream::connect(to)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(e)) => io::Error::other(format!("dial tcp {to}: connect: {}", of_io(&e))),
            Err(_) => io::Error::other(format!("dial tcp {to}: i/o timeout")),
        };
    }
    Err(last)
}
