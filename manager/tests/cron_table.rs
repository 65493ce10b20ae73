//! Tables of cron expressions, and of the times they come to, also on days on which clocks are changed.

use jiff::Timestamp;
use skep_manager::cron::{Cron, Expression, ExpressionError};

fn minutes(text: &str) -> Vec<u32> {
    let e = Expression::parse(text).expect("an expression");
    (0..60).filter(|m| e.has_time(0, *m)).collect()
}

#[test]
fn fields_are_lists_of_ranges_with_steps() {
    assert_eq!(minutes("*/20 * * * *"), [0, 20, 40]);
    assert_eq!(minutes("5,7-9,50/4 * * * *"), [5, 7, 8, 9, 50, 54, 58]);
    assert_eq!(minutes("10-20/5 * * * *"), [10, 15, 20]);
    assert_eq!(minutes("@hourly"), [0]);
    let named = Expression::parse("0 9 * JAN-mar Mon,wed,7").expect("names");
    assert_eq!(Expression::parse("0 9 ? 1,2,3 0,1,3"), Ok(named));
    assert!(named.has_day(2, 17, 0) && !named.has_day(4, 17, 0) && !named.has_day(2, 17, 2));
    assert!(Expression::parse("*/5 */2 * * *").expect("often").every_hour && !named.every_hour);
}

#[test]
fn either_day_is_enough_where_both_are_said() {
    let both = Expression::parse("0 0 13 * fri").expect("an expression");
    assert!(both.has_day(5, 13, 1) && both.has_day(5, 20, 5) && !both.has_day(5, 14, 6));
    let one = Expression::parse("0 0 */2 * fri").expect("an expression");
    assert!(one.has_day(5, 15, 5) && !one.has_day(5, 15, 4) && !one.has_day(5, 14, 5));
}

#[test]
fn what_is_none_is_told_with_its_field() {
    for (text, field) in [
        ("60 * * * *", "minute"),
        ("* 24 * * *", "hour"),
        ("* * 0 * *", "day of the month"),
        ("* * * 13 *", "month"),
        ("* * * * 8", "day of the week"),
        ("* * * * funday", "day of the week"),
        ("5-1 * * * *", "minute"),
        ("*/0 * * * *", "minute"),
        ("1,,2 * * * *", "minute"),
        ("+5 * * * *", "minute"),
        ("-1 * * * *", "minute"),
    ] {
        match Expression::parse(text) {
            Err(ExpressionError::Field { field: f, .. }) => assert_eq!(f, field, "{text}"),
            other => panic!("{text}: {other:?}"),
        }
    }
    for text in ["", "* * * *", "* * * * * *", "@reboot", "@every 5m"] {
        assert!(matches!(Expression::parse(text), Err(ExpressionError::Shape(_))), "{text}");
    }
}

/// The next times after one, as this zone's clocks show them with their offsets.
fn times(expression: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
    let cron = Cron::parse(expression, zone).expect("a schedule");
    let mut at = after.parse::<Timestamp>().expect("a time").as_millisecond();
    let mut all = Vec::new();
    for _ in 0..count {
        at = cron.next_ms(at).expect("there is a next one");
        let shown = Timestamp::from_millisecond(at).expect("a time");
        let shown = shown.in_tz(if zone.is_empty() { "UTC" } else { zone }).expect("a zone");
        all.push(shown.strftime("%a %m-%d %H:%M%z").to_string());
    }
    all
}

#[test]
fn plain_days() {
    let cases: [(&str, &str, &str, &[&str]); 6] = [
        ("30 4 * * *", "", "2026-01-01T04:30:00Z", &["Fri 01-02 04:30+0000", "Sat 01-03 04:30+0000"]),
        ("30 4 * * *", "", "2026-01-01T04:29:59.999Z", &["Thu 01-01 04:30+0000"]),
        ("0 9 * * mon-fri", "Asia/Tokyo", "2026-01-02T12:00:00Z", &["Mon 01-05 09:00+0900"]),
        ("0 0 29 2 *", "", "2026-01-01T00:00:00Z", &["Tue 02-29 00:00+0000"]),
        ("0 12 31 * *", "", "2026-01-31T12:00:00Z", &["Tue 03-31 12:00+0000"]),
        ("*/40 * * * *", "", "2026-12-31T23:00:00Z", &["Thu 12-31 23:40+0000", "Fri 01-01 00:00+0000"]),
    ];
    for (expression, zone, after, wanted) in cases {
        assert_eq!(times(expression, zone, after, wanted.len()), wanted, "{expression} after {after}");
    }
}

