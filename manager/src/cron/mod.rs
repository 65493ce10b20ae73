//! When a schedule is due: an expression in a time zone, also on the days on which clocks are changed. Time zones are
//! those this program was built with, so that all managers agree.

mod expression;

use jiff::civil::{Date, Time};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Timestamp, ToSpan};

pub use expression::{Expression, ExpressionError};

/// Days that are looked ahead over: a 29th of February on a certain weekday may be 40 years off.
const LOOK_AHEAD_DAYS: u32 = 366 * 41;

/// Why a schedule cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// The expression cannot be read.
    #[error(transparent)]
    Expression(#[from] ExpressionError),
    /// There is no such time zone.
    #[error("{0:?} is not a time zone: want a name such as Europe/Berlin or UTC")]
    Zone(String),
    /// No day is like that.
    #[error("the schedule {0:?} never comes: there is no such day")]
    Never(String),
}

/// An expression in a time zone.
#[derive(Clone, Debug)]
pub struct Cron {
    expression: Expression,
    zone: TimeZone,
}

impl Cron {
    /// Reads both; an empty zone is UTC.
    pub fn parse(expression: &str, zone: &str) -> Result<Self, CronError> {
        let name = if zone.is_empty() { "UTC" } else { zone };
        let zone = TimeZone::get(name).map_err(|_| CronError::Zone(name.to_owned()))?;
        let cron = Self { expression: Expression::parse(expression)?, zone };
        cron.next_ms(0).ok_or_else(|| CronError::Never(expression.to_owned()))?;
        Ok(cron)
    }

    /// The first time after this one, both in milliseconds since the epoch.
    ///
    /// As with Vixie's cron: a certain time of day that a change of the clocks leaves out is due at once after it, and
    /// one that comes twice is due the first time. What is due so often an hour is so in the hours there are.
    pub fn next_ms(&self, after_ms: i64) -> Option<i64> {
        let after = Timestamp::from_millisecond(after_ms).ok()?;
        let mut date = after.to_zoned(self.zone.clone()).date();
        // A change of the clocks may take a time of the day before over midnight.
        date = date.yesterday().unwrap_or(date);
        for _ in 0..LOOK_AHEAD_DAYS {
            if let Some(found) = self.of_day(date, after) {
                return Some(found.as_millisecond());
            }
            date = date.tomorrow().ok()?;
        }
        None
    }

    /// The first time of a day that is later than `after`.
    fn of_day(&self, date: Date, after: Timestamp) -> Option<Timestamp> {
        let weekday = date.weekday().to_sunday_zero_offset() as u32;
        if !self.expression.has_day(date.month() as u32, date.day() as u32, weekday) {
            return None;
        }
        if self.expression.every_hour { self.of_hours(date, after) } else { self.of_clock(date, after) }
    }

    /// By the minutes there are in the day.
    fn of_hours(&self, date: Date, after: Timestamp) -> Option<Timestamp> {
        let begin = date.to_zoned(self.zone.clone()).ok()?.timestamp();
        let end = date.tomorrow().ok()?.to_zoned(self.zone.clone()).ok()?.timestamp();
        let first = begin.max(after);
        // Zones of our time are whole minutes off.
        let mut at = Timestamp::from_second(first.as_second().div_euclid(60) * 60).ok()?;
        while at < end {
            let clock = self.zone.to_datetime(at);
            let right = self.expression.has_time(clock.hour() as u32, clock.minute() as u32);
            if at > after && at >= begin && right && clock.date() == date {
                return Some(at);
            }
            at = at.checked_add(1.minute()).ok()?;
        }
        None
    }

    /// By what clocks show on the day.
    fn of_clock(&self, date: Date, after: Timestamp) -> Option<Timestamp> {
        let times = (0..24_i8).flat_map(|h| (0..60_i8).map(move |m| (h, m)));
        let times = times.filter(|(h, m)| self.expression.has_time(*h as u32, *m as u32));
        let times: Vec<(i8, i8)> = times.collect();
        // Later on the clock is never earlier in time, as each is due the first time that it is shown.
        let instant = |(h, m): &(i8, i8)| self.instant(date, Time::constant(*h, *m, 0, 0));
        let passed = times.partition_point(|t| instant(t).is_none_or(|at| at <= after));
        times.get(passed).and_then(instant)
    }

    fn instant(&self, date: Date, time: Time) -> Option<Timestamp> {
        let ambiguous = self.zone.to_ambiguous_timestamp(date.to_datetime(time));
        match ambiguous.offset() {
            // The moment of the change: what clocks would show is as far after it as the offset before says.
            AmbiguousOffset::Gap { before, .. } => {
                let with_old = before.to_timestamp(date.to_datetime(time)).ok()?;
                let change = self.zone.preceding(with_old.checked_add(1.second()).ok()?).next()?;
                Some(change.timestamp())
            }
            _ => ambiguous.earlier().ok(),
        }
    }
}
