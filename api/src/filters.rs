//! The `filters` query parameter: both of Docker's JSON forms, and the names each listing knows.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;
use serde_json::Value;

use crate::error::{ApiError, ApiResult};

/// Filters of a listing. All names must match; the values of one name are alternatives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, BTreeSet<String>>);

impl Filters {
    /// Parses `{"name":{"value":true}}` or `{"name":["value"]}`; a name not in `known` is refused.
    pub fn parse(text: Option<&str>, known: &[&str]) -> ApiResult<Self> {
        let Some(text) = text.filter(|t| !t.trim().is_empty()) else { return Ok(Self::default()) };
        let bad = || ApiError::bad_request(format!("invalid filter: {text:?} is not a filter map"));
        let Ok(Value::Object(names)) = serde_json::from_str(text) else { return Err(bad()) };
        let mut filters = BTreeMap::new();
        for (name, values) in names {
            if !known.contains(&name.as_str()) {
                return Err(ApiError::bad_request(format!("invalid filter '{name}'")));
            }
            let values: BTreeSet<String> = match values {
                Value::Object(set) => {
                    set.into_iter().filter(|(_, on)| on.as_bool() == Some(true)).map(|(v, _)| v).collect()
                }
                Value::Array(list) => list
                    .into_iter()
                    .map(|v| v.as_str().map(str::to_owned).ok_or_else(bad))
                    .collect::<ApiResult<_>>()?,
                _ => return Err(bad()),
            };
            if !values.is_empty() {
                filters.insert(name, values);
            }
        }
        Ok(Self(filters))
    }

    /// The values given for a name.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.get(name).into_iter().flatten().map(String::as_str)
    }

    /// The same as owned strings, as requests to the control service want them.
    pub fn list(&self, name: &str) -> Vec<String> {
        self.values(name).map(str::to_owned).collect()
    }

    /// Whether the name was given.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Whether the name was not given, or one of its values satisfies `test`.
    pub fn any(&self, name: &str, test: impl FnMut(&str) -> bool) -> bool {
        !self.has(name) || self.values(name).any(test)
    }

    /// The values of a name as regular expressions, which is how Docker reads names. What is none matches nothing.
    pub fn patterns(&self, name: &str) -> Patterns {
        let all = |values: &BTreeSet<String>| values.iter().filter_map(|v| Regex::new(v).ok()).collect();
        Patterns(self.0.get(name).map(all))
    }

    /// Whether labels satisfy every value (`key` or `key=value`) of a name.
    pub fn labels<'a>(&self, name: &str, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.values(name).all(|want| match want.split_once('=') {
            Some((key, value)) => get(key) == Some(value),
            None => get(want).is_some(),
        })
    }

    /// Whether `label` and `label!` let a prune remove what has these labels.
    pub fn prunes<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.labels("label", &get) && (!self.has("label!") || !self.labels("label!", &get))
    }

    /// A filter with one boolean value; absent is none.
    pub fn flag(&self, name: &str) -> ApiResult<Option<bool>> {
        let mut values = self.values(name);
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some("true" | "1" | "True" | "TRUE" | "t"), None) => Ok(Some(true)),
            (Some("false" | "0" | "False" | "FALSE" | "f"), None) => Ok(Some(false)),
            (Some(v), _) => {
                Err(ApiError::bad_request(format!("invalid filter '{name}={v}': must be true or false")))
            }
        }
    }

    /// Refuses a value outside a closed set.
    pub fn check(&self, name: &str, allowed: &[&str]) -> ApiResult<()> {
        match self.values(name).find(|v| !allowed.contains(v)) {
            Some(v) => Err(ApiError::bad_request(format!(
                "invalid filter '{name}={v}': must be one of {}",
                allowed.join(", ")
            ))),
            None => Ok(()),
        }
    }
}

/// What a name may match: any one of these, or, where none was given, anything.
#[derive(Clone, Debug)]
pub struct Patterns(Option<Vec<Regex>>);

impl Patterns {
    /// Whether one of them matches somewhere in the text.
    pub fn match_any(&self, text: &str) -> bool {
        self.0.as_ref().is_none_or(|all| all.iter().any(|p| p.is_match(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_mean_the_same() {
        let new = Filters::parse(Some(r#"{"name":{"a":true,"b":true,"c":false}}"#), &["name"]);
        let old = Filters::parse(Some(r#"{"name":["b","a"]}"#), &["name"]);
        assert_eq!(new, old);
        assert_eq!(new.expect("valid").list("name"), ["a", "b"]);
    }

    #[test]
    fn unknown_names_and_other_shapes_are_refused() {
        let e = Filters::parse(Some(r#"{"nmae":["a"]}"#), &["name"]).expect_err("unknown");
        assert_eq!((e.status.as_u16(), e.message.as_str()), (400, "invalid filter 'nmae'"));
        for bad in ["name=a", "[]", r#"{"name":"a"}"#, r#"{"name":[1]}"#] {
            assert!(Filters::parse(Some(bad), &["name"]).is_err(), "{bad}");
        }
        assert_eq!(Filters::parse(Some(""), &[]), Ok(Filters::default()));
        assert_eq!(Filters::parse(Some("{}"), &[]), Ok(Filters::default()));
    }

    #[test]
    fn labels_match_by_key_or_by_pair() {
        let f = Filters::parse(Some(r#"{"label":["a=1","b"]}"#), &["label"]).expect("valid");
        let of = |pairs: &'static [(&str, &str)]| {
            f.labels("label", move |k| pairs.iter().find(|(n, _)| *n == k).map(|(_, v)| *v))
        };
        assert!(of(&[("a", "1"), ("b", "x")]));
        assert!(!of(&[("a", "2"), ("b", "x")]));
        assert!(!of(&[("a", "1")]));
    }

    #[test]
    fn names_are_regular_expressions() {
        let matches = |pattern: &str, text: &str| {
            let f = Filters::parse(Some(&serde_json::json!({ "name": [pattern] }).to_string()), &["name"]);
            f.expect("valid").patterns("name").match_any(text)
        };
        for (pattern, text, wanted) in [
            ("eb", "web-1", true),
            ("^web$", "web-1", false),
            ("^web-[0-9]$", "web-1", true),
            ("^(web|db)", "db-2", true),
            ("w[eb", "w[eb", false),
        ] {
            assert_eq!(matches(pattern, text), wanted, "{pattern} {text}");
        }
        assert!(Filters::default().patterns("name").match_any("anything"));
    }

    #[test]
    fn flags_are_true_or_false() {
        let f = |v: &str| Filters::parse(Some(&format!(r#"{{"d":["{v}"]}}"#)), &["d"]).expect("valid");
        assert_eq!(f("1").flag("d"), Ok(Some(true)));
        assert_eq!(f("false").flag("d"), Ok(Some(false)));
        assert!(f("maybe").flag("d").is_err());
    }
}
