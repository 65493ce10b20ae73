//! Executes a template's tree on a value.

use serde_json::{Map, Value};

use super::functions::{self, truth};
use super::parse::{Base, Branch, Node, Operand, Pipeline};

/// What a template wanted of a value and did not get.
#[derive(Debug)]
pub struct Failure {
    pub offset: usize,
    pub at: String,
    pub reason: String,
    /// Only a field is not there: a condition takes that for "no".
    pub absent: bool,
}

/// How a list of nodes ended.
#[derive(PartialEq)]
pub enum Flow {
    On,
    Break,
    Continue,
}

/// One execution.
pub struct Run<'a> {
    labels: Option<&'a Map<String, Value>>,
    headings: bool,
    variables: Vec<(String, Value)>,
    output: String,
}

impl<'a> Run<'a> {
    pub fn new(root: &Value, labels: Option<&'a Map<String, Value>>, headings: bool) -> Self {
        Self { labels, headings, variables: vec![("$".into(), root.clone())], output: String::new() }
    }

    pub fn into_output(self) -> String {
        self.output
    }

    pub fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, Failure> {
        for node in nodes {
            let flow = match node {
                Node::Text(text) => {
                    self.output.push_str(text);
                    Flow::On
                }
                Node::Action(pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    if pipeline.sets.is_empty() {
                        self.output.push_str(&functions::show(&value));
                    }
                    Flow::On
                }
                Node::If(branch) => self.scoped(|run| {
                    let yes = truth(&run.condition(&branch.pipeline, dot)?);
                    run.nodes(if yes { &branch.then } else { &branch.otherwise }, dot)
                })?,
                Node::With(branch) => self.scoped(|run| {
                    let value = run.condition(&branch.pipeline, dot)?;
                    if truth(&value) {
                        run.nodes(&branch.then, &value)
                    } else {
                        run.nodes(&branch.otherwise, dot)
                    }
                })?,
                Node::Range(branch) => self.scoped(|run| run.range(branch, dot))?,
                Node::Break => Flow::Break,
                Node::Continue => Flow::Continue,
            };
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    /// Variables declared inside are gone afterwards.
    fn scoped<T>(&mut self, act: impl FnOnce(&mut Self) -> Result<T, Failure>) -> Result<T, Failure> {
        let outside = self.variables.len();
        let result = act(self);
        self.variables.truncate(outside);
        result
    }

    /// A pipeline whose absent field means "no".
    fn condition(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, Failure> {
        match self.pipeline(pipeline, dot) {
            Err(e) if e.absent => Ok(Value::Null),
            other => other,
        }
    }

    fn range(&mut self, branch: &Branch, dot: &Value) -> Result<Flow, Failure> {
        let over = self.commands(&branch.pipeline, dot)?;
        let entries: Vec<(Value, Value)> = match over {
            Value::Null => Vec::new(),
            Value::Array(list) => list.into_iter().enumerate().map(|(i, v)| (Value::from(i), v)).collect(),
            Value::Object(map) => map.into_iter().map(|(k, v)| (Value::from(k), v)).collect(),
            Value::Number(n) if n.is_i64() => {
                (0..n.as_i64().unwrap_or(0)).map(|i| (Value::from(i), Value::from(i))).collect()
            }
            other => {
                let operand = &branch.pipeline.commands[0][0];
                let reason = format!("range can't iterate over {}", functions::show(&other));
                return Err(fail(operand, reason));
            }
        };
        if entries.is_empty() {
            return self.nodes(&branch.otherwise, dot);
        }
        for (key, value) in entries {
            let flow = self.scoped(|run| {
                match branch.pipeline.sets.as_slice() {
                    [] => {}
                    [one] => run.variables.push((one.clone(), value.clone())),
                    [first, second, ..] => {
                        run.variables.push((first.clone(), key));
                        run.variables.push((second.clone(), value.clone()));
                    }
                }
                run.nodes(&branch.then, &value)
            })?;
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::On)
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, Failure> {
        let value = self.commands(pipeline, dot)?;
        for name in &pipeline.sets {
            if pipeline.declares {
                self.variables.push((name.clone(), value.clone()));
                continue;
            }
            match self.variables.iter_mut().rev().find(|(n, _)| n == name) {
                Some((_, held)) => *held = value.clone(),
                None => {
                    let operand = &pipeline.commands[0][0];
                    return Err(fail(operand, format!("undefined variable {name:?}")));
                }
            }
        }
        Ok(value)
    }

    fn commands(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, Failure> {
        let mut piped = None;
        for command in &pipeline.commands {
            piped = Some(self.command(command, piped.take(), dot)?);
        }
        Ok(piped.unwrap_or(Value::Null))
    }

    fn command(&mut self, command: &[Operand], piped: Option<Value>, dot: &Value) -> Result<Value, Failure> {
        let (first, rest) = (&command[0], &command[1..]);
        if let Base::Function(name) = &first.base {
            let lenient = matches!(name.as_str(), "and" | "or" | "not");
            let mut args = Vec::new();
            for operand in rest {
                match self.operand(operand, dot) {
                    Err(e) if lenient && e.absent => args.push(Value::Null),
                    other => args.push(other?),
                }
            }
            args.extend(piped);
            if self.headings
                && let Some(heading) = functions::heading(name, &args)
            {
                return Ok(heading);
            }
            let value = functions::call(name, &args)
                .map_err(|reason| fail(first, format!("error calling {name}: {reason}")))?;
            // A row of a list is marked so that it may stand in HTML, as Go's encoder does for what encodes itself.
            let row = name == "json" && self.labels.is_some() && args.first().is_some_and(Value::is_object);
            return walk(first, if row { functions::safe_in_html(&value) } else { value });
        }
        if let (Base::Dot, [name], [argument]) = (&first.base, first.fields.as_slice(), rest)
            && name == "Label"
        {
            let asked = self.operand(argument, dot)?;
            let found = asked.as_str().and_then(|name| self.labels?.get(name)).cloned();
            return Ok(found.unwrap_or_else(|| if self.headings { asked } else { "".into() }));
        }
        if !rest.is_empty() || piped.is_some() {
            return Err(fail(first, format!("can't give argument to non-function {}", source(first))));
        }
        self.operand(first, dot)
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, Failure> {
        let base = match &operand.base {
            Base::Dot => dot.clone(),
            Base::Literal(value) => value.clone(),
            Base::Group(pipeline) => self.pipeline(pipeline, dot)?,
            Base::Function(name) => functions::call(name, &[])
                .map_err(|reason| fail(operand, format!("error calling {name}: {reason}")))?,
            Base::Variable(name) => match self.variables.iter().rev().find(|(n, _)| n == name) {
                Some((_, value)) => value.clone(),
                None => return Err(fail(operand, format!("undefined variable {name:?}"))),
            },
        };
        walk(operand, base)
    }
}

/// Fields whose keys are the user's own.
const OF_USER: &[&str] = &["Attributes", "Labels"];

/// Follows the fields of an operand from its base.
fn walk(operand: &Operand, base: Value) -> Result<Value, Failure> {
    let mut at = base;
    for (i, name) in operand.fields.iter().enumerate() {
        let of_user = i.checked_sub(1).is_some_and(|above| OF_USER.contains(&operand.fields[above].as_str()));
        at = match at {
            // A map of Go's where it has one, not a structure: what is not in it has no value.
            Value::Object(map) if of_user && !map.contains_key(name) => Value::Null,
            Value::Object(mut map) => {
                let exact = map.remove(name);
                let found = exact
                    .or_else(|| map.into_iter().find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v));
                found.ok_or_else(|| Failure {
                    absent: true,
                    ..fail(operand, format!("map has no entry for key {name:?}"))
                })?
            }
            Value::Null => {
                let reason = format!("nil pointer evaluating interface {{}}.{name}");
                return Err(Failure { absent: true, ..fail(operand, reason) });
            }
            other => {
                let kind = match other {
                    Value::String(_) => "string",
                    Value::Bool(_) => "bool",
                    Value::Number(_) => "number",
                    _ => "[]interface {}",
                };
                return Err(fail(operand, format!("can't evaluate field {name} in type {kind}")));
            }
        };
    }
    Ok(at)
}

fn fail(operand: &Operand, reason: String) -> Failure {
    Failure { offset: operand.offset, at: source(operand), reason, absent: false }
}

/// The operand as it was written.
fn source(operand: &Operand) -> String {
    let base = match &operand.base {
        Base::Dot if operand.fields.is_empty() => ".".to_owned(),
        Base::Dot => String::new(),
        Base::Variable(name) | Base::Function(name) => name.clone(),
        Base::Literal(value) => value.to_string(),
        Base::Group(_) => "(...)".to_owned(),
    };
    operand.fields.iter().fold(base, |text, field| text + "." + field)
}
