//! `GET /distribution/NAME/json`: what a registry holds under a name. Asked by `service create` to pin an image.

use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::routing::get;
use serde::Deserialize;
use serde_json::json;
use skep_engine::Reference;
use skep_registry::{Access, Document, Platform};

use super::{body, transfer};
use crate::error::{ApiError, ApiResult};
use crate::state::ApiState;

/// A client that waits for this has a service to create; without an answer it goes on with a warning.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn routes() -> Router<ApiState> {
    Router::new().route("/distribution/{*name}", get(distribution))
}

async fn distribution(State(s): State<ApiState>, Path(name): Path<String>, headers: HeaderMap) -> ApiResult {
    let Some(name) = name.strip_suffix("/json") else { return Err(ApiError::page_not_found()) };
    let reference = Reference::parse(name)?.or_latest();
    let asked = ask(&s, &reference, &headers);
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| {
        Err(ApiError::unavailable(format!("the registry of {reference} did not answer within {PATIENCE:?}")))
    })
}

async fn ask(s: &ApiState, reference: &Reference, headers: &HeaderMap) -> ApiResult {
    let registries = s.engine().images().registries();
    let credentials = transfer::credentials(headers);
    let session = registries.open(reference.repository(), credentials, Access::Pull).await;
    let wanted = reference.digest.as_deref().or(reference.tag.as_deref()).unwrap_or("latest");
    let found = session.manifest(wanted).await?;
    let platforms: Vec<Platform> = match &found.document {
        Document::Index { manifests } => manifests.iter().filter_map(|m| m.platform.clone()).collect(),
        Document::Manifest { config, .. } => {
            #[derive(Default, Deserialize)]
            #[serde(default)]
            struct Config {
                architecture: String,
                os: String,
                variant: String,
            }
            // A configuration of more than this is none of an image.
            let size = config.size.min(8 << 20);
            let bytes = session.blob(&config.digest, size).await?;
            let read: Config = serde_json::from_slice(&bytes).unwrap_or_default();
            let known = !read.os.is_empty() || !read.architecture.is_empty();
            let platform = Platform {
                architecture: read.architecture,
                os: read.os,
                variant: read.variant,
                ..Platform::default()
            };
            known.then_some(platform).into_iter().collect()
        }
    };
    Ok(body::ok(&json!({
        "Descriptor": {
            "mediaType": found.media_type,
            "digest": found.digest,
            "size": found.bytes.len(),
        },
        "Platforms": platforms,
    })))
}
