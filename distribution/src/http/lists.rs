//! Lists: tags, repositories, and what refers to a manifest.

use hyper::StatusCode;
use serde_json::{Value, json};

use super::blobs::checked;
use super::{Answer, App, Asked, json as answer, set};
use crate::error::Refusal;
use crate::name::hex_of;
use crate::route::{Route, decoded, parameter};

/// Repositories in one page, unless the client says how many, and most of them.
const CATALOG_PAGE: usize = 100;
const LARGEST_PAGE: usize = 1000;

impl App {
    pub(super) async fn tags(&self, asked: Asked) -> Answer {
        let Route::Tags { name } = &asked.route else { return Err(Refusal::upload_unknown()) };
        let n = page_size(asked.query.as_deref())?;
        let all = match &self.mirror {
            Some(mirror) => mirror.tags(&self.store, name).await?,
            None => {
                let name = name.clone();
                self.store.run(move |store| store.tags(&name)).await?
            }
        };
        let all = all.ok_or_else(|| Refusal::name_unknown(name))?;
        let (page, more) = page(all, asked.query.as_deref(), n.unwrap_or(usize::MAX));
        let mut response = answer(json!({ "name": name, "tags": page }).to_string());
        if more && let (Some(last), Some(n)) = (page.last(), n) {
            let link = format!("</v2/{name}/tags/list?last={last}&n={n}>; rel=\"next\"");
            set(&mut response, "link", &link);
        }
        Ok(response)
    }

    pub(super) async fn catalog(&self, asked: Asked) -> Answer {
        let n = page_size(asked.query.as_deref())?.unwrap_or(CATALOG_PAGE).min(LARGEST_PAGE);
        let all = self.store.run(|store| store.repositories()).await?;
        let (page, more) = page(all, asked.query.as_deref(), n);
        let mut response = answer(json!({ "repositories": page }).to_string());
        if more && let Some(last) = page.last() {
            let last = last.replace('/', "%2F");
            set(&mut response, "link", &format!("</v2/_catalog?last={last}&n={n}>; rel=\"next\""));
        }
        Ok(response)
    }

    pub(super) async fn referrers(&self, asked: Asked) -> Answer {
        let Route::Referrers { name, digest } = &asked.route else { return Err(Refusal::upload_unknown()) };
        checked(digest)?;
        let filter = parameter(asked.query.as_deref(), "artifactType").filter(|f| !f.is_empty());
        let (at, subject) = (name.clone(), digest.clone());
        let last = parameter(asked.query.as_deref(), "last");
        let found = self.store.run(move |store| store.referrers(&at, &subject, last.as_deref()));
        let (all, more) = found.await?;
        let shown: Vec<Value> = all
            .iter()
            .filter(|(_, read)| filter.as_ref().is_none_or(|f| read.artifact_type == *f))
            .map(|(stored, read)| {
                let mut one = json!({
                    "mediaType": stored.media_type, "digest": stored.digest, "size": stored.bytes.len(),
                });
                if !read.artifact_type.is_empty() {
                    one["artifactType"] = read.artifact_type.clone().into();
                }
                if !read.annotations.is_empty() {
                    one["annotations"] = json!(read.annotations);
                }
                one
            })
            .collect();
        let kind = skep_registry::media::OCI_INDEX;
        let index = json!({ "schemaVersion": 2, "mediaType": kind, "manifests": shown });
        let mut response = answer(index.to_string());
        set(&mut response, "content-type", kind);
        if filter.is_some() {
            set(&mut response, "oci-filters-applied", "artifactType");
        }
        if more && let Some((last, _)) = all.last() {
            let mut link = format!("</v2/{name}/referrers/{digest}?last={}", hex_of(&last.digest));
            let told = asked.query.as_deref().unwrap_or_default().split('&');
            for pair in told.filter(|pair| pair.starts_with("artifactType=")) {
                link.push('&');
                link.push_str(pair);
            }
            link.push_str(">; rel=\"next\"");
            set(&mut response, "link", &link);
        }
        Ok(response)
    }
}

/// The query's `n`.
fn page_size(query: Option<&str>) -> Result<Option<usize>, Refusal> {
    match parameter(query, "n") {
        None => Ok(None),
        Some(n) => n.parse().map(Some).map_err(|_| {
            let words = "invalid number of results requested: want a number that is not negative";
            Refusal::new(StatusCode::BAD_REQUEST, "PAGINATION_NUMBER_INVALID", words)
                .detail(json!({ "n": decoded(&n) }))
        }),
    }
}

/// What follows the query's `last`, at most so much, and whether there is more.
fn page(all: Vec<String>, query: Option<&str>, n: usize) -> (Vec<String>, bool) {
    let last = parameter(query, "last");
    let mut page: Vec<String> =
        all.into_iter().filter(|one| last.as_ref().is_none_or(|last| one > last)).collect();
    let more = page.len() > n && n > 0;
    page.truncate(n);
    (page, more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other() {
        let all = || ["a", "b", "c"].map(str::to_owned).to_vec();
        for (query, n, shown, more) in [
            (None, 2, "a b", true),
            (Some("last=b"), 2, "c", false),
            (Some("last=bb"), 1, "c", false),
            (Some("last=z"), 1, "", false),
            (None, 0, "", false),
            (None, 3, "a b c", false),
        ] {
            let (page, is_more) = page(all(), query, n);
            assert_eq!((page.join(" ").as_str(), is_more), (shown, more), "{query:?} {n}");
        }
    }
}
