//! What a request's path names, with the API's own words where that is no text.

use axum::RequestPartsExt as _;
use axum::extract::{FromRequestParts, Path as Inner};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::error::ApiError;

/// The variable parts of a route's path, decoded. Of what is not UTF-8 the client is told in JSON, as of any error.
pub(crate) struct Path<T>(pub T);

impl<T, S> FromRequestParts<S> for Path<T>
where
    T: DeserializeOwned + Send + 'static,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let named = parts.extract::<Inner<T>>().await;
        named.map(|Inner(named)| Self(named)).map_err(|e| ApiError::bad_request(e.body_text()))
    }
}
