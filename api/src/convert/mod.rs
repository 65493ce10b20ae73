//! Docker's JSON on one side, the engine's and the swarm's own types on the other. Pure.

pub mod cache_from;
pub mod cluster;
pub mod container;
pub mod dependency;
pub mod file_mode;
pub mod generic;
pub mod image;
pub mod mounts;
pub mod names;
pub mod network;
pub mod node;
pub mod service;
pub mod task;
pub mod time;
pub mod volume;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

/// An object's `Version`.
pub fn version(meta: Option<&skep_proto::v1::Meta>) -> Value {
    serde_json::json!({ "Index": meta.map_or(0, |m| m.version) })
}

/// A version by itself; Docker leaves 0 out.
pub fn number(index: u64) -> Value {
    if index == 0 { serde_json::json!({}) } else { serde_json::json!({ "Index": index }) }
}

/// An object's `CreatedAt`.
pub fn created(meta: Option<&skep_proto::v1::Meta>) -> String {
    time::from_ms(meta.map_or(0, |m| m.created_at_ms))
}

/// An object's `UpdatedAt`.
pub fn updated(meta: Option<&skep_proto::v1::Meta>) -> String {
    time::from_ms(meta.map_or(0, |m| m.updated_at_ms))
}

/// Whom a node trusts and who signed its certificate, or what the cluster wants of both. Clients compare the two.
pub fn tls_info(tls: Option<&skep_proto::v1::TlsInfo>) -> Value {
    tls.map_or_else(
        || json!({}),
        |tls| {
            json!({
                "TrustRoot": tls.trust_root,
                "CertIssuerSubject": BASE64.encode(&tls.cert_issuer_subject),
                "CertIssuerPublicKey": BASE64.encode(&tls.cert_issuer_public_key),
            })
        },
    )
}
