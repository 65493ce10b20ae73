//! Which thing a path names. Names have slashes in them, so paths are read from their end.

use crate::name::{is_name, is_tag, is_upload};

/// What a path below `/v2/` names; names in it are not judged yet, see `Route::name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/v2/`
    Base,
    /// `/v2/_catalog`
    Catalog,
    /// `/v2/NAME/tags/list`
    Tags { name: String },
    /// `/v2/NAME/manifests/REFERENCE`
    Manifest { name: String, reference: Reference },
    /// `/v2/NAME/blobs/DIGEST`
    Blob { name: String, digest: String },
    /// `/v2/NAME/blobs/uploads/`
    Uploads { name: String },
    /// `/v2/NAME/blobs/uploads/ID`
    Upload { name: String, id: String },
    /// `/v2/NAME/referrers/DIGEST`
    Referrers { name: String, digest: String },
}

/// How a manifest is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reference {
    Tag(String),
    Digest(String),
    /// Neither can look like this.
    Odd(String),
}

impl Reference {
    fn read(text: String) -> Self {
        if text.contains(':') {
            Self::Digest(text)
        } else if is_tag(&text) {
            Self::Tag(text)
        } else {
            Self::Odd(text)
        }
    }

    /// As the client wrote it.
    pub(crate) fn text(&self) -> &str {
        let (Self::Tag(text) | Self::Digest(text) | Self::Odd(text)) = self;
        text
    }
}

impl Route {
    /// Reads a path as it was sent; none is no path of the API.
    pub(crate) fn read(path: &str) -> Option<Self> {
        let path = decoded(path)?;
        let rest = path.strip_prefix("/v2")?;
        if rest.is_empty() || rest == "/" {
            return Some(Self::Base);
        }
        let rest = rest.strip_prefix('/')?;
        if rest == "_catalog" {
            return Some(Self::Catalog);
        }
        let parts: Vec<&str> = rest.split('/').collect();
        let name = |parts: &[&str]| parts.join("/");
        Some(match parts.as_slice() {
            [n @ .., "blobs", "uploads", ""] | [n @ .., "blobs", "uploads"] if !n.is_empty() => {
                Self::Uploads { name: name(n) }
            }
            [n @ .., "blobs", "uploads", id] if !n.is_empty() => {
                Self::Upload { name: name(n), id: (*id).to_owned() }
            }
            [n @ .., "tags", "list"] if !n.is_empty() => Self::Tags { name: name(n) },
            [n @ .., "manifests", r] if !n.is_empty() => {
                Self::Manifest { name: name(n), reference: Reference::read((*r).to_owned()) }
            }
            [n @ .., "blobs", d] if !n.is_empty() => Self::Blob { name: name(n), digest: (*d).to_owned() },
            [n @ .., "referrers", d] if !n.is_empty() => {
                Self::Referrers { name: name(n), digest: (*d).to_owned() }
            }
            _ => return None,
        })
    }

    /// The repository it is in.
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Self::Base | Self::Catalog => None,
            Self::Tags { name }
            | Self::Manifest { name, .. }
            | Self::Blob { name, .. }
            | Self::Uploads { name }
            | Self::Upload { name, .. }
            | Self::Referrers { name, .. } => Some(name),
        }
    }

    /// Whether its repository's name is one.
    pub(crate) fn has_good_name(&self) -> bool {
        self.name().is_none_or(is_name)
    }

    /// Whether an upload's ID can be one.
    pub(crate) fn is_known_upload(&self) -> bool {
        !matches!(self, Self::Upload { id, .. } if !is_upload(id))
    }
}

/// Takes percent-encoding away; none if it is wrong, or what comes out is no text.
pub(crate) fn decoded(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        if b == b'%' {
            let digit = |b: u8| char::from(b).to_digit(16);
            let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
            out.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            out.push(b);
        }
    }
    String::from_utf8(out).ok()
}

/// The first value of a query's parameter.
pub(crate) fn parameter(query: Option<&str>, name: &str) -> Option<String> {
    let found = query?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })?;
    decoded(&found.replace('+', "%20"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_from_their_end() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let name = |n: &str| n.to_owned();
        for (path, route) in [
            ("/v2".to_owned(), Some(Route::Base)),
            ("/v2/".to_owned(), Some(Route::Base)),
            ("/v2/_catalog".to_owned(), Some(Route::Catalog)),
            ("/v2/a/b/tags/list".to_owned(), Some(Route::Tags { name: name("a/b") })),
            ("/v2/manifests/tags/list".to_owned(), Some(Route::Tags { name: name("manifests") })),
            (
                "/v2/a/manifests/1.0".to_owned(),
                Some(Route::Manifest { name: name("a"), reference: Reference::Tag(name("1.0")) }),
            ),
            (
                format!("/v2/a/manifests/{}", digest.replace(':', "%3A")),
                Some(Route::Manifest { name: name("a"), reference: Reference::Digest(digest.clone()) }),
            ),
            (format!("/v2/a/blobs/{digest}"), Some(Route::Blob { name: name("a"), digest: digest.clone() })),
            ("/v2/a/blobs/uploads/".to_owned(), Some(Route::Uploads { name: name("a") })),
            ("/v2/a/blobs/uploads".to_owned(), Some(Route::Uploads { name: name("a") })),
            ("/v2/a/blobs/uploads/x".to_owned(), Some(Route::Upload { name: name("a"), id: name("x") })),
            ("/v1/_ping".to_owned(), None),
            ("/v2/a".to_owned(), None),
            ("/v2/tags/list".to_owned(), None),
            ("/v2/a/manifests/%zz".to_owned(), None),
            ("/v2x".to_owned(), None),
        ] {
            assert_eq!(Route::read(&path), route, "{path}");
        }
        let odd = Route::read("/v2/a/%2e%2e/tags/list").expect("reads");
        assert!(!odd.has_good_name());
    }

    #[test]
    fn parameters_are_decoded() {
        let query = Some("n=10&last=a%2Fb&flag&from=x+y");
        assert_eq!(parameter(query, "last").as_deref(), Some("a/b"));
        assert_eq!(parameter(query, "flag").as_deref(), Some(""));
        assert_eq!(parameter(query, "from").as_deref(), Some("x y"));
        assert_eq!(parameter(query, "none"), None);
        assert_eq!(parameter(None, "n"), None);
    }
}
