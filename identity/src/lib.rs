//! Who is who in a swarm: the root certificate authority, join tokens that pin it, node certificates on
//! disk, and mutually authenticated gRPC channels over a [`Network`] that is TCP or simulated.
//!
//! Every connection verifies against the cluster's own root and nothing else (against the old and the new one
//! while it is replaced). A certificate names its
//! node (CN), role (OU) and cluster (O). A host without a certificate may connect, and then only ask the
//! CA for one; [`require`] is the check every other service makes.

#![forbid(unsafe_code)]

mod base36;
mod bootstrap;
mod ca;
mod client;
mod credentials;
mod cross;
mod der;
mod error;
pub mod external;
mod host;
mod identity;
mod network;
mod peer;
mod pem;
mod private_key;
mod seal;
mod server;
mod tls;
mod token;
mod trust;
mod tunnel;
mod unlock_key;

pub use bootstrap::{Bootstrap, bootstrap, renew};
pub use ca::{RootCa, check_root, join_token};
pub use client::{channel, channel_to_node, connected, dial};
pub use credentials::Credentials;
pub use error::{Error, explain, is_removed, late, not_sent, registration, removed};
pub use host::Host;
pub use identity::Identity;
pub use network::{Io, IoStream, Listener, Network, Tcp};
pub use peer::{PeerIdentity, PeerInfo, peer, require, require_any};
pub use pem::normalized as normalized_pem;
pub use seal::SealKey;
pub use server::{ServerIo, incoming, server};
pub use token::JoinToken;
pub use trust::{Trust, tls_info};
pub use tunnel::{TUNNEL_BUFFER, tunnel};
pub use unlock_key::UnlockKey;

/// A node's role, as certificates carry it.
pub use skep_proto::v1::NodeRole as Role;
