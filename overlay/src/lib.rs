//! The network data plane of one host: bridges, the routed WireGuard overlay, virtual IPs, published
//! ports and DNS, all computed from a versioned desired state and reconciled with the kernel.
//!
//! Knows nothing of managers nor of images; whoever embeds it converts to [`desired`].

pub mod desired;
