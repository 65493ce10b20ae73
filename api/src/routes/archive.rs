//! A container's files: `cp`, `diff`, `export`, `commit`.

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};
use skep_engine::{Change, Commit, CopyIn, PathStat, SavedArchive};
use tokio_util::io::ReaderStream;

use super::body;
use crate::convert::{file_mode, image, time};
use crate::error::{ApiError, ApiResult};
use crate::path::Path;
use crate::state::ApiState;

/// Header that tells what is at a path: JSON in base64.
const STAT: HeaderName = HeaderName::from_static("x-docker-container-path-stat");

pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/containers/{id}/archive", get(copy_out).head(stat).put(copy_in))
        .route("/containers/{id}/export", get(export))
        .route("/containers/{id}/changes", get(changes))
        .route("/commit", post(commit))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Archive {
    path: Option<String>,
    no_overwrite_dir_non_dir: Option<String>,
    #[serde(rename = "copyUIDGID")]
    copy_uidgid: Option<String>,
}

impl Archive {
    fn path(&self) -> ApiResult<&str> {
        match self.path.as_deref() {
            None | Some("") => Err(ApiError::bad_request("bad parameter: path cannot be empty")),
            Some(path) => Ok(path),
        }
    }
}

async fn stat(State(s): State<ApiState>, Path(id): Path<String>, Query(q): Query<Archive>) -> ApiResult {
    let found = s.engine().stat_path(&id, q.path()?).await?;
    Ok(stat_header(&found)?.into_response())
}

async fn copy_out(State(s): State<ApiState>, Path(id): Path<String>, Query(q): Query<Archive>) -> ApiResult {
    let (found, archive) = s.engine().copy_out(&id, q.path()?).await?;
    Ok((stat_header(&found)?, tar(archive, "application/x-tar")).into_response())
}

async fn copy_in(
    State(s): State<ApiState>,
    Path(id): Path<String>,
    Query(q): Query<Archive>,
    request: Request,
) -> ApiResult {
    let how = CopyIn {
        keep_kinds: body::flag(q.no_overwrite_dir_non_dir.as_deref()),
        own: body::flag(q.copy_uidgid.as_deref()),
    };
    s.engine().copy_in(&id, q.path()?, how, body::reader(request)).await?;
    Ok(StatusCode::OK.into_response())
}

async fn export(State(s): State<ApiState>, Path(id): Path<String>) -> ApiResult {
    let archive = s.engine().export(&id).await?;
    Ok(tar(archive, "application/octet-stream").into_response())
}

fn tar(archive: SavedArchive, kind: &'static str) -> impl IntoResponse {
    let kind = HeaderValue::from_static(kind);
    let pieces = ReaderStream::with_capacity(archive, 64 << 10);
    ([(header::CONTENT_TYPE, kind)], Body::from_stream(pieces.boxed()))
}

fn stat_header(found: &PathStat) -> ApiResult<HeaderMap> {
    let json = json!({
        "name": found.name,
        "size": found.size,
        "mode": file_mode::go(found.mode),
        "mtime": time::from_ns(found.mtime_ns),
        "linkTarget": found.link_target,
    });
    let value = HeaderValue::try_from(STANDARD.encode(json.to_string()))
        .map_err(|_| ApiError::internal("the path cannot be told of in a header"))?;
    Ok(HeaderMap::from_iter([(STAT, value)]))
}

async fn changes(State(s): State<ApiState>, Path(id): Path<String>) -> ApiResult {
    let kind = |c: Change| match c {
        Change::Modified => 0,
        Change::Added => 1,
        Change::Deleted => 2,
    };
    let found = s.engine().changes(&id).await?;
    let list: Vec<Value> =
        found.iter().map(|(path, change)| json!({ "Path": path, "Kind": kind(*change) })).collect();
    Ok(body::ok(&if list.is_empty() { Value::Null } else { list.into() }))
}

async fn commit(
    State(s): State<ApiState>,
    Query(q): Query<Vec<(String, String)>>,
    request: Request,
) -> ApiResult {
    let value = |key: &str| q.iter().find(|(k, _)| k == key).map_or("", |(_, v)| v.as_str());
    let sent = body::read(request).await?;
    let config = image::read_config(&sent)?;
    let repo = value("repo");
    let reference = match value("tag") {
        _ if repo.is_empty() => None,
        "" => Some(repo.to_owned()),
        tag => Some(format!("{repo}:{tag}")),
    };
    let asked = Commit {
        reference,
        author: value("author").into(),
        comment: value("comment").into(),
        config,
        changes: q.iter().filter(|(k, _)| k == "changes").map(|(_, v)| v.clone()).collect(),
        // Paused unless told not to, since API 1.13.
        pause: value("pause").is_empty() || body::flag(Some(value("pause"))),
    };
    let id = s.engine().commit(value("container"), asked).await?;
    Ok(body::json(StatusCode::CREATED, &json!({ "Id": id })))
}
