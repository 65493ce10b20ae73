//! Permissions as chmod(1) has them: octal ones, or changes of those that a file has (`u+x,go-w`).

use std::sync::Arc;

/// What becomes of a file's permissions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Permissions {
    /// They are these.
    Octal(u32),
    /// They change, one after the other.
    Changes(Arc<[Change]>),
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// Of whom, as the bits `0o700`, `0o070` and `0o007`.
    who: u32,
    operator: char,
    what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    /// Letters of `rwxXst`.
    Letters(String),
    /// As one of `ugo` has them.
    As(char),
}

const ALL: u32 = 0o777;

impl Permissions {
    /// Reads them.
    ///
    /// # Errors
    /// Says what is wrong with the text.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "invalid chmod parameter: {text:?}: want octal permissions such as 755, or changes such as u+x,go-w"
            )
        };
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let octal = u32::from_str_radix(text, 8).ok().filter(|m| *m <= 0o7777);
            return octal.map(Self::Octal).ok_or_else(bad);
        }
        let mut changes = Vec::new();
        for clause in text.split(',') {
            let at = clause.find(['+', '-', '=']).ok_or_else(bad)?;
            let (who, mut rest) = clause.split_at(at);
            let mut mask = 0;
            for c in who.chars() {
                mask |= match c {
                    'a' => ALL,
                    c => of(c).ok_or_else(bad)?,
                };
            }
            let mask = if who.is_empty() { ALL } else { mask };
            while let Some(operator) = rest.chars().next() {
                let after = &rest[1..];
                let end = after.find(['+', '-', '=']).unwrap_or(after.len());
                let letters = &after[..end];
                let what = match letters.chars().next() {
                    Some(c) if letters.len() == 1 && of(c).is_some() => What::As(c),
                    _ if letters.chars().all(|c| "rwxXst".contains(c)) => What::Letters(letters.to_owned()),
                    _ => return Err(bad()),
                };
                changes.push(Change { who: mask, operator, what });
                rest = &after[end..];
            }
        }
        Ok(Self::Changes(changes.into()))
    }

    /// Those of a file that has `mode`.
    pub(crate) fn apply(&self, mode: u32, directory: bool) -> u32 {
        match self {
            Self::Octal(new) => *new,
            Self::Changes(all) => all.iter().fold(mode & 0o7777, |mode, c| c.apply(mode, directory)),
        }
    }
}

/// The bits of a user, a group or others.
fn of(who: char) -> Option<u32> {
    match who {
        'u' => Some(0o700),
        'g' => Some(0o070),
        'o' => Some(0o007),
        _ => None,
    }
}

impl Change {
    fn apply(&self, mode: u32, directory: bool) -> u32 {
        let (mut bits, mut special) = (0, 0);
        match &self.what {
            What::As('u') => bits = (mode >> 6) & 7,
            What::As('g') => bits = (mode >> 3) & 7,
            What::As(_) => bits = mode & 7,
            What::Letters(letters) => {
                for c in letters.chars() {
                    match c {
                        'r' => bits |= 4,
                        'w' => bits |= 2,
                        'x' => bits |= 1,
                        'X' if directory || mode & 0o111 != 0 => bits |= 1,
                        's' => special |= 0o6000,
                        't' => special |= 0o1000,
                        _ => {}
                    }
                }
            }
        }
        let has = |who: u32| self.who & who != 0;
        let may = if has(0o700) { 0o4000 } else { 0 }
            | if has(0o070) { 0o2000 } else { 0 }
            | if has(0o007) { 0o1000 } else { 0 };
        let new = ((bits * 0o111) & self.who) | (special & may);
        match self.operator {
            '+' => mode | new,
            '-' => mode & !new,
            _ => (mode & !(self.who | may)) | new,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_those_of_chmod() {
        for (text, mode, directory, expected) in [
            ("755", 0o644, false, 0o755),
            ("4755", 0o644, false, 0o4755),
            ("u+x", 0o644, false, 0o744),
            ("u+x,go-w", 0o666, false, 0o744),
            ("+x", 0o644, false, 0o755),
            ("a=rX", 0o644, false, 0o444),
            ("a=rX", 0o755, false, 0o555),
            ("a=rX", 0o700, true, 0o555),
            ("go=u", 0o750, false, 0o777),
            ("g=u-w", 0o750, false, 0o750),
            ("u+s,g+s,+t", 0o755, false, 0o7755),
            ("o=", 0o1757, false, 0o750),
            ("u=rwx,g=rx,o=", 0o4000, false, 0o750),
        ] {
            let read = Permissions::parse(text).expect(text);
            assert_eq!(read.apply(mode, directory), expected, "{text} of {mode:o}");
        }
        for text in ["", "rw", "u", "u+q", "8", "77777", "x+u", "u+x,", "u+ug"] {
            assert!(Permissions::parse(text).is_err(), "{text}");
        }
    }
}
