//! Credentials in the URLs of repositories: not to be shown, and not to stay in a `.git` that comes into an image.

use std::io;
use std::path::Path;

use crate::data_root::remove_tree;

/// A text with URLs as it may be shown. Who asks by HTTP may have a token for a name, so all of it is hidden, as BuildKit
/// does; of others the password is.
pub(super) fn hidden(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + "://".len());
        out.push_str(before);
        rest = after;
        let end = rest.find(|c: char| c == '/' || c.is_whitespace()).unwrap_or(rest.len());
        let Some((user, _)) = rest[..end].rsplit_once('@') else { continue };
        let web = ["http://", "https://"].iter().any(|scheme| before.to_ascii_lowercase().ends_with(scheme));
        match user.split_once(':') {
            Some(_) if web => out.push_str("xxxxx:xxxxx"),
            None if web => out.push_str("xxxxx"),
            Some((name, _)) => out.extend([name, ":xxxxx"]),
            None => out.push_str(user),
        }
        rest = &rest[user.len()..];
    }
    out + rest
}

/// Takes the credentials that it was fetched with out of a repository's own directory and those of its submodules: the
/// URLs of `config`, what was fetched last, and the reflogs (gitrepository-layout(5)).
pub(super) fn forget(git: &Path) -> io::Result<()> {
    let config = git.join("config");
    let text = std::fs::read_to_string(&config)?;
    // The head of a section names; it leads nowhere.
    let line = |line: &str| if line.starts_with('[') { line.to_owned() } else { hidden(line) };
    let safe: String = text.split_inclusive('\n').map(line).collect();
    if safe != text {
        std::fs::write(&config, safe)?;
    }
    match std::fs::remove_file(git.join("FETCH_HEAD")) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    remove_tree(&git.join("logs")).map_err(io::Error::other)?;
    forget_below(&git.join("modules"))
}

/// Those of submodules, whose names may have slashes.
fn forget_below(dir: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            continue;
        }
        match entry.path().join("HEAD").is_file() {
            true => forget(&entry.path())?,
            false => forget_below(&entry.path())?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_not_shown() {
        for (text, shown) in [
            ("https://me:se@cret@h:1/p@q.git", "https://xxxxx:xxxxx@h:1/p@q.git"),
            ("https://token@h/p", "https://xxxxx@h/p"),
            ("https://h:1/p:q@r", "https://h:1/p:q@r"),
            ("git@h:p", "git@h:p"),
            ("ssh://git@h/p", "ssh://git@h/p"),
            ("ssh://me:x@h", "ssh://me:xxxxx@h"),
            ("of 'http://a:b@h/x' and 'HTTPS://c@i'", "of 'http://xxxxx:xxxxx@h/x' and 'HTTPS://xxxxx@i'"),
            ("\turl = \"https://a;b@h/x\"\n", "\turl = \"https://xxxxx@h/x\"\n"),
        ] {
            assert_eq!(hidden(text), shown);
        }
    }

    #[test]
    fn a_kept_repository_and_its_submodules_have_no_credentials() {
        let dir = tempfile::tempdir().expect("a directory");
        let git = dir.path().join(".git");
        // A name with a slash, one in another, and one that is called as a directory of git's.
        let of = ["", "modules/a/b", "modules/a/b/modules/c", "modules/logs"];
        for repository in of {
            let at = git.join(repository);
            std::fs::create_dir_all(at.join("logs/refs")).expect("logs");
            let config = "[remote \"origin\"]\n\turl = https://me:secret@h/r\n\tfetch = +refs/heads/*:x\n";
            for (name, text) in [
                ("HEAD", "0"),
                ("config", config),
                ("FETCH_HEAD", "0 branch 'main' of https://me:secret@h/r"),
                ("logs/HEAD", "0 0 clone: from https://me:secret@h/r"),
                ("logs/refs/x", "secret"),
            ] {
                std::fs::write(at.join(name), text).expect("a file");
            }
        }
        forget(&git).expect("it forgets");
        for repository in of {
            let at = git.join(repository);
            let config = std::fs::read_to_string(at.join("config")).expect("its configuration");
            assert!(config.contains("url = https://xxxxx:xxxxx@h/r\n\tfetch = +refs"), "{config}");
            assert!(!at.join("FETCH_HEAD").exists() && !at.join("logs").exists(), "{repository}");
        }
    }
}
