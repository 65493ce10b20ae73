//! `swarm unlock-key` and `swarm unlock`.

use std::io::IsTerminal;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::api::{Api, Query};
use super::output::{say, text, write};
use super::swarm::update;
use super::terminal::Silent;

pub async fn run(api: &Api, quiet: bool, rotate: bool) -> Result<()> {
    if rotate {
        let swarm = api.get("/swarm", &Query::new()).await?;
        if swarm["Spec"]["EncryptionConfig"]["AutoLockManagers"] != Value::Bool(true) {
            bail!("cannot rotate because autolock is not turned on");
        }
        let query = Query::new().with("rotateManagerUnlockKey", "true");
        update(api, &swarm, &swarm["Spec"], &query).await?;
        if !quiet {
            say!("Successfully rotated manager unlock key.")?;
        }
    }
    let key = get(api).await?;
    if key.is_empty() {
        bail!("no unlock key is set");
    }
    if quiet { say!("{key}") } else { explain(&key) }
}

/// Shows the key of a swarm that has just been locked.
pub async fn show(api: &Api) -> Result<()> {
    explain(&get(api).await?)
}

async fn get(api: &Api) -> Result<String> {
    let answer = api.get("/swarm/unlockkey", &Query::new()).await.context("could not fetch unlock key")?;
    Ok(text(&answer, "UnlockKey"))
}

fn explain(key: &str) -> Result<()> {
    if key.is_empty() {
        return Ok(());
    }
    say!(
        "To unlock a swarm manager after it restarts, run the `skep swarm unlock`\n\
         command and provide the following key:\n\n    {key}\n\n\
         Remember to store this key in a password manager, since without it you\n\
         will not be able to restart the manager."
    )
}

pub async fn unlock(api: &Api) -> Result<()> {
    // A key is asked for only where there is something to unlock.
    let info = api.get("/info", &Query::new()).await?;
    match text(&info["Swarm"], "LocalNodeState").as_str() {
        "inactive" => bail!("Error: This node is not part of a swarm"),
        "locked" => {}
        _ => bail!("Error: swarm is not locked"),
    }
    let key = tokio::task::spawn_blocking(read).await??;
    api.post("/swarm/unlock", &Query::new(), Some(&json!({ "UnlockKey": key }))).await.map(drop)
}

fn read() -> Result<String> {
    let stdin = std::io::stdin();
    let mut line = String::new();
    if stdin.is_terminal() {
        write(format_args!("Enter unlock key: "))?;
        let _silent = Silent::enter()?;
        stdin.read_line(&mut line).context("read the unlock key")?;
        say!()?;
    } else {
        stdin.read_line(&mut line).context("read the unlock key from standard input")?;
    }
    Ok(line.trim().to_owned())
}
