//! Makes a tree of a template's tokens.

use serde_json::Value;

use super::functions;
use super::lex::{Item, Kind, Problem, Token};

/// Deepest nesting of actions and parentheses taken: a template of a person never comes near.
const MAX_DEPTH: usize = 100;

/// A piece of a template.
#[derive(Debug)]
pub enum Node {
    Text(String),
    Action(Pipeline),
    If(Branch),
    With(Branch),
    Range(Branch),
    Break,
    Continue,
}

/// `{{if pipeline}} then {{else}} otherwise {{end}}` and its likes.
#[derive(Debug)]
pub struct Branch {
    pub pipeline: Pipeline,
    pub then: Vec<Node>,
    pub otherwise: Vec<Node>,
}

/// `$x := command | command`.
#[derive(Debug)]
pub struct Pipeline {
    /// Variables it sets, and whether they are new.
    pub sets: Vec<String>,
    pub declares: bool,
    pub commands: Vec<Vec<Operand>>,
}

/// A value or function with the fields asked of it.
#[derive(Debug)]
pub struct Operand {
    pub offset: usize,
    pub base: Base,
    pub fields: Vec<String>,
}

/// What an operand starts from.
#[derive(Debug)]
pub enum Base {
    Dot,
    Variable(String),
    Function(String),
    Literal(Value),
    Group(Pipeline),
}

/// Makes the tree.
pub fn parse(items: Vec<Item>) -> Result<Vec<Node>, Problem> {
    let mut parser = Parser { items: items.into_iter(), depth: 0, loops: 0, end: 0 };
    let (nodes, last) = parser.list()?;
    match last {
        Last::Eof => Ok(nodes),
        Last::End => Err((parser.end, "unexpected {{end}}".into())),
        Last::Else(_) => Err((parser.end, "unexpected {{else}}".into())),
    }
}

struct Parser {
    items: std::vec::IntoIter<Item>,
    depth: usize,
    loops: usize,
    /// Where the last action was.
    end: usize,
}

/// What ended a list of nodes.
enum Last {
    Eof,
    End,
    /// `{{else}}`, with the tokens after it.
    Else(Vec<Token>),
}

impl Parser {
    fn list(&mut self) -> Result<(Vec<Node>, Last), Problem> {
        let mut nodes = Vec::new();
        while let Some(item) = self.items.next() {
            let (offset, mut tokens) = match item {
                Item::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Item::Action(offset, tokens) => (offset, tokens),
            };
            self.end = offset;
            let word = match tokens.first().map(|t| &t.kind) {
                Some(Kind::Word(word)) => word.clone(),
                _ => String::new(),
            };
            let known =
                matches!(word.as_str(), "end" | "else" | "if" | "with" | "range" | "break" | "continue");
            if !known {
                nodes.push(Node::Action(pipeline(tokens, offset, 0)?));
                continue;
            }
            tokens.remove(0);
            match word.as_str() {
                "end" => return Ok((nodes, Last::End)),
                "else" => return Ok((nodes, Last::Else(tokens))),
                "break" | "continue" if self.loops == 0 => {
                    return Err((offset, format!("{{{{{word}}}}} outside {{{{range}}}}")));
                }
                "break" => nodes.push(Node::Break),
                "continue" => nodes.push(Node::Continue),
                "if" => nodes.push(Node::If(self.branch(tokens, offset, &word)?)),
                "with" => nodes.push(Node::With(self.branch(tokens, offset, &word)?)),
                _ => nodes.push(Node::Range(self.branch(tokens, offset, &word)?)),
            }
        }
        Ok((nodes, Last::Eof))
    }

