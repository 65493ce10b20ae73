//! What names may look like (OCI distribution, "Pulling manifests"). All that becomes part of a path goes through here.

use skep_registry::is_name_component;
pub(crate) use skep_registry::is_tag;

/// A repository's name: components of lower-case letters and digits with separators between them.
pub(crate) fn is_name(text: &str) -> bool {
    text.len() <= 255 && text.split('/').all(is_name_component)
}

/// An upload's ID as this registry makes them.
pub(crate) fn is_upload(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// A digest without its algorithm, which is always sha256 here.
pub(crate) fn hex_of(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_tags() {
        for good in ["a", "library/busybox", "a.b/c_d/e__f/g--h", "0/1", &"a".repeat(255)] {
            assert!(is_name(good), "{good}");
        }
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "A",
            "a..b",
            "a___b",
            "a._b",
            "_a",
            "a-",
            "..",
            "a/../b",
            "a b",
            "ä",
            "a:b",
            &"a".repeat(256),
        ] {
            assert!(!is_name(bad), "{bad}");
        }
        for good in ["latest", "_", "1.0-rc_1", "A", &"a".repeat(128)] {
            assert!(is_tag(good), "{good}");
        }
        for bad in ["", ".", "..", "-a", "a/b", "a:b", "a b", &"a".repeat(129)] {
            assert!(!is_tag(bad), "{bad}");
        }
    }
}
