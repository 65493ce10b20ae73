//! Cron expressions: five fields (minute, hour, day of the month, month, day of the week) with lists, ranges, steps and
//! English names, or a word such as `@hourly`. What is understood is what crontab(5) of Vixie's cron has, without
//! `@reboot`.

use std::ops::RangeInclusive;

/// What a field may hold.
struct Field {
    name: &'static str,
    range: RangeInclusive<u32>,
    /// Names of its values, from the first on.
    names: &'static [&'static str],
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const FIELDS: [Field; 5] = [
    Field { name: "minute", range: 0..=59, names: &[] },
    Field { name: "hour", range: 0..=23, names: &[] },
    Field { name: "day of the month", range: 1..=31, names: &[] },
    Field { name: "month", range: 1..=12, names: &MONTHS },
    // 7 is Sunday, too.
    Field { name: "day of the week", range: 0..=7, names: &DAYS },
];
const WORDS: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// Why an expression is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpressionError {
    /// Not five fields, nor a word.
    #[error(
        "{0:?} is not a schedule: want five fields (minute, hour, day of the month, month, day of the week), or one of \
         @hourly, @daily, @weekly, @monthly and @yearly"
    )]
    Shape(String),
    /// A field that cannot be read.
    #[error(
        "{text:?} cannot be the {field}: want {first} to {last}, `*`, or ranges, steps and lists of them"
    )]
    Field {
        /// What was written.
        text: String,
        /// Which field.
        field: &'static str,
        /// Its least value.
        first: u32,
        /// Its greatest.
        last: u32,
    },
}

/// The times of an expression, a bit for each value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expression {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether a day is right if either of its fields is: where neither begins with a star.
    either_day: bool,
    /// Whether it means so often rather than at a certain hour: where the hour begins with a star.
    pub every_hour: bool,
}

impl Expression {
    /// Reads one.
    pub fn parse(text: &str) -> Result<Self, ExpressionError> {
        let shape = || ExpressionError::Shape(text.to_owned());
        let lower = text.trim().to_ascii_lowercase();
        let spelled = match WORDS.iter().find(|(word, _)| *word == lower) {
            Some((_, fields)) => (*fields).to_owned(),
            None => lower,
        };
        let words: Vec<&str> = spelled.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = words.as_slice() else { return Err(shape()) };
        let read = |i: usize, text: &str| FIELDS[i].read(text);
        let mut weekdays = read(4, weekday)?;
        if weekdays & 1 << 7 != 0 {
            weekdays = weekdays & !(1 << 7) | 1;
        }
        Ok(Self {
            minutes: read(0, minute)?,
            hours: read(1, hour)?,
            days: read(2, day)?,
            months: read(3, month)?,
            weekdays,
            either_day: !day.starts_with(['*', '?']) && !weekday.starts_with(['*', '?']),
            every_hour: hour.starts_with('*'),
        })
    }

    /// Whether a day is one of its; `weekday` counts from Sunday, 0.
    pub fn has_day(&self, month: u32, day: u32, weekday: u32) -> bool {
        let has = |set: u64, value: u32| set & 1 << value != 0;
        let (by_day, by_weekday) = (has(self.days, day), has(self.weekdays, weekday));
        let right = if self.either_day { by_day || by_weekday } else { by_day && by_weekday };
        right && has(self.months, month)
    }

    /// Whether a time of a day is.
    pub fn has_time(&self, hour: u32, minute: u32) -> bool {
        self.hours & 1 << hour != 0 && self.minutes & 1 << minute != 0
    }
}

impl Field {
    fn read(&self, text: &str) -> Result<u64, ExpressionError> {
        let wrong = || ExpressionError::Field {
            text: text.to_owned(),
            field: self.name,
            first: *self.range.start(),
            last: *self.range.end(),
        };
        text.split(',').try_fold(0, |set, part| Ok(set | self.part(part).ok_or_else(wrong)?))
    }

    /// `*`, `5`, `1-5`, each with `/2`; `5/2` is from there on.
    fn part(&self, part: &str) -> Option<u64> {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(step.parse().ok().filter(|n| *n > 0)?)),
            None => (part, None),
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" || range == "?" => (*self.range.start(), *self.range.end()),
            Some((from, to)) => (self.value(from)?, self.value(to)?),
            None => {
                let from = self.value(range)?;
                (from, if step.is_some() { *self.range.end() } else { from })
            }
        };
        (from <= to).then(|| (from..=to).step_by(step.unwrap_or(1)).fold(0, |set, n| set | 1 << n))
    }

    fn value(&self, text: &str) -> Option<u32> {
        let named = self.names.iter().position(|n| *n == text).map(|i| i as u32 + self.range.start());
        let digits = || text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?;
        named.or_else(digits).filter(|n| self.range.contains(n))
    }
}
