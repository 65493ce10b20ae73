//! `/images`. A name may have slashes, so paths with one end in a wildcard that is taken apart here.

use std::io;

use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Extension, Router};
use futures::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};
use skep_engine::dockerfile::Glob;
use skep_engine::{Image, Removed};
use skep_registry::Platform;
use tokio_util::io::ReaderStream;

use super::to_end::Client;
use super::{body, import, transfer};
use crate::convert::{image, time};
use crate::error::{ApiError, ApiResult};
use crate::filters::Filters;
use crate::path::Path;
use crate::state::ApiState;

/// The names `images --filter` knows.
const FILTERS: &[&str] = &["before", "dangling", "label", "reference", "since", "until"];

pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/images/json", get(list))
        .route("/images/load", post(load))
        .route("/images/create", post(create))
        .route("/images/prune", post(prune))
        .route("/images/get", get(get_many))
        .route("/images/{*path}", get(get_one).post(post_one).delete(remove))
}

#[derive(Deserialize)]
struct List {
    filters: Option<String>,
}

async fn list(State(s): State<ApiState>, Query(q): Query<List>) -> ApiResult {
    let filters = Filters::parse(q.filters.as_deref(), FILTERS)?;
    let dangling = filters.flag("dangling")?;
    let created = |name: &str| {
        let found = filters.values(name).next().map(|r| s.engine().images().resolve(r));
        found.transpose().map(|i| i.map(|i| i.created_at_ns))
    };
    let (before, since) = (created("before")?, created("since")?);
    let until = filters.values("until").map(time::until).collect::<ApiResult<Vec<_>>>()?;
    let until = until.into_iter().min();
    let shown = |i: &Image| {
        dangling.is_none_or(|want| i.references.is_empty() == want)
            && before.is_none_or(|t| i.created_at_ns < t)
            && since.is_none_or(|t| i.created_at_ns > t)
            && until.is_none_or(|t| i.created_at_ns < t)
            && filters.labels("label", |k| i.config.labels.get(k).map(String::as_str))
    };
    let mut images: Vec<Image> = s.engine().images().list().into_iter().filter(shown).collect();
    if filters.has("reference") {
        // Of an image with several names, those asked for are shown.
        let patterns = filters.values("reference").map(Glob::path).collect::<Result<Vec<_>, _>>();
        let patterns = patterns.map_err(ApiError::bad_request)?;
        let asked = |name: &String| patterns.iter().any(|pattern| reference_matches(name, pattern));
        for image in &mut images {
            image.references.retain(asked);
            image.digests.retain(asked);
        }
        images.retain(|i| !i.references.is_empty() || !i.digests.is_empty());
    }
    images.sort_by_key(|i| std::cmp::Reverse(i.created_at_ns));
    let list: Vec<Value> = images.iter().map(|i| image::summary(i, -1)).collect();
    Ok(body::ok(&list.into()))
}

/// A reference or its name alone against a pattern (`*`, `?` and `[a-z]`, none of which crosses a slash).
fn reference_matches(reference: &str, pattern: &Glob) -> bool {
    let name =
        reference.split_once('@').or_else(|| reference.rsplit_once(':')).map_or(reference, |(name, _)| name);
    pattern.matches(reference) || pattern.matches(name)
}

#[derive(Deserialize)]
struct Load {
    platform: Option<String>,
}

async fn load(State(s): State<ApiState>, Query(q): Query<Load>, request: Request) -> ApiResult {
    let platform = transfer::platform_of_json(q.platform.as_deref().unwrap_or_default())?;
    let loaded = s.engine().images().load_for(body::reader(request), platform).await?;
    let mut lines = Vec::new();
    for image in loaded {
        if image.references.is_empty() {
            lines.push(format!("Loaded image ID: {}\n", image.id));
        }
        lines.extend(image.references.iter().map(|r| format!("Loaded image: {r}\n")));
    }
    let lines = lines.into_iter().map(|l| Ok::<_, io::Error>(body::line(&json!({ "stream": l }))));
    Ok(body::stream("application/json", futures::stream::iter(lines)))
}

