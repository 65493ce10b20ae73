//! Lines as they are written, joined to the lines that instructions are read from; parser directives; the bodies of
//! here-documents.

use super::error::{SyntaxError, meant};
use super::heredoc::{self, Heredoc};

/// Longest Dockerfile that is read, in bytes.
const LONGEST: usize = 16 << 20;

/// The directives that parsers know (the last two are BuildKit's).
const DIRECTIVES: [&str; 3] = ["escape", "syntax", "check"];

/// One instruction's text: its lines joined, without comments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: String,
    pub(super) heredocs: Vec<Heredoc>,
    /// First and last line it was written on, with the here-documents.
    pub(super) first: usize,
    pub(super) last: usize,
    /// Where its pieces were written: offset in `text`, line, column.
    pieces: Vec<(usize, usize, usize)>,
}

impl Line {
    /// Line and column of a byte of the text.
    pub(super) fn at(&self, offset: usize) -> (usize, usize) {
        let piece = self.pieces.iter().rev().find(|(from, _, _)| *from <= offset);
        let Some((from, line, column)) = piece else { return (self.first, 1) };
        let before = self.text.get(*from..offset.min(self.text.len())).unwrap_or_default();
        (*line, column + before.chars().count())
    }

    /// The place of what is written from `part` on, which is a part of the text.
    pub(super) fn place(&self, part: &str) -> (usize, usize) {
        let offset = (part.as_ptr() as usize).checked_sub(self.text.as_ptr() as usize);
        self.at(offset.filter(|o| *o <= self.text.len()).unwrap_or(0))
    }
}

/// The lines of a Dockerfile.
pub(super) struct Lines {
    pub(super) lines: Vec<Line>,
    /// Character that takes away a special meaning and continues lines: `\` or `` ` ``.
    pub(super) escape: char,
    /// What is taken with a remark.
    pub(super) notes: Vec<String>,
}

/// Cuts a text into the lines of its instructions.
pub(super) fn read(text: &str) -> Result<Lines, SyntaxError> {
    if text.len() > LONGEST {
        return Err(SyntaxError::new((1, 1), format!("a Dockerfile is at most {LONGEST} bytes long")));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let written: Vec<&str> = text.lines().collect();
    let mut notes = Vec::new();
    let escape = directives(&written, &mut notes)?;
    let mut lines = Vec::new();
    let mut next = 0;
    while let Some(line) = written.get(next) {
        if is_comment(line) || line.trim().is_empty() {
            next += 1;
            continue;
        }
        let (mut joined, after) = join(&written, next, escape);
        next = after;
        for opened in heredoc::opened(&joined.text, escape) {
            let at = joined.at(opened.offset);
            let (doc, after) = body(&written, next, opened).ok_or_else(|| {
                SyntaxError::new(at, "unterminated heredoc: its end mark is not on a line of its own below")
            })?;
            next = after;
            joined.heredocs.push(doc);
        }
        joined.last = next;
        lines.push(joined);
    }
    Ok(Lines { lines, escape, notes })
}

/// Reads the comments at the top that are directives: `# name=value`.
fn directives(written: &[&str], notes: &mut Vec<String>) -> Result<char, SyntaxError> {
    let mut escape = None;
    let mut seen: Vec<String> = Vec::new();
    for (number, line) in written.iter().enumerate() {
        // The line that says which shell a script is for may come before.
        if number == 0 && line.starts_with("#!") {
            continue;
        }
        let read = line.trim_start().strip_prefix('#').and_then(|rest| rest.split_once('='));
        let Some((name, value)) = read else { break };
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        if !DIRECTIVES.contains(&name.as_str()) {
            break;
        }
        let at = (number + 1, 1);
        if seen.contains(&name) {
            return Err(SyntaxError::new(at, format!("only one {name} parser directive can be used")));
        }
        match name.as_str() {
            "escape" => {
                let good = match value {
                    "\\" => '\\',
                    "`" => '`',
                    _ => {
                        let why = format!("invalid escape token {value:?}: it is \\ or `");
                        return Err(SyntaxError::new(at, why));
                    }
                };
                escape = Some(good);
            }
            "syntax" => notes.push(format!(
                "the front end {value} that this Dockerfile asks for is not used: Skep has its own"
            )),
            _ => {}
        }
        seen.push(name);
    }
    Ok(escape.unwrap_or('\\'))
}

pub(super) fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

/// The line without the mark that it goes on, if it has one: an escape character that is not escaped itself.
fn continued(line: &str, escape: char) -> Option<&str> {
    let cut = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    if cut.ends_with(escape) { None } else { Some(cut) }
}

/// The instruction that begins on the line `from`, and the line after it.
fn join(written: &[&str], from: usize, escape: char) -> (Line, usize) {
    let mut line = Line {
        text: String::new(),
        heredocs: Vec::new(),
        first: from + 1,
        last: from + 1,
        pieces: Vec::new(),
    };
    let mut next = from;
    while let Some(written) = written.get(next) {
        next += 1;
        let mut piece = *written;
        if next > from + 1 && (is_comment(piece) || piece.trim().is_empty()) {
            continue;
        }
        if next == from + 1 {
            piece = piece.trim_start();
        }
        let indent = written.chars().count() - piece.chars().count();
        line.pieces.push((line.text.len(), next, indent + 1));
        match continued(piece, escape) {
            Some(cut) => line.text.push_str(cut),
            None => {
                line.text.push_str(piece);
                break;
            }
        }
    }
    let kept = line.text.trim_end().len();
    line.text.truncate(kept);
    (line, next)
}

/// The lines of a here-document up to its end mark, and the line after that.
fn body(written: &[&str], from: usize, opened: heredoc::Opened) -> Option<(Heredoc, usize)> {
    let mut content = String::new();
    for (i, line) in written.iter().enumerate().skip(from) {
        let shown = if opened.strip_tabs { line.trim_start_matches('\t') } else { line };
        if shown == opened.name {
            let doc = Heredoc {
                name: opened.name,
                content,
                expand: opened.expand,
                strip_tabs: opened.strip_tabs,
                line: from + 1,
            };
            return Some((doc, i + 1));
        }
        content.push_str(line);
        content.push('\n');
    }
    None
}

/// What an unknown instruction may have been meant as.
pub(super) fn unknown(word: &str, known: &[&str]) -> String {
    format!("unknown instruction: {word}{}", meant(word, known.iter().copied()))
}
