//! Go's text/template, as far as `--format` is used: actions, pipelines, variables, `if`, `with`,
//! `range`, trimming, the predefined functions and Docker's own (`json`, `join`, `split`, `title`, ...).
//!
//! Sources: <https://pkg.go.dev/text/template>, <https://docs.docker.com/engine/cli/formatting/>.
//! Values are the daemon's JSON: an object's field is looked up by its exact name, else without regard to
//! case, since Docker's own client knows some fields by their Go names (`.ID` for `Id`).

mod evaluate;
mod functions;
mod lex;
mod parse;

use serde_json::{Map, Value};

/// A template that cannot be read, or that failed on a value. Worded as Go words it.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// It is not a template.
    #[error("template: :{line}: {reason}")]
    Syntax {
        /// Line, from one.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A value does not have what the template wants.
    #[error("template parsing error: template: :{line}:{column}: executing \"\" at <{at}>: {reason}")]
    Execution {
        /// Line, from one.
        line: usize,
        /// Column, from zero.
        column: usize,
        /// The part of the template.
        at: String,
        /// What is wrong.
        reason: String,
    },
}

/// A template ready to be executed.
#[derive(Debug)]
pub struct Template {
    source: String,
    nodes: Vec<parse::Node>,
}

impl Template {
    /// Reads a template.
    pub fn parse(source: &str) -> Result<Self, TemplateError> {
        let syntax = |(offset, reason): (usize, String)| TemplateError::Syntax {
            line: position(source, offset).0,
            reason,
        };
        let items = lex::lex(source).map_err(syntax)?;
        let nodes = parse::parse(items).map_err(syntax)?;
        Ok(Self { source: source.to_owned(), nodes })
    }

    /// Applies it to a value. `labels` answers `.Label "name"` in lists.
    pub fn execute(
        &self,
        value: &Value,
        labels: Option<&Map<String, Value>>,
    ) -> Result<String, TemplateError> {
        let mut run = evaluate::Run::new(value, labels, false);
        run.nodes(&self.nodes, value).map_err(|e| self.locate(e))?;
        Ok(run.into_output())
    }

    /// Applies it to the headings of a table: functions leave them as they are.
    pub fn headings(&self, headings: &Value) -> Result<String, TemplateError> {
        let mut run = evaluate::Run::new(headings, None, true);
        run.nodes(&self.nodes, headings).map_err(|e| self.locate(e))?;
        Ok(run.into_output())
    }

    fn locate(&self, e: evaluate::Failure) -> TemplateError {
        let (line, column) = position(&self.source, e.offset);
        TemplateError::Execution { line, column, at: e.at, reason: e.reason }
    }
}