/// `import` and `pull`.
async fn create(
    State(s): State<ApiState>,
    Query(q): Query<Vec<(String, String)>>,
    request: Request,
) -> ApiResult {
    let value = |key: &str| q.iter().find(|(k, _)| k == key).map_or("", |(_, v)| v.as_str());
    let tag = value("tag");
    if !value("fromImage").is_empty() {
        // "pull -a" of old clients leaves a colon behind the name.
        let name = named(value("fromImage").trim().trim_end_matches(':'), tag);
        return transfer::pull(&s, &name, value("platform"), request.headers()).await;
    }
    match value("fromSrc") {
        "" => Err(ApiError::bad_request("neither fromSrc nor fromImage is given")),
        _ => import::import(&s, &q, request).await,
    }
}

/// A name with its tag or digest.
pub(super) fn named(name: &str, tag: &str) -> String {
    match tag {
        "" => name.to_owned(),
        digest if digest.contains(':') => format!("{name}@{digest}"),
        tag => format!("{name}:{tag}"),
    }
}

async fn get_many(State(s): State<ApiState>, Query(q): Query<Vec<(String, String)>>) -> ApiResult {
    let of = |key: &str| q.iter().filter(|(k, _)| k == key).map(|(_, v)| v.clone()).collect::<Vec<_>>();
    let names = of("names");
    if names.is_empty() {
        return Err(ApiError::bad_request("names is missing: name the images to save"));
    }
    save(&s, &names, &of("platform")).await
}

async fn save(s: &ApiState, names: &[String], platforms: &[String]) -> ApiResult {
    provides(s, names, platforms)?;
    let archive = s.engine().images().save(names).await?;
    let kind = HeaderValue::from_static("application/x-tar");
    let pieces = ReaderStream::with_capacity(archive, 64 << 10);
    Ok(([(header::CONTENT_TYPE, kind)], Body::from_stream(pieces.boxed())).into_response())
}

/// Refuses platforms (as JSON) that the images are not for: of each there is one.
fn provides(s: &ApiState, names: &[String], platforms: &[String]) -> ApiResult<()> {
    for name in names.iter().filter(|_| !platforms.is_empty()) {
        let image = s.engine().images().resolve(name)?;
        let held = Platform {
            os: image.os,
            architecture: image.architecture,
            variant: image.variant,
            ..Platform::default()
        };
        for text in platforms {
            let Some(wanted) = transfer::platform_of_json(text)? else { continue };
            if wanted.served_by(&held).is_none() {
                return Err(ApiError::not_found(format!(
                    "image with reference {name} was found but does not provide the specified platform ({wanted})"
                )));
            }
        }
    }
    Ok(())
}

async fn get_one(
    State(s): State<ApiState>,
    Path(path): Path<String>,
    Query(q): Query<Vec<(String, String)>>,
) -> ApiResult {
    let platforms: Vec<String> =
        q.into_iter().filter(|(k, v)| k == "platform" && !v.is_empty()).map(|(_, v)| v).collect();
    match path.rsplit_once('/') {
        Some((name, "json")) => {
            provides(&s, &[name.to_owned()], &platforms)?;
            Ok(body::ok(&image::inspect(&s.engine().images().resolve(name)?)))
        }
        Some((name, "get")) => save(&s, &[name.to_owned()], &platforms).await,
        Some((name, "history")) => {
            provides(&s, &[name.to_owned()], &platforms)?;
            history(&s, name)
        }
        Some((name, "attestations")) => {
            if platforms.len() > 1 {
                return Err(ApiError::bad_request("only one platform can be asked for"));
            }
            provides(&s, &[name.to_owned()], &platforms)?;
            attestations(&s, name).await
        }
        _ => Err(ApiError::page_not_found()),
    }
}

/// None, where an image has none; those that it has are left with its registry by a pull.
async fn attestations(s: &ApiState, name: &str) -> ApiResult {
    let (images, wanted) = (s.engine().images().clone(), name.to_owned());
    let found = tokio::task::spawn_blocking(move || images.attestations(&wanted))
        .await
        .map_err(|e| ApiError::internal(e.to_string()))??;
    match found.first() {
        None => Ok(body::ok(&json!([]))),
        Some(manifest) => Err(ApiError::not_found(format!(
            "the attestations of {name} were not pulled with it: its registry has them under the manifest {manifest}"
        ))),
    }
}