    fn branch(&mut self, tokens: Vec<Token>, offset: usize, word: &str) -> Result<Branch, Problem> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err((offset, format!("nested deeper than {MAX_DEPTH}")));
        }
        let inside = usize::from(word == "range");
        let pipeline = pipeline(tokens, offset, 0)?;
        self.loops += inside;
        let (then, last) = self.list()?;
        self.loops -= inside;
        let otherwise = match last {
            Last::End => Vec::new(),
            Last::Eof => return Err((offset, "unexpected EOF".into())),
            Last::Else(mut rest) if !rest.is_empty() => {
                let next = match &rest.remove(0).kind {
                    Kind::Word(next) if next == word && word != "range" => next.clone(),
                    _ => return Err((offset, "unexpected token after {{else}}".into())),
                };
                let inner = self.branch(rest, offset, &next)?;
                vec![if next == "if" { Node::If(inner) } else { Node::With(inner) }]
            }
            Last::Else(_) => match self.list()? {
                (nodes, Last::End) => nodes,
                _ => return Err((offset, "unexpected EOF".into())),
            },
        };
        self.depth -= 1;
        Ok(Branch { pipeline, then, otherwise })
    }
}

fn pipeline(tokens: Vec<Token>, offset: usize, depth: usize) -> Result<Pipeline, Problem> {
    if depth > MAX_DEPTH {
        return Err((offset, format!("nested deeper than {MAX_DEPTH}")));
    }
    let mut out = Pipeline { sets: Vec::new(), declares: false, commands: Vec::new() };
    let set = tokens.iter().position(|t| matches!(t.kind, Kind::Declare | Kind::Assign));
    let mut rest = tokens.as_slice();
    if let Some(at) = set {
        for token in &tokens[..at] {
            match &token.kind {
                Kind::Variable(name) => out.sets.push(name.clone()),
                Kind::Comma => {}
                _ => return Err((token.offset, "unexpected token before := or =".into())),
            }
        }
        out.declares = tokens[at].kind == Kind::Declare;
        rest = &tokens[at + 1..];
    }
    let (mut command, mut at) = (Vec::<Operand>::new(), 0);
    while at < rest.len() {
        let token = &rest[at];
        at += 1;
        let base = match &token.kind {
            Kind::Pipe => {
                if command.is_empty() {
                    return Err((token.offset, "missing value for command".into()));
                }
                out.commands.push(std::mem::take(&mut command));
                continue;
            }
            Kind::Field(name) => {
                match command.last_mut() {
                    Some(before) if token.glued => {
                        // A chain of fields is where Go's parser sees that it is one.
                        let first = usize::from(matches!(before.base, Base::Dot));
                        if before.fields.len() == first {
                            before.offset = token.offset;
                        }
                        before.fields.push(name.clone());
                    }
                    _ => command.push(Operand {
                        offset: token.offset,
                        base: Base::Dot,
                        fields: vec![name.clone()],
                    }),
                }
                continue;
            }
            Kind::Open => {
                let close = closing(&rest[at..]).ok_or((token.offset, "unclosed left paren".to_owned()))?;
                let inner = rest[at..at + close].to_vec();
                at += close + 1;
                Base::Group(pipeline(inner, token.offset, depth + 1)?)
            }
            Kind::Dot => Base::Dot,
            Kind::Variable(name) => Base::Variable(name.clone()),
            Kind::Literal(value) => Base::Literal(value.clone()),
            Kind::Word(name) if functions::is_known(name) => Base::Function(name.clone()),
            Kind::Word(name) => return Err((token.offset, format!("function {name:?} not defined"))),
            Kind::Close => return Err((token.offset, "unexpected right paren".into())),
            Kind::Comma | Kind::Declare | Kind::Assign => {
                return Err((token.offset, "unexpected token in command".into()));
            }
        };
        command.push(Operand { offset: token.offset, base, fields: Vec::new() });
    }
    if command.is_empty() {
        return Err((offset, "missing value for command".into()));
    }
    out.commands.push(command);
    Ok(out)
}

/// Where the parenthesis opened before these tokens is closed.
fn closing(tokens: &[Token]) -> Option<usize> {
    let mut open = 1;
    tokens.iter().position(|t| {
        match t.kind {
            Kind::Open => open += 1,
            Kind::Close => open -= 1,
            _ => {}
        }
        open == 0
    })
}
