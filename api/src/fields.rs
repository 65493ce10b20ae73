//! Reads a request's JSON object field by field, so that whatever nobody took is refused by name.
//!
//! Docker's client sends every field it knows with its zero value; those are no request at all and
//! pass. Anything else must have been taken. Where the answer has warnings, a field that nobody knows is told there
//! instead: Docker passes it over, and its SDKs send some that it once had.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};

use crate::error::{ApiError, ApiResult};

/// The fields of a request that nobody knows, for an answer that tells of them.
#[derive(Clone, Debug, Default)]
pub struct Unknown(Arc<Mutex<Vec<String>>>);

impl Unknown {
    /// Their paths.
    pub fn paths(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What an answer says of them.
    pub fn warnings(&self) -> Vec<String> {
        let say = |path: &String| format!("{path} is not known to this version of Skep, and was discarded.");
        self.paths().iter().map(say).collect()
    }

    fn add(&self, path: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(path);
    }
}

/// An object of a request, with the path it was found at.
#[derive(Debug)]
pub struct Fields {
    at: String,
    map: Map<String, Value>,
    /// Where unknown fields are told, if not refused.
    unknown: Option<Unknown>,
}

impl Fields {
    /// Parses a request's body, which must be a JSON object.
    pub fn parse(body: &[u8]) -> ApiResult<Self> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Err(ApiError::bad_request("invalid JSON: got EOF while reading request body"));
        }
        let value = serde_json::from_slice(body)
            .map_err(|e| ApiError::bad_request(format!("invalid JSON in the request body: {e}")))?;
        Self::of(value, "")
    }

    /// As [`Self::parse`], for an answer that tells of unknown fields.
    pub fn parse_telling(body: &[u8], unknown: &Unknown) -> ApiResult<Self> {
        let mut fields = Self::parse(body)?;
        fields.unknown = Some(unknown.clone());
        Ok(fields)
    }

    /// The fields of a value; null has none.
    pub fn of(value: Value, at: impl Into<String>) -> ApiResult<Self> {
        let (at, unknown) = (at.into(), None);
        match value {
            Value::Object(map) => Ok(Self { at, map, unknown }),
            Value::Null => Ok(Self { at, map: Map::new(), unknown }),
            _ if at.is_empty() => Err(ApiError::bad_request("the request body must be an object")),
            _ => Err(ApiError::bad_request(format!("{at} must be an object"))),
        }
    }

    /// The fields of a value that was taken of this object.
    pub fn part(&self, value: Value, at: impl Into<String>) -> ApiResult<Self> {
        let mut part = Self::of(value, at)?;
        part.unknown.clone_from(&self.unknown);
        Ok(part)
    }

    /// The path of one of its fields, as a user would write it.
    pub fn path(&self, key: &str) -> String {
        if self.at.is_empty() { key.to_owned() } else { format!("{}.{key}", self.at) }
    }

    fn wrong(&self, key: &str, want: &str) -> ApiError {
        ApiError::bad_request(format!("{} must be {want}", self.path(key)))
    }

    /// Takes a field; absent and null are none. As Go does, accepts other cases of the name.
    pub fn take(&mut self, key: &str) -> Option<Value> {
        let value = self.map.remove(key).or_else(|| {
            let found = self.map.keys().find(|k| k.eq_ignore_ascii_case(key))?.clone();
            self.map.remove(&found)
        });
        value.filter(|v| !v.is_null())
    }

    /// Takes a string; absent is empty.
    pub fn string(&mut self, key: &str) -> ApiResult<String> {
        match self.take(key) {
            None => Ok(String::new()),
            Some(Value::String(s)) => Ok(s),
            Some(_) => Err(self.wrong(key, "a string")),
        }
    }

    /// Takes a string; empty is none.
    pub fn opt_string(&mut self, key: &str) -> ApiResult<Option<String>> {
        Ok(Some(self.string(key)?).filter(|s| !s.is_empty()))
    }

    /// Takes a boolean; absent is none.
    pub fn opt_bool(&mut self, key: &str) -> ApiResult<Option<bool>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(b)),
            Some(_) => Err(self.wrong(key, "true or false")),
        }
    }

    /// Takes a boolean; absent is false.
    pub fn bool(&mut self, key: &str) -> ApiResult<bool> {
        Ok(self.opt_bool(key)?.unwrap_or(false))
    }

    /// Takes an integer; absent is none.
    pub fn opt_i64(&mut self, key: &str) -> ApiResult<Option<i64>> {
        match self.take(key) {
            None => Ok(None),
            Some(v) => v.as_i64().map(Some).ok_or_else(|| self.wrong(key, "a whole number")),
        }
    }

    /// Takes an integer; absent is 0.
    pub fn i64(&mut self, key: &str) -> ApiResult<i64> {
        Ok(self.opt_i64(key)?.unwrap_or(0))
    }

    /// Takes an integer that cannot be negative; absent is none.
    pub fn opt_u64(&mut self, key: &str) -> ApiResult<Option<u64>> {
        match self.take(key) {
            None => Ok(None),
            Some(v) => v.as_u64().map(Some).ok_or_else(|| self.wrong(key, "a whole number, not negative")),
        }
    }

    /// Takes an integer that cannot be negative; absent is 0.
    pub fn u64(&mut self, key: &str) -> ApiResult<u64> {
        Ok(self.opt_u64(key)?.unwrap_or(0))
    }

    /// Takes a port number; absent is 0.
    pub fn port(&mut self, key: &str) -> ApiResult<u16> {
        let number = self.u64(key)?;
        u16::try_from(number)
            .map_err(|_| self.wrong(key, &format!("a port number up to 65535, and is {number}")))
    }

    /// Takes a number; absent is 0.
    pub fn f64(&mut self, key: &str) -> ApiResult<f64> {
        match self.take(key) {
            None => Ok(0.0),
            Some(v) => v.as_f64().ok_or_else(|| self.wrong(key, "a number")),
        }
    }

    /// Takes a list of strings (or one string, as Docker's `Cmd` may be); absent is none.
    pub fn opt_strings(&mut self, key: &str) -> ApiResult<Option<Vec<String>>> {
        let wrong = self.wrong(key, "a list of strings");
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(vec![s])),
            Some(Value::Array(items)) => items
                .into_iter()
                .map(|v| v.as_str().map(str::to_owned).ok_or_else(|| wrong.clone()))
                .collect::<ApiResult<_>>()
                .map(Some),
            Some(_) => Err(wrong),
        }
    }

    /// Takes a list of strings; absent is empty.
    pub fn strings(&mut self, key: &str) -> ApiResult<Vec<String>> {
        Ok(self.opt_strings(key)?.unwrap_or_default())
    }

    /// Takes a list of lists of strings; absent is empty.
    pub fn string_lists(&mut self, key: &str) -> ApiResult<Vec<Vec<String>>> {
        let wrong = self.wrong(key, "a list of lists of strings");
        match self.take(key) {
            None => Ok(Vec::new()),
            Some(value) => serde_json::from_value(value).map_err(|_| wrong),
        }
    }

    /// Takes a map of strings; absent is empty.
    pub fn string_map<M: FromIterator<(String, String)>>(&mut self, key: &str) -> ApiResult<M> {
        let wrong = self.wrong(key, "an object of strings");
        match self.take(key) {
            None => Ok(M::from_iter([])),
            Some(Value::Object(map)) => map
                .into_iter()
                .map(|(k, v)| match v {
                    Value::String(s) => Ok((k, s)),
                    Value::Null => Ok((k, String::new())),
                    _ => Err(wrong.clone()),
                })
                .collect(),
            Some(_) => Err(wrong),
        }
    }

    /// Takes an object; absent has no fields.
    pub fn object(&mut self, key: &str) -> ApiResult<Self> {
        let value = self.take(key).unwrap_or(Value::Null);
        self.part(value, self.path(key))
    }

    /// Takes an object; absent is none.
    pub fn opt_object(&mut self, key: &str) -> ApiResult<Option<Self>> {
        let value = self.take(key);
        value.map(|v| self.part(v, self.path(key))).transpose()
    }

    /// Takes a list of objects; absent is empty.
    pub fn objects(&mut self, key: &str) -> ApiResult<Vec<Self>> {
        let path = self.path(key);
        match self.take(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => {
                items.into_iter().enumerate().map(|(i, v)| self.part(v, format!("{path}[{i}]"))).collect()
            }
            Some(_) => Err(self.wrong(key, "a list")),
        }
    }

    /// Takes a list of objects; absent is none.
    pub fn opt_objects(&mut self, key: &str) -> ApiResult<Option<Vec<Self>>> {
        let given = self.map.get(key).is_some_and(|v| !v.is_null());
        Ok(Some(self.objects(key)?).filter(|list| given || !list.is_empty()))
    }

    /// Takes an object whose members are objects; absent is empty.
    pub fn entries(&mut self, key: &str) -> ApiResult<BTreeMap<String, Value>> {
        match self.take(key) {
            None => Ok(BTreeMap::new()),
            Some(Value::Object(map)) => Ok(map.into_iter().collect()),
            Some(_) => Err(self.wrong(key, "an object")),
        }
    }

    /// A field whose only supported values are these (what Skep does anyhow), and the zero value.
    pub fn only(&mut self, key: &str, values: &[Value], remedy: &str) -> ApiResult<()> {
        match self.take(key) {
            Some(v) if !is_zero(&v) && !values.contains(&v) => {
                Err(ApiError::bad_request(format!("{} = {v} is not supported: {remedy}", self.path(key))))
            }
            _ => Ok(()),
        }
    }

    /// Drops fields that ask for nothing of the daemon (a client's own bookkeeping).
    pub fn drop_all(&mut self, keys: &[&str]) {
        for key in keys {
            self.take(key);
        }
    }

    /// Refuses by name whatever is left with a value; `remedies` tells what to do instead. What is not among them is
    /// unknown, and is told where the answer has a place for it.
    ///
    /// All that the API itself calls a body's own fields begins with a capital. What does not is a library's note to
    /// itself (dockerode sends along all options it was called with, `name` and `hijack` among them), and passes as it
    /// does with Docker; but what has a remedy is the API's, in whatever case.
    pub fn refuse_rest(self, remedies: &[(&str, &str)]) -> ApiResult<()> {
        for (key, value) in &self.map {
            let foreign = self.at.is_empty() && key.starts_with(|c: char| c.is_ascii_lowercase());
            let known = remedies.iter().find(|(name, _)| name.eq_ignore_ascii_case(key));
            if is_zero(value) || (foreign && known.is_none()) {
                continue;
            }
            if let (Some(unknown), None) = (&self.unknown, known) {
                unknown.add(self.path(key));
                continue;
            }
            let remedy = known.map_or("leave it out", |(_, remedy)| remedy);
            return Err(ApiError::bad_request(format!(
                "{} is not supported by this version of Skep: {remedy}",
                self.path(key)
            )));
        }
        Ok(())
    }
}

