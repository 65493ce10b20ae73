//! The control socket that every WireGuard implementation has: requests in text, one connection each.
//!
//! Reads are answered by the device; changes go to the process's main task, which applies them its own
//! way ([`super::control`]), because the device's would drop the session of every peer it changes.

use std::io;

use gotatun::device::uapi::UapiClient;
use gotatun::device::uapi::command::{Request, Set};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use crate::wireguard::helper::{SOCKETS, socket};

/// A change somebody asked for.
pub(super) struct Change {
    pub set: Set,
    /// The errno to answer with; 0 is success.
    pub answer: oneshot::Sender<i32>,
}

/// Serves the control socket of `name`; changes come out of the receiver.
pub(super) fn start(name: &str, client: UapiClient) -> io::Result<mpsc::Receiver<Change>> {
    std::fs::create_dir_all(SOCKETS)?;
    let path = socket(name);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    // The umask makes it 0600: whoever may connect may read the private key.
    let listener = UnixListener::bind(&path)?;
    let (changes, receiver) = mpsc::channel(8);
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (client, changes) = (client.clone(), changes.clone());
                    tokio::spawn(async move {
                        if let Err(e) = converse(stream, client, changes).await {
                            tracing::warn!("control socket: {e}");
                        }
                    });
                }
                Err(e) => {
                    tracing::warn!("control socket: {e}");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    });
    Ok(receiver)
}

/// Answers the requests of one connection; each ends with an empty line.
async fn converse(
    mut stream: UnixStream,
    client: UapiClient,
    changes: mpsc::Sender<Change>,
) -> io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut lines = BufReader::new(reader).lines();
    let mut request = String::new();
    while let Some(line) = lines.next_line().await? {
        if !line.is_empty() {
            request.push_str(&line);
            request.push('\n');
            continue;
        }
        if request.is_empty() {
            continue;
        }
        let answer = answer(&request, &client, &changes).await;
        request.clear();
        writer.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}

async fn answer(request: &str, client: &UapiClient, changes: &mpsc::Sender<Change>) -> String {
    let refusal = |errno: i32| format!("errno={errno}\n\n");
    match request.parse::<Request>() {
        Ok(Request::Get(get)) => match client.send(get).await {
            Ok(response) => format!("{response}\n"),
            Err(_) => refusal(libc::EIO),
        },
        Ok(Request::Set(set)) => {
            let (answer, result) = oneshot::channel();
            if changes.send(Change { set, answer }).await.is_err() {
                return refusal(libc::EIO);
            }
            refusal(result.await.unwrap_or(libc::EIO))
        }
        Err(e) => {
            // The request itself may hold a key.
            tracing::warn!("control socket: request not understood: {}", e.root_cause());
            refusal(libc::EINVAL)
        }
    }
}
