//! Paths as Docker's `cp` reads them: what ends in `/` or `/.` means a directory, or what is in it.

use anyhow::{Context, Result};

/// One side of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A path of this host, or `-`.
    Local(String),
    /// A container and a path in it.
    Container(String, String),
}

impl Place {
    /// `CONTAINER:PATH`, unless it is plainly a path.
    pub fn read(text: &str) -> Self {
        match text.split_once(':') {
            _ if text.starts_with('/') => Self::Local(text.to_owned()),
            Some((container, path)) if !container.starts_with('.') => {
                Self::Container(container.to_owned(), path.to_owned())
            }
            _ => Self::Local(text.to_owned()),
        }
    }
}

/// As Go's `filepath.Clean`.
pub fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|p| *p != "..") => drop(parts.pop()),
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".into(),
        (false, false) => parts.join("/"),
    }
}

/// Whether it means what is in a directory.
pub fn means_content(path: &str) -> bool {
    path == "." || path.ends_with("/.")
}

/// Directory and last part; the last part of what means a directory's content is `.`.
pub fn parent_and_base(path: &str) -> (String, String) {
    let clean = clean(path);
    if means_content(path) {
        return (clean, ".".into());
    }
    match clean.rsplit_once('/') {
        None => (".".into(), clean),
        Some(("", "")) => ("/".into(), "/".into()),
        Some(("", last)) => ("/".into(), last.to_owned()),
        Some((above, last)) => (above.to_owned(), last.to_owned()),
    }
}

/// The last part alone.
pub fn base(path: &str) -> String {
    parent_and_base(path).1
}

/// An absolute path that still ends as it did.
pub fn absolute(path: &str) -> Result<String> {
    let here = std::env::current_dir().context("find the current directory")?;
    let whole = if path.starts_with('/') { path.to_owned() } else { format!("{}/{path}", here.display()) };
    let clean = clean(&whole);
    Ok(match path {
        _ if clean == "/" => clean,
        path if means_content(path) => format!("{clean}/."),
        path if path.ends_with('/') => format!("{clean}/"),
        _ => clean,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_paths_are_read_as_docker_does() {
        let container = |c: &str, p: &str| Place::Container(c.into(), p.into());
        for (text, place) in [
            ("web:/etc", container("web", "/etc")),
            ("web:", container("web", "")),
            ("/a:b", Place::Local("/a:b".into())),
            ("./a:b", Place::Local("./a:b".into())),
            ("a", Place::Local("a".into())),
            ("-", Place::Local("-".into())),
        ] {
            assert_eq!(Place::read(text), place, "{text}");
        }
        for (path, above, last) in [
            ("/etc/passwd", "/etc", "passwd"),
            ("/etc/", "/", "etc"),
            ("/etc/.", "/etc", "."),
            ("/", "/", "/"),
            ("a", ".", "a"),
            (".", ".", "."),
            ("a/../b/c", "b", "c"),
        ] {
            assert_eq!(parent_and_base(path), (above.to_owned(), last.to_owned()), "{path}");
        }
        assert_eq!(absolute("/a/./b/").expect("reads"), "/a/b/");
        assert_eq!((clean("../x"), clean("/../x")), ("../x".into(), "/x".into()));
    }
}
