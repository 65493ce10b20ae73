//! `ADD` of an URL.

use std::path::Path;
use std::time::SystemTime;

use futures::StreamExt;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use super::authorization::{self, Secrets};
use super::shared::Shared;
use crate::engine::Engine;
use crate::error::{Error, blocking};

/// Whether a source is something that is fetched.
pub(super) fn is_url(source: &str) -> bool {
    ["http://", "https://"].iter().any(|p| source.starts_with(p))
}

/// What a file is called that neither its URL nor its destination names: an archive that is to be unpacked.
const UNNAMED: &str = "unnamed";

/// Fetches into a directory; the file's name there, which is the last part of the URL's path. `named` says that it gets its
/// name by its destination, so that the URL need have none.
pub(super) async fn fetch(
    shared: &Shared,
    url: &str,
    checksum: Option<&str>,
    named: bool,
    dir: &Path,
) -> Result<String, Error> {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    let after_host = decoded(path.splitn(4, '/').nth(3).unwrap_or_default());
    let name = match after_host.rsplit('/').next().unwrap_or_default() {
        "" | "." | ".." if named => UNNAMED,
        "" | "." | ".." => {
            return Err(Error::Invalid(format!(
                "cannot determine filename for source URL {url}: name the file in the destination, without a slash at its end"
            )));
        }
        name => name,
    };
    let to = dir.join(name);
    let digest = download(&shared.engine, url, &shared.request.secrets, &to).await?;
    if let Some(wanted) = checksum
        && wanted != digest
    {
        return Err(failed(&format!("digest mismatch of {url}: it is {digest}, and {wanted} is wanted")));
    }
    Ok(name.to_owned())
}

/// A path without its percent-encoding (RFC 3986, 2.1); one that would be no name of a file stays as it is.
fn decoded(path: &str) -> String {
    let (mut out, mut rest) = (Vec::new(), path.as_bytes());
    while let [first, after @ ..] = rest {
        let hex = after.get(..2).filter(|_| *first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = hex.filter(|hex| !hex.contains('+')).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    String::from_utf8(out).ok().filter(|text| !text.contains('\0')).unwrap_or_else(|| path.to_owned())
}

fn failed(why: &str) -> Error {
    Error::Invalid(format!("ADD failed: {why}"))
}

/// Fetches into a new file, which is root's alone, and as old as the server says, else as old as can be: whoever asks again
/// gets the same. Its digest.
pub(super) async fn download(
    engine: &Engine,
    url: &str,
    secrets: &Secrets,
    to: &Path,
) -> Result<String, Error> {
    let to = to.to_path_buf();
    let authorization = authorization::of_url(secrets, url)?;
    let fetching = engine.images().registries().fetch(url, authorization.as_deref()).await;
    let fetching = fetching.map_err(|e| {
        let hint = match e.status().map(|status| status.as_u16()) {
            Some(401) => authorization::hint(url),
            _ => String::new(),
        };
        failed(&format!("{e}{hint}"))
    })?;
    let time = fetching.last_modified().unwrap_or(SystemTime::UNIX_EPOCH);
    let mut file = tokio::fs::File::create(&to).await.map_err(Error::io("create", &to))?;
    let mut hash = Sha256::new();
    let mut bytes = Box::pin(fetching.into_stream());
    while let Some(chunk) = bytes.next().await {
        let chunk = chunk.map_err(|e| failed(&format!("{url}: {e}")))?;
        hash.update(&chunk);
        file.write_all(&chunk).await.map_err(Error::io("write", &to))?;
    }
    file.flush().await.map_err(Error::io("write", &to))?;
    let digest = format!("sha256:{}", hex::encode(hash.finalize()));
    let file = file.into_std().await;
    blocking(move || {
        file.set_modified(time).map_err(Error::io("set the time of", &to))?;
        std::os::unix::fs::fchown(&file, Some(0), Some(0)).map_err(Error::io("own", &to))?;
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .map_err(Error::io("set the mode of", &to))
    })
    .await?;
    Ok(digest)
}

#[cfg(test)]
mod tests {
    use super::decoded;

    #[test]
    fn names_are_decoded() {
        for (path, name) in [
            ("a%20b/c%5B1%5d", "a b/c[1]"),
            ("100%", "100%"),
            ("%2", "%2"),
            ("%+1x", "%+1x"),
            ("%zz", "%zz"),
            ("%c3%a9", "\u{e9}"),
            ("%ff", "%ff"),
            ("a%00b", "a%00b"),
        ] {
            assert_eq!(decoded(path), name, "{path}");
        }
    }
}
