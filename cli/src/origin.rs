//! What the binary was built from, as `version` tells it. Only the binary's own crate knows.

use std::sync::OnceLock;

use time::OffsetDateTime;
use time::macros::format_description;

/// What a binary was built from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Origin {
    /// Commit, shortened; empty if not known.
    pub commit: &'static str,
    /// When that was made: seconds since the Unix epoch; empty if not known.
    pub built_at: &'static str,
}

static ORIGIN: OnceLock<Origin> = OnceLock::new();

/// Said once, at the start.
pub(crate) fn say(origin: Origin) {
    // A second start in one process would be of the same binary.
    let _ = ORIGIN.set(origin);
}

/// The commit, or Docker's words for none.
pub(crate) fn commit() -> &'static str {
    match ORIGIN.get().map_or("", |o| o.commit) {
        "" => "unknown-commit",
        commit => commit,
    }
}

/// The time in Docker's form, or its words for none.
pub(crate) fn built_at() -> String {
    shown(ORIGIN.get().map_or("", |o| o.built_at)).unwrap_or_else(|| "unknown-buildtime".to_owned())
}

fn shown(seconds: &str) -> Option<String> {
    let time = OffsetDateTime::from_unix_timestamp(seconds.parse().ok()?).ok()?;
    time.format(format_description!(
        "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:9]+00:00"
    ))
    .ok()
}

/// A time of [`built_at`]'s form as `docker version` shows it (Go's `time.ANSIC`); other texts as they are.
pub(crate) fn readable(built_at: &str) -> String {
    let rfc3339 = &time::format_description::well_known::Rfc3339;
    let form = format_description!(
        "[weekday repr:short] [month repr:short] [day padding:space] [hour]:[minute]:[second] [year]"
    );
    let read = OffsetDateTime::parse(built_at, rfc3339).ok();
    read.and_then(|t| t.format(form).ok()).unwrap_or_else(|| built_at.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_dockers_forms() {
        let time = shown("1748606855").expect("a time");
        assert_eq!(time, "2025-05-30T12:07:35.000000000+00:00");
        assert_eq!(readable(&time), "Fri May 30 12:07:35 2025");
        assert_eq!(readable("unknown-buildtime"), "unknown-buildtime");
        assert!(shown("").is_none() && shown("x").is_none());
    }
}
