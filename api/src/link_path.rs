//! Names of links (`web/store`) in paths: clients write their slash as it is, where a route takes one segment.

use axum::http::{Method, Uri};

use crate::error::{ApiError, ApiResult};

/// A URI below `/containers/` with the slash within a container's name encoded, and without empty segments.
pub fn encoded(method: &Method, uri: Uri) -> ApiResult<Uri> {
    let Some(rest) = uri.path().strip_prefix("/containers/") else { return Ok(uri) };
    let segments: Vec<&str> = rest.split('/').filter(|s| !s.is_empty()).collect();
    let verb = match segments.as_slice() {
        [.., "attach", "ws"] => 2,
        _ if method == Method::DELETE => 0,
        _ => 1,
    };
    let (name, verb) = segments.split_at(segments.len().saturating_sub(verb));
    let name = name.join("%2F");
    let path: Vec<&str> =
        [name.as_str()].into_iter().filter(|n| !n.is_empty()).chain(verb.iter().copied()).collect();
    let path = path.join("/");
    if path == rest {
        return Ok(uri);
    }
    let query = uri.query().map(|q| format!("?{q}")).unwrap_or_default();
    format!("/containers/{path}{query}")
        .parse()
        .map_err(|e| ApiError::bad_request(format!("the request's path is not valid: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_links_are_one_segment() {
        let of = |method: Method, path: &str| {
            encoded(&method, path.parse().expect("URI")).expect("valid").to_string()
        };
        for (path, expected) in [
            ("/containers/json?all=1", "/containers/json?all=1"),
            ("/containers/web/json", "/containers/web/json"),
            ("/containers//web/json?size=1", "/containers/web/json?size=1"),
            ("/containers/web/db/json", "/containers/web%2Fdb/json"),
            ("/containers//web/db/attach/ws?logs=1", "/containers/web%2Fdb/attach/ws?logs=1"),
            ("/containers/web%2Fdb/json", "/containers/web%2Fdb/json"),
            ("/images/a/b/json", "/images/a/b/json"),
        ] {
            assert_eq!(of(Method::GET, path), expected);
        }
        assert_eq!(of(Method::DELETE, "/containers/web/db?link=1"), "/containers/web%2Fdb?link=1");
    }
}