#[test]
fn days_on_which_clocks_are_changed() {
    // Berlin 2026: 03-29 has no 02:00 to 03:00, 10-25 has it twice. New York: 03-08 and 11-01, 01:00 to 02:00.
    // Lord Howe changes by half an hour, at 02:00 on 10-04 to 02:30; Samoa had no 2011-12-30.
    let cases: [(&str, &str, &str, &[&str]); 9] = [
        // Left out: at once after the change, once for all that is left out.
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2026-03-28T00:00:00Z",
            &["Sat 03-28 02:30+0100", "Sun 03-29 03:00+0200", "Mon 03-30 02:30+0200"],
        ),
        (
            "0,30 2,3 * * *",
            "Europe/Berlin",
            "2026-03-28T23:00:00Z",
            &["Sun 03-29 03:00+0200", "Sun 03-29 03:30+0200", "Mon 03-30 02:00+0200"],
        ),
        // Twice: the first time.
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2026-10-24T12:00:00Z",
            &["Sun 10-25 02:30+0200", "Mon 10-26 02:30+0100"],
        ),
        (
            "30 1 * * *",
            "America/New_York",
            "2026-11-01T00:00:00-04:00",
            &["Sun 11-01 01:30-0400", "Mon 11-02 01:30-0500"],
        ),
        // So often an hour: in the hours there are.
        (
            "*/30 * * * *",
            "Europe/Berlin",
            "2026-03-29T00:00:00Z",
            &["Sun 03-29 01:30+0100", "Sun 03-29 03:00+0200", "Sun 03-29 03:30+0200"],
        ),
        (
            "0 * * * *",
            "Europe/Berlin",
            "2026-10-24T23:00:00Z",
            &["Sun 10-25 02:00+0200", "Sun 10-25 02:00+0100", "Sun 10-25 03:00+0100"],
        ),
        (
            "@daily",
            "Europe/Berlin",
            "2026-10-24T00:00:00Z",
            &["Sun 10-25 00:00+0200", "Mon 10-26 00:00+0100"],
        ),
        (
            "15 2 * * *",
            "Australia/Lord_Howe",
            "2026-10-03T00:00:00Z",
            &["Sun 10-04 02:30+1100", "Mon 10-05 02:15+1100"],
        ),
        (
            "0 6 * * *",
            "Pacific/Apia",
            "2011-12-29T20:00:00Z",
            &["Sat 12-31 00:00+1400", "Sat 12-31 06:00+1400"],
        ),
    ];
    for (expression, zone, after, wanted) in cases {
        assert_eq!(times(expression, zone, after, wanted.len()), wanted, "{expression} {zone}");
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let wrong = |e: &str, z: &str| Cron::parse(e, z).expect_err("refused").to_string();
    assert_eq!(wrong("0 0 30 2 *", ""), "the schedule \"0 0 30 2 *\" never comes: there is no such day");
    assert!(wrong("@daily", "Mars/Olympus").contains("is not a time zone"));
    assert!(wrong("nonsense", "").contains("want five fields"));
}

#[test]
fn whatever_comes_often_is_found_at_once() {
    // By what clocks show, each minute of the day: a search that looked at every minute took seconds for a year.
    let cron = Cron::parse("* 0-23 * * *", "Europe/Berlin").expect("a schedule");
    let at = "2026-03-29T00:58:30Z".parse::<Timestamp>().expect("a time").as_millisecond();
    let found: Vec<i64> = std::iter::successors(Some(at), |at| cron.next_ms(*at)).skip(1).take(3).collect();
    assert_eq!(found, [30, 90, 150].map(|s| at + s * 1000));
}
