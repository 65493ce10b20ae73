//! `--secret` and `--config` of services: read, and looked up by name as the API wants them by ID.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::api::{Api, Query};
use super::dependencies::Kind;
use super::output::text;

/// A file that is asked for.
#[derive(Debug, PartialEq)]
struct Wanted {
    source: String,
    target: String,
    uid: String,
    gid: String,
    mode: u32,
}

/// `NAME`, or `source=NAME[,target=PATH][,uid=UID][,gid=GID][,mode=MODE]`.
fn read(kind: Kind, text: &str) -> Result<Wanted> {
    let mut wanted = Wanted {
        source: String::new(),
        target: String::new(),
        uid: "0".into(),
        gid: "0".into(),
        mode: 0o444,
    };
    if !text.contains([',', '=']) {
        wanted.source = text.into();
        wanted.target = text.into();
        return Ok(wanted);
    }
    for field in text.split(',') {
        let pair = field.split_once('=').filter(|(key, _)| !key.is_empty());
        let (key, value) =
            pair.with_context(|| format!("invalid field '{field}' must be a key=value pair"))?;
        match key.to_lowercase().as_str() {
            "source" | "src" => wanted.source = value.into(),
            "target" => wanted.target = value.into(),
            "uid" => wanted.uid = value.into(),
            "gid" => wanted.gid = value.into(),
            "mode" => {
                wanted.mode = number(value).with_context(|| format!("invalid mode specified: {value}"))?
            }
            other => bail!("invalid field in {} request: {other}", kind.word()),
        }
    }
    if wanted.source.is_empty() {
        bail!("source is required");
    }
    if wanted.target.is_empty() {
        wanted.target.clone_from(&wanted.source);
    }
    Ok(wanted)
}

/// As Go's ParseUint reads it with base 0: `0440` and `0o440` are octal, `0x120` is hexadecimal, `288` is decimal.
fn number(text: &str) -> Option<u32> {
    let lower = text.to_ascii_lowercase();
    let (digits, radix) = match lower.as_bytes() {
        [b'0', b'x', ..] => (&lower[2..], 16),
        [b'0', b'o', ..] => (&lower[2..], 8),
        [b'0', b'b', ..] => (&lower[2..], 2),
        [b'0', _, ..] => (&lower[1..], 8),
        _ => (lower.as_str(), 10),
    };
    u32::from_str_radix(digits, radix).ok().filter(|_| !digits.starts_with('+'))
}

/// Checks a flag when it is read.
pub fn checked_secret(text: &str) -> Result<String, String> {
    read(Kind::Secret, text).map(|_| text.to_owned()).map_err(|e| format!("{e:#}"))
}

/// Checks a flag when it is read.
pub fn checked_config(text: &str) -> Result<String, String> {
    read(Kind::Config, text).map(|_| text.to_owned()).map_err(|e| format!("{e:#}"))
}

/// The references that the flags ask for, by the IDs that the daemon tells.
pub async fn resolve(api: &Api, kind: Kind, flags: &[String]) -> Result<Vec<Value>> {
    let (word, mut targets, mut wanted) = (kind.word(), BTreeSet::new(), Vec::new());
    for flag in flags {
        let file = read(kind, flag)?;
        if !targets.insert(file.target.clone()) {
            bail!("duplicate {word} target for {} not allowed", file.source);
        }
        wanted.push(file);
    }
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<String> = wanted.iter().map(|w| format!("name={}", w.source)).collect();
    let found = api.get(&format!("/{word}s"), &Query::new().filters(&names)?).await?;
    let id_of = |name: &str| {
        let named = found.as_array().into_iter().flatten().find(|d| text(&d["Spec"], "Name") == name);
        named.map(|d| text(d, "ID")).with_context(|| format!("{word} not found: {name}"))
    };
    let (id, name) = match kind {
        Kind::Secret => ("SecretID", "SecretName"),
        Kind::Config => ("ConfigID", "ConfigName"),
    };
    wanted
        .iter()
        .map(|w| {
            Ok(json!({
                "File": { "Name": w.target, "UID": w.uid, "GID": w.gid, "Mode": w.mode },
                id: id_of(&w.source)?,
                name: w.source,
            }))
        })
        .collect()
}

/// Takes references away by the names of what they refer to, and adds others.
pub fn change(container: &mut Value, kind: Kind, removed: &[String], added: Vec<Value>) {
    let (list, name) = match kind {
        Kind::Secret => ("Secrets", "SecretName"),
        Kind::Config => ("Configs", "ConfigName"),
    };
    let mut all = container[list].as_array().cloned().unwrap_or_default();
    all.retain(|f| !removed.iter().any(|r| f[name] == r.as_str()));
    all.extend(added);
    if let Some(container) = container.as_object_mut() {
        container.remove(list);
        if !all.is_empty() {
            container.insert(list.into(), all.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_as_dockers() {
        let short = read(Kind::Secret, "a").expect("a name");
        assert_eq!((short.target.as_str(), short.mode), ("a", 0o444));
        let long = read(Kind::Secret, "src=a,target=/x,uid=1,gid=2,mode=0400").expect("all of it");
        assert_eq!(
            long,
            Wanted { source: "a".into(), target: "/x".into(), uid: "1".into(), gid: "2".into(), mode: 0o400 }
        );
        for (bad, says) in [
            ("target=x", "source is required"),
            ("source=a,mode=rw", "invalid mode specified"),
            ("source=a,colour=red", "invalid field in config request: colour"),
            ("source=a,x", "invalid field 'x' must be a key=value pair"),
        ] {
            assert!(format!("{:#}", read(Kind::Config, bad).expect_err(bad)).contains(says), "{bad}");
        }
        for (text, value) in [("0440", 0o440), ("0o7", 7), ("288", 288), ("0x10", 16), ("0", 0)] {
            assert_eq!(number(text), Some(value), "{text}");
        }
        assert_eq!((number("09"), number(""), number("-1")), (None, None, None));
    }

    #[test]
    fn references_come_and_go_by_name() {
        let mut container = json!({"Secrets": [{"SecretName": "a"}, {"SecretName": "b"}]});
        change(&mut container, Kind::Secret, &["a".to_owned()], vec![json!({"SecretName": "c"})]);
        assert_eq!(container, json!({"Secrets": [{"SecretName": "b"}, {"SecretName": "c"}]}));
        change(&mut container, Kind::Secret, &["b".to_owned(), "c".to_owned()], Vec::new());
        assert_eq!(container, json!({}));
    }
}