/// Line from one, column from zero.
fn position(source: &str, offset: usize) -> (usize, usize) {
    let before = &source[..offset.min(source.len())];
    let line = before.matches('\n').count() + 1;
    (line, before.len() - before.rfind('\n').map_or(0, |at| at + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(template: &str, value: &Value) -> Result<String, TemplateError> {
        Template::parse(template)?.execute(value, None)
    }

    #[test]
    fn templates_give_what_go_gives() {
        let value = json!({
            "Id": "sha256:abc", "Name": "web", "On": true, "Off": false, "Nothing": null, "N": 3,
            "Spec": {"Replicas": 3, "Labels": {"b": "2", "a": "1"}},
            "List": ["x", "y", "z"], "Ports": [{"P": 80}, {"P": 443}], "Empty": [],
        });
        for (template, want) in [
            ("plain", "plain"),
            ("{{.Name}}", "web"),
            ("{{.ID}}", "sha256:abc"),
            ("{{ .Spec.Replicas }}-{{json .Name}}", "3-\"web\""),
            ("{{json .Spec}}", r#"{"Labels":{"a":"1","b":"2"},"Replicas":3}"#),
            ("{{.List}} {{.Spec.Labels}} {{.Nothing}}", "[x y z] map[a:1 b:2] <no value>"),
            ("{{.Spec.Labels.a}}{{.Spec.Labels.z}}", "1<no value>"),
            ("{{range .List}}{{.}},{{end}}", "x,y,z,"),
            ("{{range $i, $e := .List}}{{$i}}={{$e}} {{end}}", "0=x 1=y 2=z "),
            ("{{range $k, $v := .Spec.Labels}}{{$k}}:{{$v}};{{end}}", "a:1;b:2;"),
            ("{{range .Empty}}x{{else}}none{{end}}", "none"),
            ("{{range .Ports}}{{.P}}{{if eq .P 80}}{{continue}}{{end}}!{{end}}", "80443!"),
            ("{{if .On}}yes{{else}}no{{end}}{{if .Off}}yes{{else if .N}}n{{end}}", "yesn"),
            ("{{with .Spec}}{{.Replicas}}{{end}}{{with .Nothing}}x{{else}}y{{end}}", "3y"),
            ("a {{- .Name -}} b", "awebb"),
            ("{{/* said to nobody */}}x", "x"),
            ("{{$n := .Name}}{{$n}}{{$n = \"db\"}}{{$n}}{{$.Name}}", "webdbweb"),
            (
                "{{join .List \", \"}} {{upper .Name}} {{title .Name}} {{pad .Name 1 2}}|",
                "x, y, z WEB Web  web  |",
            ),
            ("{{index .List 1}} {{index .Spec.Labels \"a\"}} {{len .List}}", "y 1 3"),
            ("{{(index .Ports 1).P}}", "443"),
            ("{{.Name | printf \"%s-%d-%q\" \"a\" 5}}", "a-5-\"web\""),
            ("{{printf \"%.3s|%5d|%-4s|%v\" .Name 7 \"ab\" true}}", "web|    7|ab  |true"),
            ("{{truncate .Id 6}} {{slice .Id 7 10}}", "sha256 abc"),
            (
                "{{and .On .N}} {{or .Off .Name}} {{not .On}} {{eq .Name \"web\" \"x\"}} {{gt .N 2}}",
                "3 web false true true",
            ),
            ("{{range split .Id \":\"}}[{{.}}]{{end}}", "[sha256][abc]"),
            ("{{`raw {{`}}{{\"a\\tb\"}}{{println .N}}", "raw {{a\tb3\n"),
            ("{{if and .On (not .Off)}}both{{end}}", "both"),
            // A field a daemon leaves out is nothing to a condition.
            ("{{if .Health}}x{{else}}none{{end}}", "none"),
        ] {
            assert_eq!(render(template, &value).expect(template), want, "{template}");
        }
    }

    #[test]
    fn what_is_not_there_or_not_a_template_is_told_as_go_tells_it() {
        let value = json!({"Name": "web", "List": [1]});
        for (template, want) in [
            ("{{.Nope}}", "template: :1:2: executing \"\" at <.Nope>: map has no entry for key \"Nope\""),
            (
                "a\n{{.Name.Deep}}",
                "template: :2:7: executing \"\" at <.Name.Deep>: can't evaluate field Deep",
            ),
            ("{{.Nope.On.End}}", "template: :1:7: executing \"\" at <.Nope.On.End>: map has no entry"),
            ("{{.Name", "template: :1: unclosed action"),
            ("{{if .Name}}", "unexpected EOF"),
            ("{{end}}", "unexpected {{end}}"),
            ("{{nope .Name}}", "function \"nope\" not defined"),
            ("{{index .List 5}}", "index out of range: 5"),
            ("{{$x}}", "undefined variable \"$x\""),
            ("{{}}", "missing value for command"),
            ("{{break}}", "outside"),
        ] {
            let error = render(template, &value).expect_err(template).to_string();
            assert!(error.contains(want), "{template}: {error}");
        }
    }

    #[test]
    fn headings_are_left_alone_by_functions() {
        let headings = json!({"Names": "NAMES", "ID": "CONTAINER ID"});
        let template = Template::parse("{{lower .Names}} {{json .ID}}").expect("a template");
        assert_eq!(template.headings(&headings).expect("headings"), "NAMES CONTAINER ID");
    }

    #[test]
    fn labels_are_asked_for_by_name() {
        let labels = json!({"a": "1"});
        let template = Template::parse("{{.Label \"a\"}}{{.Label \"none\"}}").expect("a template");
        assert_eq!(template.execute(&json!({}), labels.as_object()).expect("labels"), "1");
    }

    #[test]
    fn deep_nesting_is_refused_not_a_crash() {
        let deep = format!("{{{{{}.A{}}}}}", "(".repeat(100_000), ")".repeat(100_000));
        assert!(Template::parse(&deep).is_err());
        assert!(Template::parse(&"{{if .A}}".repeat(100_000)).is_err());
    }
}
