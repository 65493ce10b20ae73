//! Secrets of a build that servers are asked with for what it fetches, by BuildKit's names: `HTTP_AUTH_TOKEN_HOST` or
//! `HTTP_AUTH_HEADER_HOST` for a URL; for a repository by HTTP `GIT_AUTH_TOKEN.HOST` or `GIT_AUTH_HEADER.HOST`, and without
//! `.HOST` for any. <https://docs.docker.com/build/building/secrets/#git-authentication-for-remote-contexts>

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::error::Error;

/// Secrets by their IDs.
pub(super) type Secrets = BTreeMap<String, Vec<u8>>;

/// Where a token for one repository is one for all of a server's (submodules among them), as with BuildKit.
const WHOLE_SERVERS: [&str; 2] = ["https://github.com/", "https://www.github.com/"];

/// The value of `Authorization` that a URL is to be asked with.
///
/// # Errors
/// The secret cannot be one.
pub(super) fn of_url(secrets: &Secrets, url: &str) -> Result<Option<String>, Error> {
    let Some(name) = host_name(url) else { return Ok(None) };
    match value(secrets, &format!("HTTP_AUTH_TOKEN_{name}"))? {
        Some(token) => Ok(Some(format!("Bearer {token}"))),
        None => value(secrets, &format!("HTTP_AUTH_HEADER_{name}")),
    }
}

/// What is said of a URL whose server wants to know more.
pub(super) fn hint(url: &str) -> String {
    let Some(name) = host_name(url) else { return String::new() };
    format!(
        " (skep build --secret id=HTTP_AUTH_TOKEN_{name}, or HTTP_AUTH_HEADER_{name}, is what it is asked with)"
    )
}

/// The host of a URL, without its port.
fn host_name(url: &str) -> Option<&str> {
    let (_, host) = place(url)?;
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    Some(name.trim_start_matches('[').trim_end_matches(']'))
}

/// What git(1) is to be told so that it asks for a repository with a secret: settings with their values, for its environment,
/// as arguments are for all to see. It does not follow to where the server redirects: it would take the header there.
///
/// # Errors
/// The secret cannot be a header.
pub(super) fn of_repository(secrets: &Secrets, url: &str) -> Result<Vec<(String, String)>, Error> {
    let Some((scheme, host)) = place(url) else { return Ok(Vec::new()) };
    let known = [format!("GIT_AUTH_HEADER.{host}"), format!("GIT_AUTH_TOKEN.{host}")];
    let any = ["GIT_AUTH_HEADER".to_owned(), "GIT_AUTH_TOKEN".to_owned()];
    for id in known.iter().chain(&any) {
        let Some(value) = value(secrets, id)? else { continue };
        let header = match id.starts_with("GIT_AUTH_TOKEN") {
            true => format!("basic {}", STANDARD.encode(format!("x-access-token:{value}"))),
            false => value,
        };
        let path = url.splitn(4, '/').nth(3).unwrap_or_default();
        let scope = format!("{scheme}{host}/{path}");
        let scope = WHOLE_SERVERS.into_iter().find(|s| scope.starts_with(s)).unwrap_or(&scope);
        return Ok(vec![
            (format!("http.{scope}.extraHeader"), format!("Authorization: {header}")),
            (format!("http.{scope}.followRedirects"), "false".to_owned()),
        ]);
    }
    Ok(Vec::new())
}

/// Scheme with its slashes, and host with its port, of a URL of HTTP.
fn place(url: &str) -> Option<(&str, &str)> {
    let scheme = ["http://", "https://"].into_iter().find(|scheme| url.starts_with(scheme))?;
    let authority = url[scheme.len()..].split(['/', '?', '#']).next().unwrap_or_default();
    Some((scheme, authority.rsplit_once('@').map_or(authority, |(_, host)| host)))
}

/// A secret as part of a header. The end of its last line is none of it.
fn value(secrets: &Secrets, id: &str) -> Result<Option<String>, Error> {
    let Some(secret) = secrets.get(id) else { return Ok(None) };
    let text = std::str::from_utf8(secret).unwrap_or("\0").trim_end_matches(['\r', '\n']);
    if text.is_empty() || !text.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) {
        return Err(Error::Invalid(format!(
            "the secret {id} cannot be sent to authorize: want one line of printable ASCII"
        )));
    }
    Ok(Some(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(given: &[(&str, &str)]) -> Secrets {
        given.iter().map(|(id, value)| ((*id).to_owned(), value.as_bytes().to_vec())).collect()
    }

    #[test]
    fn urls_are_asked_with_what_is_for_their_host() {
        let known = secrets(&[
            ("HTTP_AUTH_TOKEN_a.example", "t\n"),
            ("HTTP_AUTH_HEADER_a.example", "other"),
            ("HTTP_AUTH_HEADER_::1", "Basic eA=="),
            ("HTTP_AUTH_TOKEN_", "nobody's"),
        ]);
        for (url, value) in [
            ("https://a.example/f", Some("Bearer t")),
            ("http://a.example:8080?f", Some("Bearer t")),
            ("https://b.example@a.example/f", Some("Bearer t")),
            ("https://[::1]:8080/f", Some("Basic eA==")),
            ("https://[::1]/f", Some("Basic eA==")),
            ("https://b.example/a.example", None),
            ("https://a.example.evil/f", None),
            ("https://a.example@b.example/f", None),
            ("git://a.example/f", None),
        ] {
            assert_eq!(of_url(&known, url).ok().flatten().as_deref(), value, "{url}");
        }
        for bad in ["", "\n", "a\nb", "a\r\nX: y", "\u{e9}"] {
            assert!(of_url(&secrets(&[("HTTP_AUTH_TOKEN_h", bad)]), "http://h/").is_err(), "{bad:?}");
        }
    }

    #[test]
    fn repositories_are_asked_with_the_nearest() {
        let all = [
            ("GIT_AUTH_TOKEN", "any"),
            ("GIT_AUTH_HEADER", "Bearer any"),
            ("GIT_AUTH_TOKEN.a:1", "token"),
            ("GIT_AUTH_HEADER.b", "Bearer b"),
        ];
        let told = |url: &str, given: &[(&str, &str)]| {
            of_repository(&secrets(given), url).ok().and_then(|told| told.into_iter().next())
        };
        let token = format!("Authorization: basic {}", STANDARD.encode("x-access-token:token"));
        for (url, scope, header) in [
            ("https://me:pw@a:1/r.git", "https://a:1/r.git", token.as_str()),
            ("https://b/r.git", "https://b/r.git", "Authorization: Bearer b"),
            ("http://c/r/s.git", "http://c/r/s.git", "Authorization: Bearer any"),
            ("https://github.com/x/y.git", "https://github.com/", "Authorization: Bearer any"),
        ] {
            let wanted = (format!("http.{scope}.extraHeader"), header.to_owned());
            assert_eq!(told(url, &all), Some(wanted), "{url}");
        }
        assert_eq!(told("https://a:1/r.git", &all[3..]), None);
        assert_eq!(told("ssh://git@a/r", &all), None);
        assert_eq!(told("git@a:r", &all), None);
    }
}
