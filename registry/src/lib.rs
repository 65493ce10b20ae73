//! A client of container registries: the OCI distribution specification and Docker's token flow, over
//! plain HTTP/1.1 and TLS. Knows nothing of images in a store; whoever embeds it says what goes where.

mod auth;
mod blob;
mod challenge;
mod connect;
mod credentials;
mod endpoints;
mod error;
mod fetch;
#[cfg(test)]
mod fuzz_tests;
mod http;
mod itself;
mod login;
mod manifest;
mod name;
mod proxy;
mod resolve;
mod search;
mod session;
pub mod system_words;
mod tls;
mod upload;

pub use blob::Download;
pub use credentials::Credentials;
pub use endpoints::{DOCKER_HUB, Options, Registries};
pub use error::Error;
pub use fetch::Fetching;
pub use http::Body;
pub use itself::verifier;
pub use manifest::{
    ACCEPTED, Descriptor, Document, Fetched, INDEX_TYPES, MANIFEST_TYPES, Platform, digest_of, is_digest,
    media,
};
pub use name::{is_name_component, is_tag};
pub use proxy::Proxies;
pub use resolve::resolve;
pub use search::Found;
pub use session::{Access, Repository, Session};
pub use tls::{Anybody, system_roots};
pub use upload::{Mounted, Upload};
