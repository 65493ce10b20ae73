//! `.dockerignore`: what of a build context is left out.
//! <https://docs.docker.com/build/concepts/context/#dockerignore-files>

use super::glob::Glob;

/// One pattern.
#[derive(Clone, Debug)]
struct Rule {
    /// As it was written.
    written: String,
    glob: Glob,
    /// `!`: what fits is kept after all.
    keeps: bool,
}

/// The patterns of a file, in order.
#[derive(Clone, Debug, Default)]
pub struct Ignore {
    rules: Vec<Rule>,
}

impl Ignore {
    /// Reads the file; an error names line and pattern.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut rules = Vec::new();
        for (number, line) in text.lines().enumerate() {
            if line.starts_with('#') || line.trim().is_empty() {
                continue;
            }
            rules.push(Rule::parse(line.trim()).map_err(|e| format!("line {}: {e}", number + 1))?);
        }
        Ok(Self { rules })
    }

    /// Patterns given one by one, as with `COPY --exclude`.
    pub fn of<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        Ok(Self { rules: patterns.into_iter().map(Rule::parse).collect::<Result<_, _>>()? })
    }

    /// Whether it leaves nothing out.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The pattern that leaves a path (relative, with slashes) out, if one does.
    pub fn excluded_by(&self, path: &str) -> Option<&str> {
        let mut by = None;
        for rule in self.rules.iter().filter(|r| r.fits(path)) {
            by = if rule.keeps { None } else { Some(rule.written.as_str()) };
        }
        by
    }

    /// Whether something below a directory that is left out may be kept after all.
    pub fn may_keep_below(&self, _directory: &str) -> bool {
        self.rules.iter().any(|r| r.keeps)
    }
}

impl Rule {
    fn parse(written: &str) -> Result<Self, String> {
        let (keeps, pattern) = match written.strip_prefix('!') {
            Some(rest) => (true, rest.trim_start()),
            None => (false, written),
        };
        if pattern.is_empty() {
            return Err("illegal exclusion pattern: \"!\"".into());
        }
        let clean = clean(pattern);
        Ok(Self { written: written.to_owned(), glob: Glob::path(&clean)?, keeps })
    }

    /// It fits a path if it fits the path or a directory above it.
    fn fits(&self, path: &str) -> bool {
        self.glob.matches_or_above(path)
    }
}

/// A relative path without `.`, `..` and slashes at its ends.
fn clean(pattern: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}
