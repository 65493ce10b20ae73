//! What can go wrong with a container's name server.

use std::io;
use std::path::PathBuf;

/// A failure to serve names to a container.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The container's network namespace could not be entered.
    #[error("DNS of container {container}: entering network namespace {}: {source}", netns.display())]
    Enter {
        /// Which container.
        container: String,
        /// Its namespace.
        netns: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The address could not be listened on.
    #[error("DNS of container {container}: listening on {address} ({protocol}): {source}")]
    Listen {
        /// Which container.
        container: String,
        /// Address and port.
        address: std::net::SocketAddr,
        /// `udp` or `tcp`.
        protocol: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Port 53 could not be led to the server.
    #[error("DNS of container {container}: leading port 53 to the server: {source}")]
    Redirect {
        /// Which container.
        container: String,
        /// Why.
        #[source]
        source: crate::nft::Error,
    },
}
