//! When an exited container is started again: a pure decision.

use std::time::Duration;

use crate::config::RestartPolicy;

const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// A run at least this long starts the delays anew.
const GOOD_RUN: Duration = Duration::from_secs(10);

/// What is known when a run has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) code: i32,
    pub(super) ran: Duration,
    /// By `stop`, `kill` or `remove`, or as the daemon stops.
    pub(super) by_user: bool,
    /// Restarts so far, in a row.
    pub(super) restarts: u32,
    /// The delay before this run; zero for the first.
    pub(super) last_delay: Duration,
}

/// How long to wait before the next start; none = stays exited.
pub(super) fn next_start(policy: &RestartPolicy, ended: Ended) -> Option<Duration> {
    if ended.by_user {
        return None;
    }
    let again = match policy {
        RestartPolicy::No => false,
        RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
        RestartPolicy::OnFailure(most) => ended.code != 0 && (*most == 0 || ended.restarts < *most),
    };
    again.then(|| {
        if ended.ran >= GOOD_RUN || ended.last_delay.is_zero() {
            FIRST_DELAY
        } else {
            (ended.last_delay * 2).min(LONGEST_DELAY)
        }
    })
}

/// Whether a container that does not run is started when the daemon starts. `was_running` says that it ran until the last
/// daemon ended, be it that this one ended it.
pub(super) fn at_daemon_start(
    policy: &RestartPolicy,
    was_running: bool,
    stopped_by_user: bool,
    code: i32,
) -> bool {
    match policy {
        RestartPolicy::No => false,
        RestartPolicy::Always => true,
        RestartPolicy::UnlessStopped => !stopped_by_user,
        RestartPolicy::OnFailure(_) => was_running && !stopped_by_user && code != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_and_are_reset_by_a_good_run() {
        let s = Duration::from_secs;
        let ms = Duration::from_millis;
        let ended =
            |code, ran, by_user, restarts, last_delay| Ended { code, ran, by_user, restarts, last_delay };
        for (policy, end, wanted) in [
            (RestartPolicy::No, ended(1, s(0), false, 0, s(0)), None),
            (RestartPolicy::Always, ended(0, s(0), false, 0, s(0)), Some(ms(100))),
            (RestartPolicy::Always, ended(0, s(0), false, 1, ms(100)), Some(ms(200))),
            (RestartPolicy::Always, ended(0, s(0), false, 9, s(50)), Some(s(60))),
            (RestartPolicy::Always, ended(0, s(11), false, 9, s(50)), Some(ms(100))),
            (RestartPolicy::Always, ended(0, s(0), true, 0, s(0)), None),
            (RestartPolicy::UnlessStopped, ended(0, s(0), true, 0, s(0)), None),
            (RestartPolicy::OnFailure(0), ended(0, s(0), false, 0, s(0)), None),
            (RestartPolicy::OnFailure(0), ended(1, s(0), false, 99, ms(100)), Some(ms(200))),
            (RestartPolicy::OnFailure(2), ended(1, s(0), false, 1, ms(100)), Some(ms(200))),
            (RestartPolicy::OnFailure(2), ended(1, s(0), false, 2, ms(100)), None),
        ] {
            assert_eq!(next_start(&policy, end), wanted, "{policy:?} {end:?}");
        }
        assert!(at_daemon_start(&RestartPolicy::Always, false, true, 0));
        assert!(!at_daemon_start(&RestartPolicy::UnlessStopped, true, true, 0));
        assert!(!at_daemon_start(&RestartPolicy::OnFailure(0), true, false, 0));
        assert!(at_daemon_start(&RestartPolicy::OnFailure(0), true, false, 7));
        assert!(!at_daemon_start(&RestartPolicy::OnFailure(0), false, false, 7));
    }
}
