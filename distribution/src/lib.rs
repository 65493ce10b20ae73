//! A container registry: the OCI distribution specification 1.1 and Docker's Registry HTTP API V2, over a directory of
//! content by digest. Knows nothing of engines but where their content lies, by digest too (`daemon`); what it takes in by
//! itself (a mirror) comes by the registry client.

mod auth;
mod daemon;
mod error;
#[cfg(test)]
mod fuzz_tests;
mod gc;
mod http;
mod manifest;
mod mirror;
mod name;
mod route;
mod server;
mod share;
mod store;
mod tls;
#[cfg(test)]
mod wire_fuzz_tests;

pub use auth::{AuthOptions, TokenOptions};
pub use error::Error;
pub use gc::{Garbage, GcOptions, collect};
pub use mirror::MirrorOptions;
pub use server::{Options, Server};
pub use share::Shared;
pub use tls::TlsFiles;
