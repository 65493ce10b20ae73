//! dockerd's settings in `skep daemon`'s file, each judged by its effect: networks, containers, transfers, the daemon itself.

mod bridge;
mod containers;
mod lifetime;
mod transfers;

use anyhow::{Context, Result, ensure};
use skep_e2e::Host;

/// Gives the daemon another configuration, and starts it anew.
fn told(host: &Host, toml: &str) -> Result<()> {
    if host.daemon_pid().is_ok() {
        host.stop_daemon("-TERM")?;
    }
    std::fs::write(host.dir.join("daemon.toml"), toml)?;
    host.start_daemon()
}

/// What `docker` says, by template, is what it should be: a row for each setting.
fn shown(host: &Host, rows: &[(&str, &[&str], &str)]) -> Result<()> {
    for (setting, args, wanted) in rows {
        let said = host.docker(args).with_context(|| format!("{setting}: {args:?}"))?;
        ensure!(said.trim() == wanted.trim(), "{setting}: {args:?} is {said:?}, not {wanted:?}");
    }
    Ok(())
}

/// The daemon's log says this.
fn logged(host: &Host, words: &str) -> Result<()> {
    let log = std::fs::read_to_string(host.log())?;
    ensure!(log.contains(words), "{words:?} is not in the log: {}", host.log_tail());
    Ok(())
}