/// Whether a value asks for nothing: null, false, 0, empty, or made of such alone.
pub fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(items) => items.iter().all(is_zero),
        Value::Object(map) => map.values().all(is_zero),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn zero_values_ask_for_nothing() {
        for zero in [json!(null), json!(0), json!(""), json!([0, 0]), json!({"a": {"b": []}})] {
            assert!(is_zero(&zero), "{zero}");
        }
        for value in [json!(-1), json!("x"), json!([0, 1]), json!({"a": true})] {
            assert!(!is_zero(&value), "{value}");
        }
    }

    #[test]
    fn what_is_not_taken_is_refused_by_its_path() {
        let mut body = Fields::parse(br#"{"HostConfig":{"memory":5,"Links":["a"]}}"#).expect("JSON");
        let mut host = body.object("HostConfig").expect("object");
        assert_eq!(host.i64("Memory"), Ok(5));
        let e = host.refuse_rest(&[("Links", "use a network")]).expect_err("refused");
        assert_eq!(e.message, "HostConfig.Links is not supported by this version of Skep: use a network");
        assert!(body.refuse_rest(&[]).is_ok());
        let rest = |body: &[u8]| Fields::parse(body).and_then(|f| f.refuse_rest(&[])).map_err(|e| e.message);
        assert_eq!(rest(br#"{"name":"web","hijack":true}"#), Ok(()), "a library's own");
        let known = Fields::parse(br#"{"links":["a"]}"#).and_then(|f| f.refuse_rest(&[("Links", "no")]));
        assert!(known.is_err(), "the API's, as Go reads it");
        assert!(rest(br#"{"Name":"web"}"#).is_err());
    }

    #[test]
    fn what_nobody_knows_is_told_where_there_is_a_place_for_it() {
        let unknown = Unknown::default();
        let body =
            br#"{"host":1,"A":{"KernelMemory":5,"Swap":0,"Links":["a"]},"B":[{"c":1}],"D":{"e":{"F":true}}}"#;
        let mut body = Fields::parse_telling(body, &unknown).expect("JSON");
        assert!(body.object("A").expect("object").refuse_rest(&[("Links", "no")]).is_err());
        for part in body.objects("B").expect("objects") {
            assert_eq!(part.refuse_rest(&[]), Ok(()));
        }
        let entries = body.entries("D").expect("entries");
        let e = body.part(entries["e"].clone(), "D.e").expect("object");
        assert_eq!(e.refuse_rest(&[]), Ok(()));
        assert_eq!(body.refuse_rest(&[]), Ok(()));
        assert_eq!(unknown.paths(), ["A.KernelMemory", "B[0].c", "D.e.F"]);
        assert!(unknown.warnings()[0].starts_with("A.KernelMemory is not known"));
    }

    #[test]
    fn wrong_types_name_the_field() {
        let mut body = Fields::parse(br#"{"A":1,"B":"x","C":[1],"D":-1}"#).expect("JSON");
        assert_eq!(body.string("A").expect_err("type").message, "A must be a string");
        assert_eq!(body.i64("B").expect_err("type").message, "B must be a whole number");
        assert_eq!(body.strings("C").expect_err("type").message, "C must be a list of strings");
        assert!(body.u64("D").is_err());
        assert!(Fields::parse(b"").is_err() && Fields::parse(b"[]").is_err());
    }
}
