//! Whether credentials are good: `POST /auth`, which `docker login` asks the daemon for.

use hyper::header::AUTHORIZATION;
use hyper::{HeaderMap, Method, StatusCode};

use crate::Error;
use crate::auth::{For, authorization, challenges, fetch, refusal};
use crate::credentials::Credentials;
use crate::endpoints::{DOCKER_HUB, Registries};

impl Registries {
    /// Checks credentials with the registry they are for. A token server may give a token to come back with in
    /// the password's place; else it is empty.
    pub async fn login(&self, credentials: &Credentials) -> Result<String, Error> {
        let registry = registry_of(&credentials.server_address);
        let mut last = Error::Invalid(format!("registry {registry} has no address to ask"));
        for endpoint in self.endpoints(&registry).await.into_iter().filter(|e| !e.mirror) {
            match self.login_at(&endpoint.base, endpoint.lax, credentials).await {
                Err(e @ Error::Transport { .. }) => last = e,
                other => return other,
            }
        }
        Err(last)
    }

    async fn login_at(&self, base: &str, lax: bool, credentials: &Credentials) -> Result<String, Error> {
        let url = format!("{base}/v2/");
        let http = self.http();
        let response = http.follow(lax, &Method::GET, &url, &HeaderMap::new()).await?;
        let asked = challenges(&response);
        if response.status() != StatusCode::UNAUTHORIZED {
            return finished(&url, response).await.map(|()| String::new());
        }
        let mut refresh = String::new();
        let text = match asked.iter().find(|c| c.scheme == "bearer") {
            Some(bearer) => {
                let token = fetch(http, lax, bearer, credentials, For::Login).await?;
                refresh = token.refresh_token.clone().unwrap_or_default();
                format!("Bearer {}", token.value().unwrap_or_default())
            }
            None => credentials
                .basic()
                .ok_or_else(|| Error::NoCredentials { method: "Get".into(), url: url.clone() })?,
        };
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, authorization(&text)?);
        let response = http.follow(lax, &Method::GET, &url, &headers).await?;
        finished(&url, response).await.map(|()| refresh)
    }
}

async fn finished(url: &str, response: hyper::Response<hyper::body::Incoming>) -> Result<(), Error> {
    let status = response.status();
    match status {
        StatusCode::OK => Ok(()),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Error::Login { url: url.into(), status }),
        _ => Err(refusal(&Method::GET, url, response).await),
    }
}

/// The registry that a client's server address means.
pub(crate) fn registry_of(address: &str) -> String {
    let host = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = host.split('/').next().unwrap_or_default();
    match host {
        "" | "docker.io" | "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB.into(),
        host => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::registry_of;

    #[test]
    fn server_addresses_are_read_as_clients_write_them() {
        for (address, registry) in [
            ("https://index.docker.io/v1/", "docker.io"),
            ("", "docker.io"),
            ("localhost:5000", "localhost:5000"),
            ("https://r.example/v2/", "r.example"),
        ] {
            assert_eq!(registry_of(address), registry);
        }
    }
}
