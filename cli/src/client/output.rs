//! What commands print: lists as tables, by `--format` or only IDs, and what `inspect` found.

use std::fmt;
use std::io::Write;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::{Map, Value};
use skep_registry::system_words::of_io;

use super::template::Template;

/// Our output was closed before all was written (`skep ps | head`): nobody is left to be told.
#[derive(Debug, thiserror::Error)]
#[error("standard output is closed")]
pub struct Closed;

/// Prints a line; an error when nobody reads any more.
macro_rules! say {
    () => { $crate::client::output::write(format_args!("\n")) };
    ($($arg:tt)*) => { $crate::client::output::write(format_args!("{}\n", format_args!($($arg)*))) };
}
pub(crate) use say;

/// Writes to standard output.
pub fn write(text: fmt::Arguments<'_>) -> Result<()> {
    bytes(&mut std::io::stdout(), text.to_string().as_bytes())
}

/// Writes to one of our outputs and flushes it.
pub fn bytes(to: &mut impl Write, bytes: &[u8]) -> Result<()> {
    match to.write_all(bytes).and_then(|()| to.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Err(Closed.into()),
        other => Ok(other?),
    }
}

/// What `inspect` and its likes say of a template that is none; they end with 64 then.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadTemplate(String);

impl BadTemplate {
    /// Exit code.
    pub const CODE: u8 = 64;

    /// Reads a template; what is wrong is told behind these words. `name` is what the template is called.
    pub fn read(source: &str, before: &str, name: &str) -> Result<Template, Self> {
        Template::parse(source).map_err(|e| {
            let said = e.to_string().replacen("template: :", &format!("template: {name}:"), 1);
            Self(format!("{before}: {said}"))
        })
    }
}

/// A field of a list's rows: the name templates know it by, and its heading.
pub type Column = (&'static str, &'static str);

/// The rows of a `ls`. The first column is what `-q` prints.
pub struct Listing {
    columns: &'static [Column],
    table: &'static str,
    rows: Vec<(Map<String, Value>, Map<String, Value>)>,
}

impl Listing {
    /// An empty list, shown as this template's table unless something else is asked for.
    pub fn new(columns: &'static [Column], table: &'static str) -> Self {
        Self { columns, table, rows: Vec::new() }
    }

    /// Adds a row, one cell a column; `labels` answers `.Label "name"`.
    pub fn row(&mut self, cells: Vec<Value>, labels: &Value) {
        let names = self.columns.iter().map(|(name, _)| (*name).to_owned());
        self.rows.push((names.zip(cells).collect(), labels.as_object().cloned().unwrap_or_default()));
    }

    /// Prints it: `table`, `table TEMPLATE`, `json`, a template, or the IDs if quiet and no format is given.
    pub fn print(&self, quiet: bool, format: Option<&str>) -> Result<()> {
        let format = format.map(str::trim).filter(|f| !f.is_empty()).unwrap_or("table");
        let unescaped = format.replace("\\t", "\t").replace("\\n", "\n");
        let (table, source) = match unescaped.as_str() {
            "json" => (false, "{{json .}}"),
            "table" if quiet => return self.quiet(),
            "table" => (true, self.table),
            other => match other.strip_prefix("table ") {
                Some(template) => (true, template.trim()),
                None => (false, other),
            },
        };
        let template = Template::parse(source).context("failed to parse template")?;
        let mut lines = Vec::new();
        if table {
            let headings: Map<_, _> =
                self.columns.iter().map(|(name, heading)| ((*name).to_owned(), (*heading).into())).collect();
            lines.push(template.headings(&Value::Object(headings))?);
        }
        for (fields, labels) in &self.rows {
            lines.push(template.execute(&Value::Object(fields.clone()), Some(labels))?);
        }
        if table {
            align(&mut lines);
        }
        let text: String = lines.into_iter().map(|l| l + "\n").collect();
        write(format_args!("{text}"))
    }

