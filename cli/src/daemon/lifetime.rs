//! What becomes of containers when the daemon stops (`live-restore`, `shutdown-timeout`), and of the daemon when memory runs
//! out (`oom-score-adjust`).

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::file::File;

/// The flags.
#[derive(Args, Clone, Debug, Default)]
pub struct LifetimeArgs {
    /// Let containers go on when the daemon stops [default: true, other than with dockerd]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub live_restore: Option<bool>,
    /// Seconds that a daemon which stops waits for containers that stop with it; -1 = as long as they take [default: 15]
    #[arg(long, allow_negative_numbers = true, value_name = "SECONDS")]
    pub shutdown_timeout: Option<i64>,
    /// Whether the kernel ends the daemon, or rather others, when memory runs out: oom_score_adj, -1000 to 1000
    #[arg(long, allow_negative_numbers = true, value_name = "SCORE")]
    pub oom_score_adjust: Option<i32>,
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// Containers outlive the daemon.
    pub live_restore: bool,
    /// How long those that do not are waited for; none = as long as they take.
    pub patience: Option<Duration>,
    /// The daemon's own oom_score_adj; none = as it was started.
    pub oom_score: Option<i32>,
}

/// Decides from both; flags win.
pub fn decide(args: LifetimeArgs, file: &File) -> Result<Lifetime> {
    let seconds = args.shutdown_timeout.or(file.shutdown_timeout).unwrap_or(15);
    let patience = match u64::try_from(seconds) {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) if seconds == -1 => None,
        Err(_) => bail!("--shutdown-timeout {seconds}: want seconds, or -1 for as long as it takes"),
    };
    let oom_score = args.oom_score_adjust.or(file.oom_score_adjust).filter(|score| *score != 0);
    if let Some(score) = oom_score.filter(|score| !(-1000..=1000).contains(score)) {
        bail!("--oom-score-adjust {score}: want -1000 to 1000");
    }
    let live_restore = args.live_restore.or(file.live_restore).unwrap_or(true);
    Ok(Lifetime { live_restore, patience, oom_score })
}

/// Sets the daemon's score (proc_pid_oom_score_adj(5)).
pub fn set_oom_score(score: Option<i32>) -> Result<()> {
    let Some(score) = score else { return Ok(()) };
    std::fs::write("/proc/self/oom_score_adj", score.to_string())
        .with_context(|| format!("--oom-score-adjust {score}: write /proc/self/oom_score_adj"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_go_on_unless_it_is_said_otherwise() {
        let told = |json: &str| {
            let file: File = serde_json::from_str(json).expect("a file");
            decide(LifetimeArgs::default(), &file).map_err(|e| format!("{e:#}"))
        };
        let usual = Lifetime { live_restore: true, patience: Some(Duration::from_secs(15)), oom_score: None };
        assert_eq!(told("{}"), Ok(usual));
        let other = r#"{ "live-restore": false, "shutdown-timeout": -1, "oom-score-adjust": -500 }"#;
        let other_way = Lifetime { live_restore: false, patience: None, oom_score: Some(-500) };
        assert_eq!(told(other), Ok(other_way));
        for (bad, reason) in [
            (r#"{ "shutdown-timeout": -2 }"#, "--shutdown-timeout -2"),
            (r#"{ "oom-score-adjust": 2000 }"#, "2000"),
        ] {
            assert!(told(bad).expect_err(bad).contains(reason));
        }
    }
}
