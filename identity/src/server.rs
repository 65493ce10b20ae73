//! Accepting: TLS streams for tonic, each carrying who is at the other end.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::Connected;

use crate::client::{KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT};
use crate::{Error, Identity, Io, Listener, PeerIdentity, PeerInfo, tls};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes in progress at once: strangers that connect and stay silent must not use up memory.
const HANDSHAKES: usize = 256;

/// A verified stream.
pub struct ServerIo {
    stream: TlsStream<Io>,
    info: PeerInfo,
}

/// A tonic server with the keepalive of [`crate::channel`].
pub fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
}

/// The streams `listener` accepts, for `serve_with_incoming`. Every request then has a [`PeerInfo`] in
/// its extensions. Accepting ends when the stream is dropped.
pub fn incoming(identity: &Identity, listener: Box<dyn Listener>) -> ReceiverStream<io::Result<ServerIo>> {
    let (tx, rx) = mpsc::channel(16);
    tokio::spawn(accept(identity.clone(), listener, tx));
    ReceiverStream::new(rx)
}

async fn accept(identity: Identity, mut listener: Box<dyn Listener>, tx: mpsc::Sender<io::Result<ServerIo>>) {
    let slots = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let accepted = tokio::select! {
            () = tx.closed() => return,
            accepted = listener.accept() => accepted,
        };
        let (io, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // The receiver may be gone; then nobody is left to tell.
                let _ = tx.send(Err(error)).await;
                return;
            }
        };
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let (identity, tx) = (identity.clone(), tx.clone());
        tokio::spawn(async move {
            let _slot = slot;
            match timeout(HANDSHAKE_TIMEOUT, handshake(&identity, io, from)).await {
                // The server may have stopped meanwhile: the connection then closes with it.
                Ok(Ok(stream)) => drop(tx.send(Ok(stream)).await),
                Ok(Err(error)) => tracing::info!(%from, %error, "refused a connection"),
                Err(_) => tracing::info!(%from, "refused a connection: no TLS handshake in time"),
            }
        });
    }
}

async fn handshake(identity: &Identity, io: Io, from: SocketAddr) -> Result<ServerIo, Error> {
    let own = identity.current();
    let config = tls::server_config(identity.host(), &own)?;
    let stream = TlsAcceptor::from(config)
        .accept(io)
        .await
        .map_err(|e| Error::Tls { addr: from.to_string(), reason: e.to_string() })?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|c| c.first());
    let identity = certificate.map(PeerIdentity::from_der).transpose()?;
    if let Some(peer) = &identity
        && peer.cluster_id != own.identity().cluster_id
    {
        let reason = format!("its certificate is of cluster {}", peer.cluster_id);
        return Err(Error::Tls { addr: from.to_string(), reason });
    }
    Ok(ServerIo { stream, info: PeerInfo { identity, addr: from } })
}

impl Connected for ServerIo {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.info.clone()
    }
}

impl AsyncRead for ServerIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for ServerIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
