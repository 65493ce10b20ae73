//! Image references, normalised as Docker does: `docker.io/library/x` is `x`, no tag is `latest`.

use std::fmt;

use skep_registry::{DOCKER_HUB, Repository, is_name_component, is_tag};

use crate::error::Error;

const MAX_NAME: usize = 255;

/// A parsed reference; `Display` gives the familiar form that `docker images` shows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// Familiar name: without `docker.io/` and `library/`.
    pub name: String,
    /// Tag.
    pub tag: Option<String>,
    /// Digest, `sha256:` and 64 hex characters.
    pub digest: Option<String>,
}

impl Reference {
    /// Reads `[host[:port]/]path[:tag][@sha256:hex]`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let bad = |why: &str| Error::Invalid(format!("invalid reference format: {text:?}: {why}"));
        let (rest, digest) = match text.split_once('@') {
            None => (text, None),
            Some((rest, d)) if is_digest(d) => (rest, Some(d.to_owned())),
            Some(_) => return Err(bad("a digest is sha256: and 64 lower-case hex characters")),
        };
        let slash = rest.rfind('/').map_or(0, |i| i + 1);
        let (name, tag) = match rest[slash..].find(':') {
            None => (rest, None),
            Some(i) => (&rest[..slash + i], Some(&rest[slash + i + 1..])),
        };
        if let Some(t) = tag
            && !is_tag(t)
        {
            return Err(bad(
                "a tag is 1 to 128 letters, digits, '_', '.' and '-', not beginning with '.' or '-'",
            ));
        }
        let (domain, path) = match name.split_once('/') {
            Some((d, p)) if d.contains(['.', ':']) || d == "localhost" => (Some(d), p),
            _ => (None, name),
        };
        if name.len() > MAX_NAME {
            return Err(bad("the name is longer than 255 characters"));
        }
        if path.chars().any(|c| c.is_ascii_uppercase()) {
            return Err(bad("repository name must be lowercase"));
        }
        if !path.split('/').all(is_name_component) {
            return Err(bad(
                "a name is lower-case letters and digits, separated by '.', '_', '__', '-' or '/'",
            ));
        }
        if domain.is_some_and(|d| !is_domain(d)) {
            return Err(bad("the registry is not a host name with an optional port"));
        }
        let name = match domain {
            None | Some("docker.io" | "index.docker.io") => {
                path.strip_prefix("library/").unwrap_or(path).to_owned()
            }
            Some(d) => format!("{d}/{path}"),
        };
        if digest.is_none() && tag.is_none() && name.len() == 64 && is_hex(&name) {
            return Err(bad("a name cannot be 64 hex characters, which is an image ID"));
        }
        Ok(Self { name, tag: tag.map(str::to_owned), digest })
    }

    /// The reference with tag `latest` when it has neither tag nor digest.
    pub fn or_latest(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some("latest".into());
        }
        self
    }

    /// The registry it is in, and its path there: `docker.io` and `library/x` of `x`.
    pub fn repository(&self) -> Repository {
        let (registry, path) = match self.name.split_once('/') {
            Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path.to_owned()),
            Some(_) => (DOCKER_HUB, self.name.clone()),
            None => (DOCKER_HUB, format!("library/{}", self.name)),
        };
        Repository { registry: registry.to_owned(), path }
    }

    /// `name@digest`, when there is a digest.
    pub fn by_digest(&self) -> Option<String> {
        self.digest.as_ref().map(|d| format!("{}@{d}", self.name))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(t) = &self.tag {
            write!(f, ":{t}")?;
        }
        if let Some(d) = &self.digest {
            write!(f, "@{d}")?;
        }
        Ok(())
    }
}

/// Lower-case hex.
pub(super) fn is_hex(s: &str) -> bool {
    s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// `sha256:` and 64 hex characters.
pub(super) fn is_digest(s: &str) -> bool {
    s.strip_prefix("sha256:").is_some_and(|h| h.len() == 64 && is_hex(h))
}

fn is_domain(d: &str) -> bool {
    let (host, port) = d.split_once(':').map_or((d, None), |(h, p)| (h, Some(p)));
    let label = |l: &str| {
        !l.is_empty()
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    host.split('.').all(label) && port.is_none_or(|p| p.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalises_as_docker_does() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let with_digest = format!("x@{digest}");
        let both = format!("x:1@{digest}");
        for (text, shown) in [
            ("busybox", "busybox:latest"),
            ("docker.io/library/busybox", "busybox:latest"),
            ("index.docker.io/library/busybox:1", "busybox:1"),
            ("docker.io/me/app", "me/app:latest"),
            ("library/x", "x:latest"),
            ("localhost/x", "localhost/x:latest"),
            ("localhost:5000/a/b:v1.2_3-x", "localhost:5000/a/b:v1.2_3-x"),
            ("registry.example.com/a__b/c-d", "registry.example.com/a__b/c-d:latest"),
            (with_digest.as_str(), with_digest.as_str()),
            (both.as_str(), both.as_str()),
        ] {
            let r = Reference::parse(text).expect(text).or_latest();
            assert_eq!(r.to_string(), shown, "{text}");
        }
        for (text, registry, path) in [
            ("busybox", "docker.io", "library/busybox"),
            ("me/app:1", "docker.io", "me/app"),
            ("localhost/x", "localhost", "x"),
            ("r.example:5000/a/b", "r.example:5000", "a/b"),
        ] {
            let r = Reference::parse(text).expect(text).repository();
            assert_eq!((r.registry.as_str(), r.path.as_str()), (registry, path), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_not_a_reference() {
        let id = "ab".repeat(32);
        let long = "a".repeat(300);
        let long_tag = format!("x:{}", "t".repeat(129));
        for text in [
            "",
            ":",
            "x:",
            ":x",
            "x@",
            "x@sha256:12",
            "X",
            "a//b",
            "/a",
            "a/",
            "a..b",
            "a___b",
            "-a",
            "a-",
            "x:.y",
            "x:a b",
            "a b",
            "exa mple.com/x",
            "a.b:port/x",
            "../x",
            id.as_str(),
            long.as_str(),
            long_tag.as_str(),
        ] {
            assert!(Reference::parse(text).is_err(), "{text:?} was taken");
        }
    }
}
