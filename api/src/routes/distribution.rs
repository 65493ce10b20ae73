//! `GET /distribution/NAME/json`: what a registry holds under a name. Asked by `service create` to pin an image: where
//! no registry knows it, a manager says what the nodes of its swarm have under that name.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::get;
use serde::Deserialize;
use serde_json::json;
use skep_engine::Reference;
use skep_proto::v1::FindImageRequest;
use skep_registry::{Access, Document, Platform, media};
use tokio::time::timeout;

use super::{body, transfer};
use crate::error::{ApiError, ApiResult};
use crate::path::Path;
use crate::state::ApiState;
use crate::swarm::ControlHandle;

/// A client that waits for this has a service to create; without an answer it goes on with a warning.
const PATIENCE: Duration = Duration::from_secs(20);
/// The same where the swarm has an image of that name, too.
const SHORT: Duration = Duration::from_secs(6);

pub(super) fn routes() -> Router<ApiState> {
    Router::new().route("/distribution/{*name}", get(distribution))
}

async fn distribution(State(s): State<ApiState>, Path(name): Path<String>, headers: HeaderMap) -> ApiResult {
    let Some(name) = name.strip_suffix("/json") else { return Err(ApiError::page_not_found()) };
    let reference = Reference::parse(name)?.or_latest();
    let late = || ApiError::unavailable(format!("the registry of {reference} did not answer in time"));
    let registry =
        async { timeout(PATIENCE, ask(&s, &reference, &headers)).await.unwrap_or_else(|_| Err(late())) };
    let Some(control) = s.swarm().control() else { return registry.await };
    let mut registry = std::pin::pin!(registry);
    let mut swarm = std::pin::pin!(in_swarm(&s, &reference, &control));
    // The registry's word is what counts, as long as it comes.
    tokio::select! {
        answer = &mut registry => match answer {
            Ok(answer) => Ok(answer),
            Err(error) => swarm.await.ok_or(error),
        },
        found = &mut swarm => match found {
            None => registry.await,
            Some(found) => Ok(timeout(SHORT, registry).await.ok().and_then(Result::ok).unwrap_or(found)),
        },
    }
}

/// What this node, or else another one of the swarm, has under a name.
async fn in_swarm(s: &ApiState, reference: &Reference, control: &ControlHandle) -> Option<Response> {
    let name = reference.to_string();
    let (images, own) = (s.engine().images().clone(), name.clone());
    if let Ok(Some((digest, image))) = tokio::task::spawn_blocking(move || images.pin_of(&own)).await {
        return Some(answer(media::DOCKER_MANIFEST, &digest, image.size, &[image.platform]));
    }
    let request = tonic::Request::new(FindImageRequest { image: name });
    let holders = control.find_image(request).await.ok()?.into_inner().holders;
    let found = holders.into_iter().filter_map(|h| h.image).filter(|i| i.complete);
    // Of several under one name, the newest; the ID only has the choice be the same each time.
    let newest = found.max_by_key(|i| (i.created_ns, i.image_id.clone()))?;
    let of = newest.platform.unwrap_or_default();
    let platform = Platform { os: of.os, architecture: of.architecture, ..Platform::default() };
    let digest = reference.digest.clone().unwrap_or(newest.image_id);
    Some(answer(media::DOCKER_MANIFEST, &digest, newest.size, &[platform]))
}

fn answer(media_type: &str, digest: &str, size: u64, platforms: &[Platform]) -> Response {
    body::ok(&json!({
        "Descriptor": { "mediaType": media_type, "digest": digest, "size": size },
        "Platforms": platforms,
    }))
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
    Ok(answer(&found.media_type, &found.digest, found.bytes.len() as u64, &platforms))
}
