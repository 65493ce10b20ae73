//! Generic resources as flags and files name them: `kind=4` for an amount, `kind=name`, once for each, for named units.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde_json::{Value, json};
use skep_proto::v1::GenericResource;

/// Checks a flag when it is read.
pub fn checked(text: &str) -> Result<String, String> {
    match text.contains('=') {
        true => Ok(text.to_owned()),
        false => Err(format!("invalid generic-resource format `{text}` expected `name=value`")),
    }
}

/// Reads all of one place, by kind.
pub fn parse(words: &[String]) -> Result<Vec<GenericResource>> {
    let mut kinds: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for word in words {
        let (kind, value) = match word.split('=').collect::<Vec<_>>()[..] {
            [kind, value] if !kind.trim().is_empty() && !value.trim().is_empty() => {
                (kind.trim(), value.trim())
            }
            _ => bail!(
                "could not parse GenericResource: incorrect term {word}, missing '=' or malformed expression"
            ),
        };
        kinds.entry(kind).or_default().push(value);
    }
    let mut out = Vec::new();
    for (kind, values) in kinds {
        let number = |v: &&str| v.parse::<i64>().ok();
        match (values.as_slice(), values.iter().find_map(number)) {
            ([_], Some(amount)) if amount >= 0 => {
                out.push(GenericResource { kind: kind.into(), name: String::new(), amount });
            }
            ([_], Some(_)) => {
                bail!("could not parse GenericResource: cannot ask for negative resource {kind}")
            }
            (_, Some(_)) => {
                bail!(
                    "could not parse GenericResource: mixed discrete and named resources in expression '{kind}=[{}]'",
                    values.join(" ")
                )
            }
            (_, None) => {
                let mut seen = std::collections::BTreeSet::new();
                if let Some(twice) = values.iter().find(|v| !seen.insert(**v)) {
                    bail!("could not parse GenericResource: {kind}={twice} is named twice");
                }
                let named = |v: &&str| GenericResource { kind: kind.into(), name: (*v).into(), amount: 0 };
                out.extend(values.iter().map(named));
            }
        }
    }
    Ok(out)
}

/// Reads what a service asks for, as the API has it: amounts alone.
pub fn asked(words: &[String]) -> Result<Value> {
    let all = parse(words).map_err(|e| anyhow::anyhow!("invalid generic resource specification: {e}"))?;
    match all.iter().find(|r| !r.name.is_empty()) {
        Some(r) => bail!(
            "invalid generic-resource request `{}={}`, Named Generic Resources is not supported for service create or update",
            r.kind,
            r.name
        ),
        None => {
            let discrete = |r: &GenericResource| json!({ "DiscreteResourceSpec": { "Kind": r.kind, "Value": r.amount } });
            Ok(all.iter().map(discrete).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_and_names_are_told_apart() {
        let read = |words: &[&str]| parse(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
        let of =
            |kind: &str, name: &str, amount| GenericResource { kind: kind.into(), name: name.into(), amount };
        let good = read(&["gpu=one", "apple=4", "gpu=two"]).expect("valid");
        assert_eq!(good, [of("apple", "", 4), of("gpu", "one", 0), of("gpu", "two", 0)]);
        for bad in
            [&["gpu"][..], &["gpu="], &["a=b=c"], &["apple=-1"], &["gpu=one", "gpu=2"], &["gpu=x", "gpu=x"]]
        {
            assert!(read(bad).is_err(), "{bad:?}");
        }
        assert!(asked(&["gpu=one".to_owned()]).is_err_and(|e| e.to_string().contains("not supported")));
    }
}
