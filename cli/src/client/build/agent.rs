//! `build --ssh`: agents of ssh(1) that the build's commands may use. The daemon says when one of them connects; a connection
//! of ours then joins it with the agent's socket.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::net::UnixStream;

use super::super::api::{Api, Query};
use super::super::attach::Upgraded;

/// Sockets of agents, by the IDs that builds know them by.
pub struct Agents(BTreeMap<String, PathBuf>);

impl Agents {
    /// Reads `default`, `ID` and `ID=SOCKET`.
    pub fn read(given: &[String]) -> Result<Self> {
        use std::os::unix::fs::FileTypeExt;
        let mut all = BTreeMap::new();
        for text in given {
            let (id, path) = match text.split_once('=') {
                Some((id, path)) => (id, PathBuf::from(path)),
                None => {
                    let socket = std::env::var_os("SSH_AUTH_SOCK").filter(|s| !s.is_empty());
                    let socket = socket.with_context(|| {
                        format!(
                            "invalid empty ssh agent socket for --ssh {text}: make sure SSH_AUTH_SOCK is set"
                        )
                    })?;
                    (text.as_str(), PathBuf::from(socket))
                }
            };
            if id.is_empty() || id.contains(',') {
                bail!("invalid --ssh {text:?}: want default or ID[=SOCKET]");
            }
            let kind = std::fs::metadata(&path).with_context(|| format!("--ssh {id}: {}", path.display()))?;
            if !kind.file_type().is_socket() {
                bail!(
                    "--ssh {id}: {} is no socket: keys are not read from files, add them to an agent (ssh-add)",
                    path.display()
                );
            }
            all.insert(id.to_owned(), path);
        }
        Ok(Self(all))
    }

    /// The IDs, as the daemon is told of them.
    pub fn ids(&self) -> String {
        self.0.keys().map(String::as_str).collect::<Vec<_>>().join(",")
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Joins a connection that the daemon tells of with its agent, in a task of its own.
    pub fn connect(&self, api: &Api, wanted: &Value) {
        let (Some(id), Some(connection)) = (wanted["Id"].as_str(), wanted["Connection"].as_str()) else {
            return;
        };
        let Some(path) = self.0.get(id).cloned() else { return };
        let (api, connection) = (api.clone(), connection.to_owned());
        tokio::spawn(async move {
            if let Err(e) = join(&api, &path, &connection).await {
                eprintln!("forward the agent at {}: {e:#}", path.display());
            }
        });
    }
}

async fn join(api: &Api, path: &Path, connection: &str) -> Result<()> {
    let query = Query::new().with("connection", connection);
    let asked = Upgraded { tty: true, stdin: true, keys: None };
    let mut theirs = asked.ask(api, "/build/agent", &query, None).await?.into_stream();
    // What cannot be connected to ends theirs.
    let mut ours = UnixStream::connect(path).await?;
    // Either end may hang up as it likes.
    let _ = tokio::io::copy_bidirectional(&mut ours, &mut theirs).await;
    Ok(())
}
