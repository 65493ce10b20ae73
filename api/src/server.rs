//! Serves the router on sockets, with connections that a handler may take over.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Body;
use hyper::Request;
use hyper::body::Incoming;
use hyper::http::{HeaderMap, StatusCode};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::unistd::{Gid, chown};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::hijack::Takeover;
use crate::state::ApiState;
use crate::target::{Answers, Reader};

/// Longest that a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// First byte of a TLS connection (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 22;
/// What Go's server answers, which clients know.
const PLAIN_REFUSED: &str =
    "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
/// Longest that requests in flight hold up a shutdown.
const DRAIN: Duration = Duration::from_secs(5);

/// Why a socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another daemon answers there.
    #[error("{path} is in use by a running daemon; stop it, or give this one its own --host")]
    InUse {
        /// Socket.
        path: PathBuf,
    },
    /// Something that is no socket is there.
    #[error("{path} exists and is not a socket; remove it, or give another --host")]
    NotASocket {
        /// Path.
        path: PathBuf,
    },
    /// A system call.
    #[error("cannot {operation} {subject}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        subject: String,
        /// The system's answer.
        source: io::Error,
    },
}

fn failed(operation: &'static str, subject: impl std::fmt::Display) -> impl FnOnce(io::Error) -> ServeError {
    let subject = subject.to_string();
    move |source| ServeError::Io { operation, subject, source }
}

/// A socket that requests come in by.
pub enum Listener {
    /// A socket file, removed when serving ends.
    Unix(UnixListener, PathBuf),
    /// A TCP port; with TLS, where that is asked for.
    Tcp(TcpListener, Option<TlsAcceptor>),
}

impl Listener {
    /// Listens on a socket file: mode 0660, of a group, else of `docker` or `skep` where there is one. A file that
    /// nobody answers on is replaced.
    pub async fn unix(path: impl Into<PathBuf>, group: Option<u32>) -> Result<Self, ServeError> {
        let path: PathBuf = path.into();
        clear(&path).await?;
        if let Some(parent) = path.parent() {
            tokio::fs::create_dir_all(parent)
                .await
                .map_err(failed("make the directory", parent.display()))?;
        }
        let listener = UnixListener::bind(&path).map_err(failed("listen on", path.display()))?;
        restrict(&path, group).await?;
        Ok(Self::Unix(listener, path))
    }

    /// Listens on a TCP port.
    pub async fn tcp(addr: SocketAddr, tls: Option<TlsAcceptor>) -> Result<Self, ServeError> {
        TcpListener::bind(addr).await.map(|l| Self::Tcp(l, tls)).map_err(failed("listen on", addr))
    }
}

/// Removes what a daemon that is gone has left; refuses anything else.
async fn clear(path: &Path) -> Result<(), ServeError> {
    match tokio::fs::symlink_metadata(path).await {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed("look at", path.display())(e)),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(ServeError::NotASocket { path: path.into() });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Ok(_) => Err(ServeError::InUse { path: path.into() }),
        Err(_) => tokio::fs::remove_file(path).await.map_err(failed("remove", path.display())),
    }
}

/// Only then does the group have its access, so that no other ever had it.
async fn restrict(path: &Path, group: Option<u32>) -> Result<(), ServeError> {
    let groups = tokio::fs::read_to_string("/etc/group").await.unwrap_or_default();
    if let Some(group) = group.or_else(|| ["docker", "skep"].iter().find_map(|name| group_id(&groups, name)))
    {
        chown(path, None, Some(Gid::from_raw(group)))
            .map_err(|e| failed("give to its group", path.display())(e.into()))?;
    }
    let mode = std::fs::Permissions::from_mode(0o660);
    tokio::fs::set_permissions(path, mode).await.map_err(failed("restrict", path.display()))
}

/// The number of a group in the text of /etc/group (a static binary has no NSS to ask).
pub fn group_id(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut parts = line.split(':');
        (parts.next() == Some(name)).then(|| parts.nth(1)?.parse().ok()).flatten()
    })
}

/// Connections open now, and the two ways to end them.
#[derive(Clone, Debug, Default)]
struct Connections {
    open: TaskTracker,
    /// Finish the request in flight.
    finish: CancellationToken,
    /// Close.
    cut: CancellationToken,
}

/// Serves until `shutdown` resolves, then lets requests in flight end, for a while; those, too, whose client has left.
pub async fn serve(
    listeners: Vec<Listener>,
    state: ApiState,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let under_way = state.under_way().clone();
    let router = crate::router(state);
    let connections = Connections::default();
    let mut accepting = tokio::task::JoinSet::new();
    let mut files = Vec::new();
    for listener in listeners {
        if let Listener::Unix(_, path) = &listener {
            files.push(path.clone());
        }
        accepting.spawn(accept(listener, router.clone(), connections.clone()));
    }
    shutdown.await;
    accepting.shutdown().await;
    connections.finish.cancel();
    connections.open.close();
    let ended = async { tokio::join!(connections.open.wait(), under_way.ended()) };
    if tokio::time::timeout(DRAIN, ended).await.is_err() {
        let (open, begun) = (connections.open.len(), under_way.len());
        tracing::info!(open, begun, "requests that did not end were cut off");
        connections.cut.cancel();
        under_way.cut();
        tokio::join!(connections.open.wait(), under_way.ended());
    }
    let mut result = Ok(());
    for path in files {
        if let Err(e) = tokio::fs::remove_file(&path).await {
            result = Err(failed("remove", path.display())(e));
        }
    }
    result
}

