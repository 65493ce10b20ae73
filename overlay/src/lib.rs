//! The network data plane of one host: bridges, the routed WireGuard overlay, virtual IPs, published
//! ports and DNS, all computed from a versioned desired state and reconciled with the kernel.
//!
//! Knows nothing of managers nor of images; whoever embeds it converts to [`desired`].

mod bridge;
mod cidr;
mod conntrack;
pub mod desired;
mod direct;
pub mod dns;
mod endpoint;
mod error;
mod isolation;
mod link;
mod mesh;
mod model;
mod names;
mod netlink;
pub mod netns;
mod nft;
mod plane;
mod reconcile;
mod routed;
mod state;
mod sysctl;
mod vip;
pub mod wireguard;

pub use bridge::{DefaultBridge, Pool, Pools, check_options, unknown_options};
pub use error::{Error, Result};
pub use model::{
    Applied, AttachRequest, Attached, Bound, BridgeInfo, BridgeSpec, ConfigNetwork, DataPlaneOptions,
    Endpoint, Endpoint6, Join, Linked, LocalDriver, Member, Publish, Range6, Relayed, UserNamespace,
};
pub use plane::{DataPlane, Figures, Report};
pub use state::DEFAULT_BRIDGE;
pub use wireguard::wireguard_main;
