//! What commands print: tables, `--format` templates, `-q`, and durations as Docker words them.

use anyhow::{Result, bail};
use serde_json::Value;

/// Rows under headings; every row is also a JSON object for `--format`.
pub struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub fn new(headings: &[&'static str]) -> Self {
        Self { headings: headings.to_vec(), rows: Vec::new() }
    }

    /// Adds a row, one cell a heading.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Prints it: as a table, or each row by a template such as `{{.Name}}\t{{.ID}}` or `{{json .}}`.
    /// A field is a heading without spaces, in any case.
    pub fn print(&self, format: Option<&str>) -> Result<()> {
        let Some(format) = format.filter(|f| *f != "table") else {
            self.print_table();
            return Ok(());
        };
        let format = if format == "json" { "{{json .}}" } else { format };
        for row in &self.rows {
            let fields = self.headings.iter().zip(row);
            let object: serde_json::Map<_, _> =
                fields.map(|(h, c)| (field_name(h), Value::String(c.clone()))).collect();
            println!("{}", render(format, &Value::Object(object))?);
        }
        Ok(())
    }

    fn print_table(&self) {
        let width = |i: usize| {
            let cells = self.rows.iter().map(|r| r[i].chars().count());
            cells.chain([self.headings[i].len()]).max().unwrap_or(0) + 3
        };
        let widths: Vec<_> = (0..self.headings.len()).map(width).collect();
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let line: String = cells.zip(&widths).map(|(c, w)| format!("{c:w$}")).collect();
            println!("{}", line.trim_end());
        };
        line(&mut self.headings.iter().copied());
        for row in &self.rows {
            line(&mut row.iter().map(String::as_str));
        }
    }
}

/// `CONTAINER ID` -> `ContainerId`; matched without regard to case.
fn field_name(heading: &str) -> String {
    heading
        .split_whitespace()
        .map(|w| if w == "ID" { "ID".to_owned() } else { format!("{}{}", &w[..1], w[1..].to_lowercase()) })
        .collect()
}

/// Renders the subset of Go templates that scripts use: `{{.A.B}}`, `{{json .A}}`, `{{.}}`, `\t`, `\n`.
pub fn render(template: &str, value: &Value) -> Result<String> {
    let template = template.replace("\\t", "\t").replace("\\n", "\n");
    let mut out = String::new();
    let mut rest = template.as_str();
    while let Some(start) = rest.find("{{") {
        out.push_str(&rest[..start]);
        let Some(end) = rest[start..].find("}}") else {
            bail!("template {template:?}: a {{{{ without its }}}}");
        };
        let expression = rest[start + 2..start + end].trim();
        match expression.strip_prefix("json ") {
            Some(path) => out.push_str(&serde_json::to_string(&lookup(path.trim(), value)?)?),
            None => match lookup(expression, value)? {
                Value::String(s) => out.push_str(&s),
                Value::Null => out.push_str("<no value>"),
                other => out.push_str(&other.to_string()),
            },
        }
        rest = &rest[start + end + 2..];
    }
    out.push_str(rest);
    Ok(out)
}

fn lookup(path: &str, value: &Value) -> Result<Value> {
    let Some(path) = path.strip_prefix('.') else {
        bail!("template expression {path:?} is not supported: use {{{{.Field}}}} or {{{{json .Field}}}}");
    };
    let mut at = value;
    for name in path.split('.').filter(|n| !n.is_empty()) {
        let found = at.as_object().and_then(|o| o.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)));
        match found {
            Some((_, inner)) => at = inner,
            None => bail!("template: there is no field {name:?} here"),
        }
    }
    Ok(at.clone())
}

/// Prints what `inspect` found: a JSON array, or each object by a template.
pub fn inspect(found: Vec<Value>, format: Option<&str>) -> Result<()> {
    match format {
        None | Some("json") => println!("{}", serde_json::to_string_pretty(&found)?),
        Some(format) => {
            for value in &found {
                println!("{}", render(format, value)?);
            }
        }
    }
    Ok(())
}

/// First 12 characters, without `sha256:`, unless all are wanted.
pub fn short_id(id: &str, whole: bool) -> String {
    if whole { id.to_owned() } else { id.trim_start_matches("sha256:").chars().take(12).collect() }
}

/// "3 minutes", as Docker words it.
pub fn duration(seconds: i64) -> String {
    let s = seconds.max(0);
    match s {
        0 => "Less than a second".into(),
        1 => "1 second".into(),
        2..=59 => format!("{s} seconds"),
        60..=119 => "About a minute".into(),
        120..=3599 => format!("{} minutes", s / 60),
        3600..=7199 => "About an hour".into(),
        7200..=172_799 => format!("{} hours", s / 3600),
        172_800..=1_209_599 => format!("{} days", s / 86_400),
        1_209_600..=5_183_999 => format!("{} weeks", s / 604_800),
        5_184_000..=63_071_999 => format!("{} months", s / 2_592_000),
        _ => format!("{} years", s / 31_536_000),
    }
}

/// Seconds from an RFC 3339 time until now.
pub fn since(rfc3339: &str) -> i64 {
    let then = time::OffsetDateTime::parse(rfc3339, &time::format_description::well_known::Rfc3339);
    then.map_or(0, |t| (time::OffsetDateTime::now_utc() - t).whole_seconds())
}

/// Seconds from a Unix time until now.
pub fn since_unix(seconds: i64) -> i64 {
    time::OffsetDateTime::now_utc().unix_timestamp() - seconds
}

/// `1.23MB`, in powers of 1000.
pub fn size(bytes: i64) -> String {
    let mut n = bytes as f64;
    let mut unit = 0;
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    while n >= 1000.0 && unit + 1 < UNITS.len() {
        n /= 1000.0;
        unit += 1;
    }
    let digits = if n >= 100.0 || unit == 0 {
        0
    } else if n >= 10.0 {
        1
    } else {
        2
    };
    format!("{n:.digits$}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn templates_show_fields_and_refuse_what_they_cannot() {
        let value = json!({"Name": "web", "Spec": {"Replicas": 3}});
        for (template, want) in [
            ("{{.Name}}", "web"),
            ("{{.Spec.Replicas}}\\t{{json .Name}}", "3\t\"web\""),
            ("{{json .Spec}}", "{\"Replicas\":3}"),
            ("plain", "plain"),
        ] {
            assert_eq!(render(template, &value).expect(template), want);
        }
        for bad in ["{{.Nope}}", "{{range .}}", "{{.Name"] {
            assert!(render(bad, &value).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_and_sizes_read_as_docker_words_them() {
        assert_eq!(duration(0), "Less than a second");
        assert_eq!(duration(125), "2 minutes");
        assert_eq!(duration(90_000), "25 hours");
        assert_eq!(size(999), "999B");
        assert_eq!(size(4_280_000), "4.28MB");
    }
}
