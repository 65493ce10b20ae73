//! DNS inside containers: a server at 127.0.0.11 in each one's network namespace that knows the names
//! of its networks and passes the rest on to the host's servers.

mod answer;
mod error;
mod forward;
mod serve;
mod sockets;
mod zone;

pub use error::Error;
pub use forward::nameservers;
pub use serve::Resolver;
pub use sockets::ADDRESS;
pub use zone::Zone;
