//! `WWW-Authenticate`: what a registry wants to see (RFC 7235, and Docker's token specification).

use std::collections::BTreeMap;

/// One way to authenticate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// In lower case: `basic` or `bearer`.
    pub scheme: String,
    /// Parameters by lower-case name.
    pub parameters: BTreeMap<String, String>,
}

impl Challenge {
    /// A parameter; absent is empty.
    pub fn get(&self, name: &str) -> &str {
        self.parameters.get(name).map_or("", String::as_str)
    }
}

/// All challenges of one header's value. What cannot be read ends the list.
pub fn parse(text: &str) -> Vec<Challenge> {
    let mut out: Vec<Challenge> = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c.is_whitespace() || c == '=' || c == ',').unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if let Some(value) = after.strip_prefix('=') {
            let Some((value, left)) = value_of(value) else { break };
            let Some(last) = out.last_mut() else { break };
            last.parameters.insert(word.to_ascii_lowercase(), value);
            rest = left;
        } else {
            if !word.is_empty() {
                out.push(Challenge { scheme: word.to_ascii_lowercase(), parameters: BTreeMap::new() });
            }
            rest = after;
        }
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
    }
    out
}

/// A token or a quoted string, and what follows it.
fn value_of(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|c: char| c.is_whitespace() || c == ',').unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '"' => return Some((value, &quoted[i + 1..])),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let all = parse(
            r#"Bearer realm="https://auth.example/token",service="a \"b\"",scope="repository:x:pull,push", Basic realm=plain"#,
        );
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].scheme, "bearer");
        assert_eq!(all[0].get("realm"), "https://auth.example/token");
        assert_eq!(all[0].get("service"), "a \"b\"");
        assert_eq!(all[0].get("scope"), "repository:x:pull,push");
        assert_eq!((all[1].scheme.as_str(), all[1].get("realm"), all[1].get("none")), ("basic", "plain", ""));
        for odd in ["", "=", "a=b", "Bearer realm=\"open", ",,,", "Basic", "\u{e4}\u{f6}=\""] {
            parse(odd);
        }
    }
}
