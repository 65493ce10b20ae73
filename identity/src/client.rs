//! Connecting: TLS over a [`Network`], as a tonic channel that reconnects by itself and notices within
//! seconds that its peer is gone.

use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use skep_proto::ids::NodeId;
use tokio::io::AsyncBufReadExt as _;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use crate::error::from_handshake;
use crate::{Error, Identity, Io, Network, Role, tls};

/// Longest time for TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// HTTP/2 pings: a dead peer is noticed after interval + timeout.
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// A channel to the node at `addr` (host:port), which must have `expected` role. Connects at the first
/// call and again whenever the connection is lost, each time with the identity's present certificate.
pub fn channel(identity: &Identity, network: &Arc<dyn Network>, addr: &str, expected: Role) -> Channel {
    let identity = identity.clone();
    channel_with(network, addr, move || tls::client_config(identity.host(), &identity.current(), expected))
}

/// The same to this very node, whatever its role.
pub fn channel_to_node(
    identity: &Identity,
    network: &Arc<dyn Network>,
    addr: &str,
    node_id: &NodeId,
) -> Channel {
    let (identity, expected) = (identity.clone(), tls::Expected::Node(node_id.clone()));
    channel_with(network, addr, move || {
        tls::client_config(identity.host(), &identity.current(), expected.clone())
    })
}

/// The same as [`channel`], connected: the errors say which of many things is wrong. A connection lost later is made again.
pub async fn connected(
    identity: &Identity,
    network: &Arc<dyn Network>,
    addr: &str,
    expected: Role,
) -> Result<Channel, Error> {
    let config = tls::client_config(identity.host(), &identity.current(), expected)?;
    let first = connect(network, addr, config).await?;
    let identity = identity.clone();
    let config = move || tls::client_config(identity.host(), &identity.current(), expected);
    Ok(channel_from(Some(first), network, addr, config))
}

/// Connects once, to learn what is at `addr`: the errors say which of many things is wrong.
pub async fn dial(
    identity: &Identity,
    network: &Arc<dyn Network>,
    addr: &str,
    expected: Role,
) -> Result<(), Error> {
    connect(network, addr, tls::client_config(identity.host(), &identity.current(), expected)?)
        .await
        .map(drop)
}

pub(crate) fn channel_with(
    network: &Arc<dyn Network>,
    addr: &str,
    config: impl Fn() -> Result<Arc<ClientConfig>, Error> + Send + Sync + 'static,
) -> Channel {
    channel_from(None, network, addr, config)
}

/// A channel that begins with a connection there is, if any.
fn channel_from(
    first: Option<TlsStream<Io>>,
    network: &Arc<dyn Network>,
    addr: &str,
    config: impl Fn() -> Result<Arc<ClientConfig>, Error> + Send + Sync + 'static,
) -> Channel {
    let (network, addr) = (network.clone(), Arc::<str>::from(addr));
    let config = Arc::new(config);
    let mut first = first;
    let connector = tower::service_fn(move |_: Uri| {
        let (network, addr, config) = (network.clone(), addr.clone(), config.clone());
        let first = first.take();
        async move {
            match first {
                Some(stream) => Ok(TokioIo::new(stream)),
                None => connect(&network, &addr, config()?).await.map(TokioIo::new),
            }
        }
    });
    Endpoint::from_static("http://swarm-manager")
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .connect_with_connector_lazy(connector)
}

pub(crate) async fn connect(
    network: &Arc<dyn Network>,
    addr: &str,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<Io>, Error> {
    let attempt = async {
        let io =
            network.connect(addr).await.map_err(|source| Error::Connect { addr: addr.to_owned(), source })?;
        // The verifier checks the cluster and the role; this name is only the protocol's formality.
        let name = ServerName::try_from("swarm-manager").expect("a valid DNS name");
        let mut stream =
            TlsConnector::from(config).connect(name, io).await.map_err(|e| from_handshake(addr, e))?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            let reason = "it speaks TLS, but not gRPC".to_owned();
            return Err(Error::NotAManager { addr: addr.to_owned(), reason });
        }
        // With TLS 1.3 a server judges our certificate only now. It speaks first in HTTP/2: that, or what it says
        // against the certificate, is what comes.
        stream.fill_buf().await.map_err(|e| from_handshake(addr, e))?;
        Ok(stream)
    };
    timeout(CONNECT_TIMEOUT, attempt)
        .await
        .unwrap_or_else(|_| Err(Error::Timeout { addr: addr.to_owned(), seconds: CONNECT_TIMEOUT.as_secs() }))
}
