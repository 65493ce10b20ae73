//! Search, which only registries of the first protocol have; of those in use, Docker Hub's index.

use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::{HeaderMap, Method, StatusCode};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::auth::refusal;
use crate::credentials::Credentials;
use crate::endpoints::{DOCKER_HUB, Endpoint, Registries};
use crate::http::{encode, read};

const LONGEST: usize = 4 << 20;

/// A repository that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Found {
    /// Name.
    pub name: String,
    /// Description.
    pub description: String,
    /// Stars.
    pub star_count: i64,
    /// Whether Docker vouches for it.
    pub is_official: bool,
    /// Always false nowadays.
    pub is_automated: bool,
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    results: Vec<Found>,
}

impl Registries {
    /// Repositories whose name or description has the term; at most `limit` of 1 to 100.
    pub async fn search(
        &self,
        registry: &str,
        term: &str,
        limit: u32,
        credentials: &Credentials,
    ) -> Result<Vec<Found>, Error> {
        let endpoints = if registry == DOCKER_HUB {
            vec![Endpoint { base: "https://index.docker.io".into(), lax: false, mirror: false }]
        } else {
            self.endpoints(registry).await
        };
        let mut last = Error::Invalid(format!("registry {registry} has no address to ask"));
        for endpoint in endpoints {
            let url = format!("{}/v1/search?q={}&n={limit}", endpoint.base, encode(term));
            let mut headers = HeaderMap::new();
            if let Some(value) = credentials.basic().and_then(|b| HeaderValue::from_str(&b).ok()) {
                headers.insert(AUTHORIZATION, value);
            }
            let response = match self.http().follow(endpoint.lax, &Method::GET, &url, &headers).await {
                Ok(response) => response,
                Err(e) => {
                    last = e;
                    continue;
                }
            };
            if response.status() == StatusCode::NOT_FOUND {
                return Err(Error::Refused {
                    status: StatusCode::NOT_FOUND,
                    code: "UNSUPPORTED".into(),
                    message: format!(
                        "registry {registry} has no search (GET /v1/search): only Docker Hub and registries of the first protocol do"
                    ),
                });
            }
            if !response.status().is_success() {
                return Err(refusal(&Method::GET, &url, response).await);
            }
            let body = read(&Method::GET, &url, response, LONGEST).await?;
            let page: Page = serde_json::from_slice(&body).map_err(|e| {
                Error::Invalid(format!("the answer of registry {registry} is not valid: {e}"))
            })?;
            return Ok(page.results);
        }
        Err(last)
    }
}
