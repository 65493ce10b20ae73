//! The network as the swarm sees it: streams between addresses. TCP in production; simulations give
//! their own, so that managers and agents run unchanged under partition and loss.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// A byte stream.
pub trait IoStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> IoStream for T {}

/// A byte stream of any network.
pub type Io = Box<dyn IoStream>;

/// Accepts streams.
#[async_trait]
pub trait Listener: Send + 'static {
    /// The next stream and where it comes from.
    async fn accept(&mut self) -> io::Result<(Io, SocketAddr)>;
    /// Where this listens (with the port the system chose, if it did).
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// Makes streams between `host:port` addresses.
#[async_trait]
pub trait Network: Send + Sync + 'static {
    /// A stream to `addr`.
    async fn connect(&self, addr: &str) -> io::Result<Io>;
    /// Listens on `addr`.
    async fn bind(&self, addr: &str) -> io::Result<Box<dyn Listener>>;
}

/// The host's TCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp;

/// A static glibc binary has no name service, so addresses are numeric here; names are resolved by
/// whoever took them from a person.
fn numeric(addr: &str) -> io::Result<SocketAddr> {
    addr.parse().map_err(|_| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("\"{addr}\" is not an IP address with a port"))
    })
}

#[async_trait]
impl Network for Tcp {
    async fn connect(&self, addr: &str) -> io::Result<Io> {
        let stream = TcpStream::connect(numeric(addr)?).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }

    async fn bind(&self, addr: &str) -> io::Result<Box<dyn Listener>> {
        Ok(Box::new(TcpListener::bind(numeric(addr)?).await?))
    }
}

#[async_trait]
impl Listener for TcpListener {
    async fn accept(&mut self) -> io::Result<(Io, SocketAddr)> {
        loop {
            match TcpListener::accept(self).await {
                Ok((stream, from)) => {
                    stream.set_nodelay(true)?;
                    return Ok((Box::new(stream), from));
                }
                // The peer gave up while queued, or the process is out of descriptors for the moment.
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(e) if matches!(e.raw_os_error(), Some(23 | 24)) => {
                    tracing::warn!(error = %e, "out of file descriptors: accepting again shortly");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(e) => return Err(e),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        TcpListener::local_addr(self)
    }
}
