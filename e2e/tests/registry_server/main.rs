//! `skep registry`: by the protocol's letter, by the clients people have, against Debian's registry, and broken on purpose.

mod access;
mod breakage;
mod clients;
mod collection;
mod conformance;
mod daemon_blobs;
mod mirror;
mod protocol;
mod server;
mod service;