    fn quiet(&self) -> Result<()> {
        for (fields, _) in &self.rows {
            say!("{}", fields[self.columns[0].0].as_str().unwrap_or_default())?;
        }
        Ok(())
    }
}

/// Puts cells, which tabs end, under each other: three blanks apart, ten characters at least.
fn align(lines: &mut [String]) {
    let mut widths = Vec::<usize>::new();
    for line in lines.iter() {
        let mut cells: Vec<_> = line.split('\t').collect();
        cells.pop();
        for (i, cell) in cells.iter().enumerate() {
            let width = (cell.chars().count() + 3).max(10);
            match widths.get_mut(i) {
                Some(held) => *held = width.max(*held),
                None => widths.push(width),
            }
        }
    }
    for line in lines {
        let cells: Vec<_> = line.split('\t').collect();
        let last = cells.len() - 1;
        let padded = |(i, cell): (usize, &&str)| {
            if i == last { (*cell).to_owned() } else { format!("{cell:w$}", w = widths[i]) }
        };
        *line = cells.iter().enumerate().map(padded).collect();
    }
}

/// Gets each name by `get` and prints what was found: a JSON array, or each by a template. What is not
/// there is told afterwards, all of it.
pub async fn inspect<F>(
    names: &[String],
    format: Option<&str>,
    mut get: impl FnMut(String) -> F,
) -> Result<()>
where
    F: Future<Output = Result<Value>>,
{
    let template = match format {
        None | Some("" | "json") => None,
        Some(source) => Some(BadTemplate::read(source, "template parsing error", "")?),
    };
    let (mut found, mut text, mut errors) = (Vec::new(), String::new(), Vec::new());
    for name in names {
        match (get(name.clone()).await, &template) {
            (Ok(value), None) => found.push(value),
            (Ok(value), Some(template)) => match template.execute(&value, None) {
                Ok(shown) => text += &(shown + "\n"),
                Err(e) => errors.push(e.to_string()),
            },
            (Err(e), _) => errors.push(format!("{e:#}")),
        }
    }
    match (&template, format) {
        (Some(_), _) if text.is_empty() => say!()?,
        (Some(_), _) => write(format_args!("{text}"))?,
        (None, Some("json")) => say!("{}", Value::Array(found))?,
        (None, _) => say!("{}", pretty(&Value::Array(found))?)?,
    }
    if errors.is_empty() { Ok(()) } else { bail!(errors.join("\n")) }
}

/// One object by a format: JSON or a template.
pub fn one(value: &Value, format: &str) -> Result<()> {
    match format {
        "json" => say!("{value}"),
        template => {
            let template = BadTemplate::read(template, "template parsing error", "")?;
            say!("{}", template.execute(value, None)?)
        }
    }
}

/// JSON, indented by four as Docker indents it.
fn pretty(value: &Value) -> Result<String> {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter))?;
    Ok(String::from_utf8(out)?)
}

/// A failed system call in Go's words: `open FILE: no such file or directory`.
pub fn os(call: &str, path: &str, e: &std::io::Error) -> anyhow::Error {
    anyhow::anyhow!("{call} {path}: {}", of_io(e))
}

/// `a=1,b=2` of a map of labels.
pub fn labels(map: &Value) -> String {
    let one = |(k, v): (&String, &Value)| format!("{k}={}", v.as_str().unwrap_or_default());
    map.as_object().into_iter().flatten().map(one).collect::<Vec<_>>().join(",")
}

/// A field as text; nothing if it is not there.
pub fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_stand_under_their_headings_and_the_last_has_no_blanks_after_it() {
        let mut lines = vec!["ID\tNAME\tLAST".to_owned(), "a\tlonger than ten\tx".to_owned()];
        align(&mut lines);
        assert_eq!(lines, ["ID        NAME              LAST", "a         longer than ten   x"]);
    }
}
