//! The endpoints of the OCI distribution specification, by the table in `spec.txt`.
//! <https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#endpoints>

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::server::{Answer, Served, digest, manifest, part};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

#[test]
fn every_endpoint_answers_as_the_specification_says() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let registry = Served::start(&dir.path().join("data"), &[])?;
    let mut values = values();
    let mut seen = 0;
    for (number, line) in include_str!("spec.txt").lines().enumerate() {
        if line.is_empty() || line.starts_with('#') || line.starts_with("==") {
            continue;
        }
        seen += 1;
        check(&registry, line, &mut values).with_context(|| format!("spec.txt:{}: {line}", number + 1))?;
    }
    ensure!(seen > 80, "{seen} requests");
    Ok(())
}

/// What the table names.
fn values() -> HashMap<String, String> {
    let image = manifest(b"config", b"layer").to_string();
    let about = |kind: &str, subject: &Value| {
        let mut one = manifest(b"config", b"layer");
        (one["artifactType"], one["subject"]) = (kind.into(), subject.clone());
        one.to_string()
    };
    let list =
        |all: &[Value]| json!({ "manifests": all, "mediaType": INDEX, "schemaVersion": 2 }).to_string();
    let referrer = |text: &str, kind: &str| {
        let mut one = part(MANIFEST, text.as_bytes());
        one["artifactType"] = kind.into();
        one
    };
    let index = list(&[part(MANIFEST, image.as_bytes())]);
    let sbom = about("application/x.sbom", &part(MANIFEST, image.as_bytes()));
    let early = about("application/x.early", &part(MANIFEST, b"none"));
    [
        ("config", digest(b"config")),
        ("layer", digest(b"layer")),
        ("empty", digest(b"")),
        ("none", digest(b"none")),
        ("manifest-type", MANIFEST.into()),
        ("index-type", INDEX.into()),
        ("image", digest(image.as_bytes())),
        ("list", digest(index.as_bytes())),
        ("sbom-digest", digest(sbom.as_bytes())),
        ("early-digest", digest(early.as_bytes())),
        ("referrers", list(&[referrer(&sbom, "application/x.sbom")])),
        ("early-referrers", list(&[referrer(&early, "application/x.early")])),
        ("no-referrers", list(&[])),
        ("manifest", image),
        ("index", index),
        ("sbom", sbom),
        ("early", early),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// Replaces `{NAME}` by its value; what has none stays.
fn filled(text: &str, values: &HashMap<String, String>) -> String {
    values.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
}

fn check(registry: &Served, line: &str, values: &mut HashMap<String, String>) -> Result<()> {
    let (asked, wanted) = line.split_once(" -> ").context("no answer is wanted")?;
    let (asked, body) = asked.split_once(" <").unwrap_or((asked, ""));
    let mut parts = asked.split(" +");
    let (method, path) = parts.next().and_then(|r| r.split_once(' ')).context("no request")?;
    let headers: Vec<String> = parts.map(|h| filled(h, values)).collect();
    let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
    let answer = registry.ask(method, &filled(path, values), &headers, filled(body, values).as_bytes())?;
    judge(&answer, wanted, method, values).with_context(|| format!("{answer:?}"))?;
    if method == "POST" && answer.status == 202 {
        values.insert("upload".into(), answer.header("location").context("no location")?.to_owned());
    }
    Ok(())
}

fn judge(answer: &Answer, wanted: &str, method: &str, values: &HashMap<String, String>) -> Result<()> {
    let (wanted, body) = match wanted.split_once(" =") {
        Some((wanted, body)) => (wanted, Some(filled(body, values))),
        None => (wanted, None),
    };
    let mut words = wanted.split(' ').peekable();
    let status: u16 = words.next().context("no status")?.parse()?;
    ensure!(answer.status == status, "another status");
    let mut code = "";
    if let Some(word) = words.next_if(|w| !w.contains('=')) {
        code = word;
    }
    if status >= 400 && method != "HEAD" {
        let json = answer.json()?;
        ensure!(answer.code() == code, "another code");
        ensure!(json["errors"][0]["message"].as_str().is_some_and(|m| !m.is_empty()), "no message");
        ensure!(answer.header("content-type").is_some_and(|t| t.starts_with("application/json")), "not JSON");
    }
    // A value may hold spaces: it goes on until the next `Header=`.
    let mut headers: Vec<(&str, String)> = Vec::new();
    for word in words {
        let begins = word.split_once('=').filter(|(name, _)| {
            name.starts_with(char::is_uppercase) && name.chars().all(|c| c.is_alphanumeric() || c == '-')
        });
        match (begins, headers.last_mut()) {
            (Some((name, value)), _) => headers.push((name, value.to_owned())),
            (None, Some((_, value))) => *value = format!("{value} {word}"),
            (None, None) => bail!("cannot read {word:?}"),
        }
    }
    for (name, value) in headers {
        let (value, got) = (filled(&value, values), answer.header(name).unwrap_or_default());
        ensure!(got == value, "{name}: want {value:?}");
    }
    match body {
        _ if method == "HEAD" => ensure!(answer.body.is_empty(), "HEAD has a body"),
        Some(body) if body.starts_with('{') => {
            let want: Value = serde_json::from_str(&body)?;
            ensure!(answer.json()? == want, "want {want}");
        }
        Some(body) => ensure!(answer.body == body.as_bytes(), "want {body:?}"),
        None => {}
    }
    Ok(())
}
