//! The encrypted tunnel between hosts: one WireGuard interface, served by the kernel where it can and
//! by our own userspace process elsewhere, driven alike through `wireguard-control`.

mod device;
mod error;
mod helper;
mod key;
mod link;
mod peers;
mod userspace;

pub use device::{Device, DeviceOptions};
pub use error::Error;
pub(crate) use helper::sweep;
pub use key::{PrivateKey, load_or_create_key};
pub use peers::{PeerConfig, PeerState};
pub use userspace::wireguard_main;
