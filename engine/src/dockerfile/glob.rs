//! Patterns of names: of paths (`*` and `?` stop at a slash, `**` does not), as `COPY` and `.dockerignore` have them
//! (Go's filepath.Match with `**`), and of values, as a shell has them.

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    One(char),
    /// Any character; of a path, but a slash.
    Any,
    /// Any number of those.
    Many,
    /// `**`: any number of characters, slashes too.
    All,
    /// Nothing, or what the next token means.
    Maybe,
    /// All up to a slash.
    Directories,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// A pattern, ready to be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    tokens: Vec<Token>,
    path: bool,
}

impl Glob {
    /// A pattern of paths; an error where it is not well formed.
    pub fn path(pattern: &str) -> Result<Self, String> {
        let bad = || format!("syntax error in pattern {pattern:?}");
        let chars: Vec<char> = pattern.chars().collect();
        let mut tokens = Vec::new();
        let mut i = 0;
        while let Some(c) = chars.get(i) {
            i += 1;
            let token = match c {
                '*' if chars.get(i) == Some(&'*') => {
                    // As moby's patternmatcher: `**` is whole directories whether a slash follows or not, but at the
                    // end, and before a text without signs at the beginning, where it is anything.
                    let first = i == 1;
                    let slash = chars.get(i + 1) == Some(&'/');
                    i += 1 + usize::from(slash);
                    let rest = chars.get(i..).unwrap_or_default();
                    let plain = !rest.iter().any(|c| ['*', '?', '[', ']', '\\'].contains(c));
                    if rest.is_empty() || (first && !slash && plain) {
                        Token::All
                    } else {
                        tokens.push(Token::Maybe);
                        Token::Directories
                    }
                }
                '*' => Token::Many,
                '?' => Token::Any,
                '\\' => {
                    i += 1;
                    Token::One(*chars.get(i - 1).ok_or_else(bad)?)
                }
                '[' => class(&chars, &mut i).ok_or_else(bad)?,
                c => Token::One(*c),
            };
            tokens.push(token);
        }
        Ok(Self { tokens, path: true })
    }

    /// A shell's pattern of a value; what is not well formed means itself.
    pub fn shell(pattern: &str) -> Self {
        let mut tokens = Vec::new();
        let mut chars = pattern.chars();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' => Token::Many,
                '?' => Token::Any,
                '\\' => Token::One(chars.next().unwrap_or('\\')),
                c => Token::One(c),
            });
        }
        Self { tokens, path: false }
    }

    /// Whether a text is a pattern at all.
    pub fn is_pattern(text: &str) -> bool {
        text.contains(['*', '?', '['])
    }

    /// The pattern of a path that means `text` and nothing else.
    pub fn quoted(text: &str) -> String {
        text.chars()
            .flat_map(|c| ['*', '?', '[', '\\'].contains(&c).then_some('\\').into_iter().chain([c]))
            .collect()
    }

    /// Whether the whole text fits.
    pub fn matches(&self, text: &str) -> bool {
        self.walk(text, |_| {})
    }

    /// Whether a whole path fits, or a directory above it; in one walk.
    pub fn matches_or_above(&self, path: &str) -> bool {
        let mut above = false;
        self.walk(path, |end| above |= path.as_bytes().get(end) == Some(&b'/')) || above
    }

    /// Where the parts that fit end, of those that begin where the text does; shortest first.
    pub fn ends(&self, text: &str) -> Vec<usize> {
        let mut ends = Vec::new();
        self.walk(text, |end| ends.push(end));
        ends
    }

    /// Whether the whole text fits; `fits` is told of each part before it that does.
    fn walk(&self, text: &str, mut fits: impl FnMut(usize)) -> bool {
        // Which of the tokens may come next, for each character: no pattern makes this slow.
        let n = self.tokens.len();
        let mut here = vec![false; n + 1];
        here[0] = true;
        self.skip(&mut here);
        if here[n] {
            fits(0);
        }
        for (at, c) in text.char_indices() {
            if !here.contains(&true) {
                return false;
            }
            let mut next = vec![false; n + 1];
            for (t, token) in self.tokens.iter().enumerate().filter(|(t, _)| here[*t]) {
                match token {
                    Token::One(one) => next[t + 1] |= *one == c,
                    Token::Any => next[t + 1] |= !(self.path && c == '/'),
                    Token::Many => next[t] |= !(self.path && c == '/'),
                    Token::All => next[t] = true,
                    Token::Maybe => {}
                    Token::Directories => {
                        next[t] = true;
                        next[t + 1] |= c == '/';
                    }
                    Token::Class { negated, ranges } => {
                        let inside = ranges.iter().any(|(a, b)| (*a..=*b).contains(&c));
                        next[t + 1] |= inside != *negated && !(self.path && c == '/');
                    }
                }
            }
            here = next;
            self.skip(&mut here);
            if here[n] {
                fits(at + c.len_utf8());
            }
        }
        here[n]
    }

    /// What may be nothing is passed over.
    fn skip(&self, here: &mut [bool]) {
        for (t, token) in self.tokens.iter().enumerate().filter(|(_, k)| !matches!(k, Token::Directories)) {
            if here[t] && matches!(token, Token::Many | Token::All | Token::Maybe) {
                here[t + 1] = true;
                // What the next token means is nothing, too.
                if let (Token::Maybe, Some(after)) = (token, here.get_mut(t + 2)) {
                    *after = true;
                }
            }
        }
    }
}

/// `[a-z]`, `[^a-z]`, with `\` before what is meant as itself.
fn class(chars: &[char], i: &mut usize) -> Option<Token> {
    let negated = chars.get(*i) == Some(&'^');
    *i += usize::from(negated);
    let mut ranges = Vec::new();
    let one = |i: &mut usize| {
        let c = *chars.get(*i)?;
        *i += 1;
        match c {
            '\\' => {
                *i += 1;
                chars.get(*i - 1).copied()
            }
            '-' | ']' => None,
            c => Some(c),
        }
    };
    while ranges.is_empty() || chars.get(*i)? != &']' {
        let from = one(i)?;
        let to = match chars.get(*i)? {
            '-' => {
                *i += 1;
                one(i)?
            }
            _ => from,
        };
        ranges.push((from, to));
    }
    *i += 1;
    Some(Token::Class { negated, ranges })
}
