//! Version negotiation: `/v1.xx/path` and `/path` are the same, a version out of range is refused,
//! and every response says what the daemon is.

use axum::http::{HeaderMap, HeaderValue, Uri};

use crate::error::{ApiError, ApiResult};

/// Highest API version served, and the one an unversioned path means.
pub const API: Version = Version(1, 50);
/// Lowest API version served.
pub const MINIMUM: Version = Version(1, 24);

/// An API version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u16, pub u16);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// Splits a path into its version and the rest; a path that only looks like one stays whole.
fn split(path: &str) -> Option<(Version, &str)> {
    let rest = path.strip_prefix("/v")?;
    let (version, _) = rest.split_once('/')?;
    let path = &rest[version.len()..];
    let (major, minor) = version.split_once('.')?;
    let number = |s: &str| s.bytes().all(|b| b.is_ascii_digit()).then(|| s.parse::<u16>().ok()).flatten();
    Some((Version(number(major)?, number(minor)?), path))
}

/// The version a request speaks and its URI without it.
pub fn negotiate(uri: &Uri) -> ApiResult<(Version, Uri)> {
    let Some((version, path)) = split(uri.path()) else { return Ok((API, uri.clone())) };
    if version > API {
        return Err(ApiError::bad_request(format!(
            "client version {version} is too new. Maximum supported API version is {API}"
        )));
    }
    if version < MINIMUM {
        return Err(ApiError::bad_request(format!(
            "client version {version} is too old. Minimum supported API version is {MINIMUM}, please upgrade your client to a newer version"
        )));
    }
    let target = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let target =
        target.parse().map_err(|e| ApiError::bad_request(format!("the request's path is not valid: {e}")))?;
    Ok((version, target))
}

/// What every response carries.
pub fn headers(headers: &mut HeaderMap, daemon_version: &str) {
    headers.insert("Api-Version", HeaderValue::from_static("1.50"));
    headers.insert("Ostype", HeaderValue::from_static("linux"));
    if let Ok(server) = HeaderValue::from_str(&format!("Skep/{daemon_version} (linux)")) {
        headers.insert("Server", server);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str) -> ApiResult<(Version, String)> {
        negotiate(&path.parse().expect("URI")).map(|(v, uri)| (v, uri.to_string()))
    }

    #[test]
    fn versions_are_taken_off_the_path() {
        assert_eq!(API.to_string(), "1.50");
        assert_eq!(of("/info"), Ok((API, "/info".into())));
        assert_eq!(of("/v1.41/info?a=b"), Ok((Version(1, 41), "/info?a=b".into())));
        assert_eq!(of("/v1.50/a/v1.24/b"), Ok((API, "/a/v1.24/b".into())));
        assert_eq!(of("/volumes"), Ok((API, "/volumes".into())));
        assert_eq!(of("/vx.y/info"), Ok((API, "/vx.y/info".into())));
    }

    #[test]
    fn versions_out_of_range_are_refused_with_dockers_words() {
        let e = of("/v1.51/info").expect_err("too new");
        assert_eq!(e.message, "client version 1.51 is too new. Maximum supported API version is 1.50");
        let e = of("/v1.23/info").expect_err("too old");
        assert!(
            e.message.starts_with("client version 1.23 is too old. Minimum supported API version is 1.24")
        );
        assert_eq!(e.status, 400);
    }
}
