//! References of images as arguments: what can be none is told at once, in the words of Docker's client.

use anyhow::{Result, bail};
use skep_engine::Reference;

/// Refuses what is neither a reference nor an ID.
pub fn check(text: &str) -> Result<()> {
    let hex = |t: &str| t.len() == 64 && t.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if hex(text) {
        return Ok(());
    }
    let remote = remote_name(text);
    if remote.to_lowercase() != remote {
        bail!("invalid reference format: repository name ({remote}) must be lowercase");
    }
    if Reference::parse(text).is_err() {
        bail!("invalid reference format");
    }
    Ok(())
}

/// The same for `tag`, which names what it speaks of.
pub fn check_named(text: &str) -> Result<()> {
    if let Err(e) = check(text) {
        bail!("Error parsing reference: {text:?} is not a valid repository/tag: {e}");
    }
    Ok(())
}

/// The path in its registry, without a tag.
fn remote_name(text: &str) -> String {
    let path = match text.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => path.to_owned(),
        Some(_) => text.to_owned(),
        None => format!("library/{text}"),
    };
    path.split(':').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_checked_as_dockers_client_checks_them() {
        let hex = "0".repeat(64);
        for good in
            ["busybox", "host:5000/a/b:1", &format!("a@sha256:{hex}"), &hex, &format!("sha256:{hex}"), "0123"]
        {
            assert!(check(good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("busybox:bad:tag", "invalid reference format"),
            ("", "invalid reference format"),
            ("a b", "invalid reference format"),
            ("busyBOX", "invalid reference format: repository name (library/busyBOX) must be lowercase"),
            ("a/B", "invalid reference format: repository name (a/B) must be lowercase"),
            ("host:5000/A:1", "invalid reference format: repository name (A) must be lowercase"),
        ] {
            assert_eq!(check(bad).expect_err(bad).to_string(), why);
        }
    }
}