/// The steps of an image, newest first; only the image itself has an ID and tags.
fn history(s: &ApiState, name: &str) -> ApiResult {
    let images = s.engine().images();
    let image = images.resolve(name)?;
    let steps = images.history(&image.id)?;
    let rows: Vec<Value> = steps
        .iter()
        .enumerate()
        .map(|(at, (step, size))| {
            json!({
                "Id": if at == 0 { &image.id } else { "<missing>" },
                "Created": step.created_at_ns() / 1_000_000_000,
                "CreatedBy": step.created_by,
                "Tags": if at == 0 && !image.references.is_empty() { json!(image.references) } else { Value::Null },
                "Size": size,
                "Comment": step.comment,
            })
        })
        .collect();
    Ok(body::ok(&rows.into()))
}

#[derive(Deserialize)]
struct Tag {
    repo: Option<String>,
    tag: Option<String>,
    platform: Option<String>,
}

async fn post_one(
    State(s): State<ApiState>,
    Path(path): Path<String>,
    Query(q): Query<Tag>,
    headers: HeaderMap,
) -> ApiResult {
    match path.rsplit_once('/') {
        Some((name, "tag")) => {
            let repo = q.repo.unwrap_or_default();
            if repo.is_empty() {
                return Err(ApiError::bad_request("repo is missing: give the new name"));
            }
            let target = named(&repo, q.tag.as_deref().unwrap_or_default());
            s.engine().images().tag(name, &target).await?;
            Ok(StatusCode::CREATED.into_response())
        }
        Some((name, "push")) => {
            let name = named(name, q.tag.as_deref().unwrap_or_default());
            let platform: Vec<String> = q.platform.into_iter().filter(|p| !p.is_empty()).collect();
            provides(&s, std::slice::from_ref(&name), &platform)?;
            transfer::push(&s, &name, &headers).await
        }
        _ => Err(ApiError::page_not_found()),
    }
}

async fn remove(
    State(s): State<ApiState>,
    Path(name): Path<String>,
    Query(q): Query<Vec<(String, String)>>,
) -> ApiResult {
    let values = |key: &str| -> Vec<String> {
        q.iter().filter(|(k, v)| k == key && !v.is_empty()).map(|(_, v)| v.clone()).collect()
    };
    provides(&s, std::slice::from_ref(&name), &values("platforms"))?;
    let force = values("force").pop();
    let removed = s.engine().images().remove(&name, body::flag(force.as_deref())).await?;
    Ok(body::ok(&shown(removed)))
}

fn shown(removed: Vec<Removed>) -> Value {
    let one = |r| match r {
        Removed::Untagged(reference) => json!({ "Untagged": reference }),
        Removed::Deleted(id) => json!({ "Deleted": id }),
    };
    removed.into_iter().map(one).collect::<Vec<_>>().into()
}

async fn prune(
    State(s): State<ApiState>,
    Extension(client): Extension<Client>,
    Query(q): Query<List>,
) -> ApiResult {
    let filters = Filters::parse(q.filters.as_deref(), &["dangling", "label", "label!", "until"])?;
    let only_dangling = filters.flag("dangling")?.unwrap_or(true);
    let until = filters.values("until").map(time::until).collect::<ApiResult<Vec<_>>>()?;
    let until = until.into_iter().min();
    let wanted = |i: &Image| {
        !client.has_left()
            && until.is_none_or(|t| i.created_at_ns < t)
            && filters.prunes(|k| i.config.labels.get(k).map(String::as_str))
    };
    let (removed, bytes) = s.engine().images().prune(!only_dangling, wanted).await?;
    let deleted = if removed.is_empty() { Value::Null } else { shown(removed) };
    Ok(body::ok(&json!({ "ImagesDeleted": deleted, "SpaceReclaimed": bytes })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_match_with_and_without_tag() {
        for (reference, pattern, expected) in [
            ("busybox:1", "busybox", true),
            ("busybox:1", "busybox:1", true),
            ("busybox:1", "busy*", true),
            ("busybox:1", "*:1", true),
            ("a/busybox:1", "busybox", false),
            ("a/busybox:1", "*/busybox", true),
            ("a/busybox:1", "*", false),
            ("a/busybox@sha256:0", "a/busybox", true),
            ("busybox:1", "busy[a-c]ox:[1-3]", true),
            ("busybox:4", "busybox:[1-3]", false),
        ] {
            let glob = Glob::path(pattern).expect(pattern);
            assert_eq!(reference_matches(reference, &glob), expected, "{reference} {pattern}");
        }
    }

    #[test]
    fn names_take_a_tag_or_a_digest() {
        assert_eq!(named("a", ""), "a");
        assert_eq!(named("a", "1"), "a:1");
        assert_eq!(named("a", "sha256:0"), "a@sha256:0");
    }
}
