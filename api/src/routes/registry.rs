//! What the daemon asks registries for a client: whether credentials are good, and what matches a term.

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::HeaderMap;
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::json;
use skep_registry::{Credentials, DOCKER_HUB, Found};

use super::{body, transfer};
use crate::error::{ApiError, ApiResult};
use crate::filters::Filters;
use crate::state::ApiState;

pub(super) fn routes() -> Router<ApiState> {
    Router::new().route("/auth", post(login)).route("/images/search", get(search))
}

impl From<skep_registry::Error> for ApiError {
    fn from(e: skep_registry::Error) -> Self {
        Self::new(body::registry_status(&e), e.to_string())
    }
}

async fn login(State(s): State<ApiState>, request: Request) -> ApiResult {
    let bytes = body::read(request).await?;
    let credentials = Credentials::from_json(&bytes).map_err(|e| ApiError::bad_request(e.to_string()))?;
    let token = s.engine().images().registries().login(&credentials).await?;
    Ok(body::ok(&json!({ "Status": "Login Succeeded", "IdentityToken": token })))
}

#[derive(Deserialize)]
struct Search {
    term: Option<String>,
    limit: Option<String>,
    filters: Option<String>,
}

/// Results asked for when nobody said.
const LIMIT: u32 = 25;

async fn search(State(s): State<ApiState>, Query(q): Query<Search>, headers: HeaderMap) -> ApiResult {
    let filters = Filters::parse(q.filters.as_deref(), &["is-automated", "is-official", "stars"])?;
    let (official, automated) = (filters.flag("is-official")?, filters.flag("is-automated")?);
    let stars = filters
        .values("stars")
        .map(|v| v.parse::<i64>().map_err(|_| ApiError::bad_request(format!("invalid filter 'stars={v}'"))));
    let stars = stars.collect::<ApiResult<Vec<_>>>()?.into_iter().max().unwrap_or(0);
    let limit = match q.limit.as_deref().filter(|l| !l.is_empty()) {
        None => LIMIT,
        Some(text) => {
            let parsed = text.parse().ok().filter(|n| (1..=100).contains(n));
            parsed.ok_or_else(|| {
                ApiError::bad_request(format!("limit {text} is outside the range of [1, 100]"))
            })?
        }
    };
    let term = q.term.unwrap_or_default();
    let (registry, term) = match term.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest),
        _ => (DOCKER_HUB, term.as_str()),
    };
    if term.is_empty() {
        return Err(ApiError::bad_request("term is missing: say what to search for"));
    }
    let registries = s.engine().images().registries();
    let mut found = registries.search(registry, term, limit, &transfer::credentials(&headers)).await?;
    let wanted = |f: &Found| {
        official.is_none_or(|want| f.is_official == want)
            && automated.is_none_or(|want| f.is_automated == want)
            && f.star_count >= stars
    };
    found.retain(wanted);
    Ok(body::ok(&json!(found)))
}