/// Serves what a manager asks of the container of one task of this node, over one connection.
pub async fn serve_task(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    task: String,
    state: ApiState,
) {
    connection(io, crate::routes::router_of_task(state, task), Connections::default()).await;
}

async fn accept(listener: Listener, router: axum::Router, connections: Connections) {
    loop {
        let accepted = match &listener {
            Listener::Unix(listener, _) => listener
                .accept()
                .await
                .map(|(io, _)| connections.open.spawn(connection(io, router.clone(), connections.clone()))),
            Listener::Tcp(listener, tls) => listener.accept().await.map(|(io, _)| {
                // Terminals are typed on through this socket.
                let _ = io.set_nodelay(true);
                match tls.clone() {
                    None => connections.open.spawn(connection(io, router.clone(), connections.clone())),
                    Some(tls) => connections.open.spawn(secure(io, tls, router.clone(), connections.clone())),
                }
            }),
        };
        if let Err(e) = accepted {
            // Out of descriptors, for one: trying again at once would only burn a CPU.
            tracing::warn!(error = %e, "cannot accept a connection");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A connection that begins with a TLS handshake. Who does not get through it is told why by TLS itself.
async fn secure(io: TcpStream, tls: TlsAcceptor, router: axum::Router, connections: Connections) {
    let mut first = [0];
    let begun = async {
        if io.peek(&mut first).await? > 0 && first[0] != TLS_HANDSHAKE {
            let mut io = io;
            io.write_all(PLAIN_REFUSED.as_bytes()).await?;
            io.shutdown().await?;
            // Closing with its request unread would take the answer away again.
            tokio::io::copy(&mut io.take(1 << 20), &mut tokio::io::sink()).await?;
            return Err(io::Error::other("a client spoke plain HTTP"));
        }
        tls.accept(io).await
    };
    match tokio::time::timeout(HANDSHAKE, begun).await {
        Ok(Ok(stream)) => connection(stream, router, connections).await,
        Ok(Err(e)) => tracing::info!(error = %e, "a TLS handshake failed"),
        Err(_) => tracing::info!("a TLS handshake took too long"),
    }
}

async fn connection<I>(io: I, router: axum::Router, connections: Connections)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (give, mut given) = mpsc::channel(1);
    let answers = Answers::default();
    let reader = Reader::new(io, answers.clone());
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (router, give, answers) = (router.clone(), give.clone(), answers.clone());
        async move {
            let response = router.oneshot(request.map(Body::new)).await?;
            let Some(takeover) = response.extensions().get::<Takeover>().cloned() else {
                answers.answered();
                return Ok::<_, std::convert::Infallible>(response);
            };
            let head = head(response.status(), response.headers());
            // Received for as long as this is polled.
            let _ = give.send((head, takeover)).await;
            std::future::pending().await
        }
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .title_case_headers(true)
        .serve_connection(TokioIo::new(reader), service);
    let mut finishing = false;
    let ended = loop {
        tokio::select! {
            ended = &mut connection => break ended,
            Some((head, takeover)) = given.recv() => {
                let parts = connection.into_parts();
                let (io, unread) = parts.io.into_inner().into_parts();
                let early = [parts.read_buf, unread].concat();
                // Not among the open connections: how long it lasts is the container's business.
                tokio::spawn(take_over(io, early, head, takeover));
                return;
            }
            () = connections.finish.cancelled(), if !finishing => {
                finishing = true;
                std::pin::Pin::new(&mut connection).graceful_shutdown();
            }
            () = connections.cut.cancelled() => return,
        }
    };
    if let Err(e) = ended {
        tracing::debug!(error = %e, "connection ended");
    }
}

/// Answers, and gives the connection away with what has been read of it beyond the request.
async fn take_over<I>(mut io: I, early: Vec<u8>, head: Vec<u8>, takeover: Takeover)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    if let Err(e) = io.write_all(&head).await {
        tracing::debug!(error = %e, "the client left before its connection was taken over");
        return;
    }
    let (from, to) = tokio::io::split(io);
    let from = std::io::Cursor::new(early).chain(from);
    takeover.run(Box::new(tokio::io::join(from, to))).await;
}

/// The head of an answer after which the connection is no longer HTTP's.
fn head(status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let mut out = match status {
        StatusCode::SWITCHING_PROTOCOLS => b"HTTP/1.1 101 UPGRADED\r\n".to_vec(),
        other => format!("HTTP/1.1 {} {}\r\n", other.as_str(), other.canonical_reason().unwrap_or_default())
            .into_bytes(),
    };
    // How long it gets is not known, whatever the router made of the body that it has not.
    for (name, value) in headers.iter().filter(|(name, _)| *name != hyper::header::CONTENT_LENGTH) {
        let mut start = true;
        out.extend(name.as_str().bytes().map(|b| {
            let upper = std::mem::replace(&mut start, b == b'-');
            if upper { b.to_ascii_uppercase() } else { b }
        }));
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_by_name() {
        let groups = "root:x:0:\ndocker:x:998:me\nodd\n";
        assert_eq!(group_id(groups, "docker"), Some(998));
        assert_eq!(group_id(groups, "odd"), None);
        assert_eq!(group_id(groups, "skep"), None);
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("sub/skep.sock");
        let live = Listener::unix(&path, None).await.expect("first");
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o660);
        assert!(matches!(Listener::unix(&path, None).await, Err(ServeError::InUse { .. })));
        drop(live);
        Listener::unix(&path, None).await.expect("replaced");
        let file = dir.path().join("file");
        std::fs::write(&file, "").expect("written");
        assert!(matches!(Listener::unix(&file, None).await, Err(ServeError::NotASocket { .. })));
    }
}
