//! A container's streams joined with ours: `run`, `start -a`, `attach`.

use anyhow::{Context, Result, bail};
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::api::{Api, Query, full};
use super::create_body::Streams;
use super::stream;
use super::terminal::{self, Escape, Raw};

/// What leaves an attached container running.
pub const DETACH_KEYS: &str = "ctrl-p,ctrl-q";

/// An attached container.
pub struct Attached {
    connection: TokioIo<hyper::upgrade::Upgraded>,
    tty: bool,
    escape: Escape,
    stdin: bool,
}

/// How the streams ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The container closed them.
    Closed,
    /// The user typed the detach keys.
    Detached,
}

/// What is asked of a connection that is taken over.
pub struct Upgraded<'a> {
    /// The other end is a terminal.
    pub tty: bool,
    /// Our standard input goes there.
    pub stdin: bool,
    /// The keys that detach.
    pub keys: Option<&'a str>,
}

impl Upgraded<'_> {
    /// Asks for it.
    pub async fn ask(self, api: &Api, path: &str, query: &Query, body: Option<&Value>) -> Result<Attached> {
        let escape = Escape::parse(self.keys.unwrap_or(DETACH_KEYS))?;
        let bytes = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
        let mut headers = vec![("Connection", "Upgrade"), ("Upgrade", "tcp")];
        if body.is_some() {
            headers.push(("Content-Type", "application/json"));
        }
        let answer = api.send(Method::POST, path, query, full(bytes), &headers).await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            bail!("the daemon would not attach: {}", answer.status());
        }
        let connection = TokioIo::new(hyper::upgrade::on(answer).await?);
        Ok(Attached { connection, tty: self.tty, escape, stdin: self.stdin })
    }
}

/// Asks for a container's streams.
pub async fn attach(
    api: &Api,
    path: &str,
    streams: Streams,
    tty: bool,
    keys: Option<&str>,
) -> Result<Attached> {
    use std::io::IsTerminal;
    if tty && streams.stdin && !std::io::stdin().is_terminal() {
        bail!("the input device is not a TTY");
    }
    let query = Query::new().flag("stream", true).flag("stdin", streams.stdin);
    let mut query = query.flag("stdout", streams.stdout).flag("stderr", streams.stderr);
    if let Some(keys) = keys {
        query = query.with("detachKeys", keys);
    }
    let upgraded = Upgraded { tty, stdin: streams.stdin, keys };
    upgraded.ask(api, &format!("{path}/attach"), &query, None).await
}

impl Attached {
    /// The connection itself, for who shows the output in a way of their own.
    pub fn into_stream(self) -> TokioIo<hyper::upgrade::Upgraded> {
        self.connection
    }

    /// Copies until the container closes its output, or the user detaches. Signals go to the container if
    /// `proxy` is set; a terminal's size follows ours.
    pub async fn join(self, api: &Api, path: &str, proxy: bool) -> Result<Ended> {
        if self.tty {
            resize(api, path).await;
        }
        let raw = if self.tty && self.stdin { Raw::enter()? } else { None };
        let (from, mut to) = tokio::io::split(self.connection);
        let mut escape = self.escape;
        let (tty, stdin) = (self.tty, self.stdin);
        let input = async move {
            if stdin {
                let mut from = tokio::io::stdin();
                let mut buffer = vec![0; 16 << 10];
                while let Ok(n @ 1..) = from.read(&mut buffer).await {
                    let (data, detach) =
                        if tty { escape.pass(&buffer[..n]) } else { (buffer[..n].to_vec(), false) };
                    if detach {
                        return;
                    }
                    if to.write_all(&data).await.is_err() || to.flush().await.is_err() {
                        // The container has closed its input or ended: what is typed on goes nowhere.
                        break;
                    }
                }
                // The container reads end-of-file; its output goes on.
                let _ = to.shutdown().await;
            }
            std::future::pending().await
        };
        let ended = tokio::select! {
            copied = stream::copy(from, tty) => copied.map(|()| Ended::Closed),
            () = input => Ok(Ended::Detached),
            e = signals(api, path, proxy) => Err(e),
            () = resizes(api, path, tty) => Ok(Ended::Closed),
        };
        drop(raw);
        ended
    }
}

/// Passes signals on to the container; ends only with an error.
async fn signals(api: &Api, path: &str, proxy: bool) -> anyhow::Error {
    use tokio::signal::unix::{SignalKind, signal};
    if !proxy {
        return std::future::pending().await;
    }
    let kinds = [
        (SignalKind::interrupt(), "SIGINT"),
        (SignalKind::terminate(), "SIGTERM"),
        (SignalKind::hangup(), "SIGHUP"),
        (SignalKind::quit(), "SIGQUIT"),
        (SignalKind::user_defined1(), "SIGUSR1"),
        (SignalKind::user_defined2(), "SIGUSR2"),
    ];
    let (send, mut caught) = tokio::sync::mpsc::channel(8);
    for (kind, name) in kinds {
        let mut stream = match signal(kind) {
            Ok(stream) => stream,
            Err(e) => return e.into(),
        };
        let send = send.clone();
        tokio::spawn(async move { while stream.recv().await.is_some() && send.send(name).await.is_ok() {} });
    }
    while let Some(name) = caught.recv().await {
        if let Err(e) = api.post(&format!("{path}/kill"), &Query::new().with("signal", name), None).await {
            eprintln!("pass {name} on: {e:#}");
        }
    }
    std::future::pending().await
}

/// Keeps the size of the container's terminal that of ours; never ends.
async fn resizes(api: &Api, path: &str, tty: bool) {
    use tokio::signal::unix::{SignalKind, signal};
    if let (true, Ok(mut changed)) = (tty, signal(SignalKind::window_change())) {
        while changed.recv().await.is_some() {
            resize(api, path).await;
        }
    }
    std::future::pending().await
}

/// Sets the size of a container's terminal to that of ours. Only its looks depend on it: a container that
/// has ended meanwhile is no error.
async fn resize(api: &Api, path: &str) {
    if let Some((rows, columns)) = terminal::size() {
        let query = Query::new().with("h", rows.to_string()).with("w", columns.to_string());
        let _ = api.post(&format!("{path}/resize"), &query, None).await;
    }
}

/// A container's exit, asked for before it is started.
pub struct Exit(hyper::Response<hyper::body::Incoming>);

impl Exit {
    /// Begins to wait. The daemon has taken note once this returns.
    pub async fn of(api: &Api, path: &str, condition: &str) -> Result<Self> {
        let query = Query::new().with("condition", condition);
        Ok(Self(api.send(Method::POST, &format!("{path}/wait"), &query, full(""), &[]).await?))
    }

    /// Waits; the exit code.
    pub async fn code(self) -> Result<u8> {
        let bytes = http_body_util::BodyExt::collect(self.0.into_body()).await;
        let bytes = bytes.context("wait for the container")?.to_bytes();
        let exit: Value = serde_json::from_slice(&bytes).context("wait for the container")?;
        if let Some(message) = exit["Error"]["Message"].as_str().filter(|m| !m.is_empty()) {
            bail!("{message}");
        }
        Ok(exit["StatusCode"].as_u64().and_then(|c| u8::try_from(c).ok()).unwrap_or(1))
    }
}
