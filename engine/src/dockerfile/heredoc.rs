//! Here-documents: `<<EOF`, `<<-EOF`, `<<"EOF"`.

use super::split;

/// A here-document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heredoc {
    /// The word that ends it, and the name of the file that `COPY` makes of it.
    pub name: String,
    /// Its lines, as they are written.
    pub content: String,
    /// Variables in it are replaced: its word was not quoted.
    pub expand: bool,
    /// Tabs at the beginning of lines are none of it.
    pub strip_tabs: bool,
    /// The line it begins on, from 1.
    pub line: usize,
}

impl Heredoc {
    /// Its content without tabs that do not belong to it.
    pub fn text(&self) -> String {
        match self.strip_tabs {
            true => self.content.split_inclusive('\n').map(|l| l.trim_start_matches('\t')).collect(),
            false => self.content.clone(),
        }
    }

    /// Line and column in the Dockerfile of a character of its text.
    pub(super) fn place(&self, character: usize) -> (usize, usize) {
        let before: String = self.text().chars().take(character).collect();
        let line = before.matches('\n').count();
        let column = before.chars().rev().take_while(|c| *c != '\n').count();
        let written = self.content.split('\n').nth(line).unwrap_or_default();
        let tabs = if self.strip_tabs { written.len() - written.trim_start_matches('\t').len() } else { 0 };
        (self.line + line, tabs + column + 1)
    }
}

/// The beginning of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Opened {
    pub(super) name: String,
    pub(super) expand: bool,
    pub(super) strip_tabs: bool,
    /// Where its word begins, in bytes.
    pub(super) offset: usize,
}

/// The here-documents that an instruction opens: of `RUN`, `COPY` and `ADD`, also below `ONBUILD`, but not in the JSON form.
pub(super) fn opened(line: &str, escape: char) -> Vec<Opened> {
    let mut rest = line;
    let mut keyword;
    loop {
        (keyword, rest) = split::first_word(rest);
        if !keyword.eq_ignore_ascii_case("ONBUILD") {
            break;
        }
    }
    if !["RUN", "COPY", "ADD"].iter().any(|k| keyword.eq_ignore_ascii_case(k)) {
        return Vec::new();
    }
    let (_, arguments) = super::flags::cut(rest, escape);
    if split::json(arguments).is_some() {
        return Vec::new();
    }
    let start = line.len() - rest.len();
    split::raw_words(rest, escape)
        .into_iter()
        .filter_map(|w| word(w, escape).map(|o| Opened { offset: start + offset(rest, w), ..o }))
        .collect()
}

fn offset(whole: &str, part: &str) -> usize {
    part.as_ptr() as usize - whole.as_ptr() as usize
}

/// `[N]<<[-]WORD`, the whole of a word.
pub(super) fn word(word: &str, escape: char) -> Option<Opened> {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
    let (strip_tabs, written) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    if written.is_empty() || written.contains('<') {
        return None;
    }
    let name = split::unquote(written, escape)?;
    if name.is_empty() || name.contains(char::is_whitespace) {
        return None;
    }
    Some(Opened { expand: name == written, name, strip_tabs, offset: 0 })
}
