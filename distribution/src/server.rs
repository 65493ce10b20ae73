//! The server: a socket, TLS, connections, uploads that are swept, and an end that lets requests finish.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::{Auth, AuthOptions};
use crate::daemon::DaemonBlobs;
use crate::error::Error;
use crate::gc::{self, GcOptions};
use crate::http::App;
use crate::mirror::{Mirror, MirrorOptions};
use crate::store::Store;
use crate::tls::{Tls, TlsFiles};

/// Longest that a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Longest wait for a request's head, and for the next request on a connection.
const IDLE: Duration = Duration::from_secs(120);
/// Longest that requests in flight hold up a shutdown. Uploads that are cut off can be gone on with.
const DRAIN: Duration = Duration::from_secs(10);
/// Seconds of silence after which a connection's other end is asked whether it is there.
const KEEP_ALIVE: u32 = 60;
/// Time between two sweeps of uploads.
const SWEEP: Duration = Duration::from_secs(3600);
/// First byte of a TLS connection (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 22;
/// What Go's server answers, which clients know.
const PLAIN_REFUSED: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// How a registry is served.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where.
    pub listen: SocketAddr,
    /// What must survive a restart.
    pub data_dir: PathBuf,
    /// Data root of a daemon of this host, whose blobs need not be sent: they are given to who may push and names their digests.
    pub daemon_data_root: Option<PathBuf>,
    /// Certificate; without one it is plain HTTP.
    pub tls: Option<TlsFiles>,
    /// Plain HTTP on an address that others reach, and passwords over it, are wanted.
    pub plain_http: bool,
    /// Who may come.
    pub auth: AuthOptions,
    /// Another registry that this one mirrors; it takes nothing from clients then.
    pub mirror: Option<MirrorOptions>,
    /// Nothing is taken from clients.
    pub read_only: bool,
    /// Uploads that nobody goes on with for so long are removed.
    pub upload_age: Duration,
    /// How often garbage is collected, and what of; none = never.
    pub collect: Option<(Duration, GcOptions)>,
}

/// A registry that listens.
pub struct Server {
    app: Arc<App>,
    listener: TcpListener,
    tls: Option<Tls>,
    upload_age: Duration,
    collect: Option<(Duration, GcOptions)>,
}

/// Connections open now, and the two ways to end them.
#[derive(Clone, Debug, Default)]
struct Connections {
    open: TaskTracker,
    finish: CancellationToken,
    cut: CancellationToken,
}

impl Server {
    /// Checks the options, opens the directory, sweeps it, and listens.
    pub async fn bind(options: &Options) -> Result<Self, Error> {
        let is_local = options.listen.ip().to_canonical().is_loopback();
        if options.tls.is_none() && !is_local && !options.plain_http {
            return Err(Error::Invalid(format!(
                "{} is reached by other hosts, and there is no certificate: give --tls-cert and --tls-key, or --plain-http to go without TLS",
                options.listen
            )));
        }
        let tls = options.tls.clone().map(Tls::new).transpose()?;
        let auth = Auth::new(&options.auth)?;
        let mirror = options.mirror.as_ref().map(Mirror::new).transpose()?;
        let store = Store::open(&options.data_dir)?;
        let daemon = options.daemon_data_root.as_deref().map(|r| DaemonBlobs::open(r, &store)).transpose()?;
        store.sweep_uploads(options.upload_age)?;
        let listener = listen(options.listen).await?;
        let address = listener.local_addr().map_or(options.listen, |a| a);
        tracing::info!(
            %address,
            data = %options.data_dir.display(),
            daemon = options.daemon_data_root.as_ref().map(|d| tracing::field::display(d.display())),
            tls = tls.is_some(),
            auth = match &options.auth {
                AuthOptions::Open => "none",
                AuthOptions::Htpasswd { .. } => "htpasswd",
                AuthOptions::Token(_) => "token",
            },
            mirror_of = options.mirror.as_ref().map(|m| m.url.as_str()),
            read_only = options.read_only,
            "the registry is ready"
        );
        if tls.is_none() {
            let passwords = !matches!(options.auth, AuthOptions::Open);
            tracing::warn!(
                passwords,
                "this is plain HTTP: whoever is on the way sees and changes what is pushed and pulled"
            );
        }
        let app = App { store, auth, mirror, daemon, read_only: options.read_only };
        let (upload_age, collect) = (options.upload_age, options.collect.clone());
        Ok(Self { app: Arc::new(app), listener, tls, upload_age, collect })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system does not say.
    pub fn address(&self) -> Result<SocketAddr, Error> {
        self.listener.local_addr().map_err(|source| Error::Io {
            operation: "look at",
            subject: "the listening socket".into(),
            source,
        })
    }

    /// Serves until `shutdown` resolves, then lets requests in flight end, for a while.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let connections = Connections::default();
        let Self { app, listener, tls, upload_age, collect } = self;
        let mut chores = tokio::task::JoinSet::new();
        chores.spawn(sweep(app.store.clone(), upload_age));
        if let Some((every, options)) = collect {
            chores.spawn(collect_every(app.store.clone(), every, options));
        }
        tokio::select! {
            () = accept(listener, tls, app, connections.clone()) => {}
            () = shutdown => {}
        }
        chores.abort_all();
        connections.finish.cancel();
        connections.open.close();
        if tokio::time::timeout(DRAIN, connections.open.wait()).await.is_err() {
            tracing::info!(open = connections.open.len(), "requests that did not end were cut off");
            connections.cut.cancel();
            connections.open.wait().await;
        }
        tracing::info!("the registry has stopped");
    }
}

async fn sweep(store: Store, age: Duration) {
    loop {
        tokio::time::sleep(SWEEP).await;
        if let Err(e) = store.run(move |store| store.sweep_uploads(age)).await {
            tracing::warn!(error = %e, "cannot sweep uploads");
        }
    }
}

async fn collect_every(store: Store, every: Duration, options: GcOptions) {
    loop {
        tokio::time::sleep(every).await;
        let options = options.clone();
        match store.run(move |store| gc::collect(store.root(), &options)).await {
            Ok(found) => tracing::info!(
                blobs = found.blobs.len(),
                bytes = found.bytes,
                manifests = found.manifests.len(),
                shared = found.shared.as_ref().map(|s| s.blobs.len()),
                shared_bytes = found.shared.as_ref().map(|s| s.bytes),
                "garbage was collected"
            ),
            Err(e) => tracing::error!(error = %e, "garbage was not collected"),
        }
    }
}

/// `[::]` means both families, and IPv4 alone where there is no IPv6.
async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    let mut bound = TcpListener::bind(address).await;
    if bound.is_err() && address.ip() == IpAddr::from([0u16; 8]) {
        bound = TcpListener::bind(("0.0.0.0", address.port())).await;
    }
    bound.map_err(|source| Error::Io { operation: "listen on", subject: address.to_string(), source })
}

async fn accept(listener: TcpListener, tls: Option<Tls>, app: Arc<App>, connections: Connections) {
    loop {
        match listener.accept().await {
            Ok((io, peer)) => {
                let _ = io.set_nodelay(true);
                // A client that is gone without a word does not hold its connection for ever.
                let _ = setsockopt(&io, sockopt::KeepAlive, &true);
                let _ = setsockopt(&io, sockopt::TcpKeepIdle, &KEEP_ALIVE);
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                let (app, all) = (app.clone(), connections.clone());
                match tls.as_ref().map(Tls::acceptor) {
                    None => connections.open.spawn(connection(io, app, peer, all)),
                    Some(tls) => connections.open.spawn(secure(io, tls, app, peer, all)),
                };
            }
            Err(e) => {
                // Out of descriptors, for one: trying again at once would only burn a CPU.
                tracing::warn!(error = %e, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn secure(
    mut io: TcpStream,
    tls: tokio_rustls::TlsAcceptor,
    app: Arc<App>,
    peer: SocketAddr,
    all: Connections,
) {
    let mut first = [0];
    let begun = async {
        if io.peek(&mut first).await? > 0 && first[0] != TLS_HANDSHAKE {
            io.write_all(PLAIN_REFUSED).await?;
            io.shutdown().await?;
            // Closing with its request unread would take the answer away again.
            tokio::io::copy(&mut io.take(1 << 20), &mut tokio::io::sink()).await?;
            return Err(std::io::Error::other("a client spoke plain HTTP"));
        }
        tls.accept(io).await
    };
    let handshake = tokio::select! {
        done = tokio::time::timeout(HANDSHAKE, begun) => done,
        () = all.finish.cancelled() => return,
    };
    match handshake {
        Ok(Ok(stream)) => connection(stream, app, peer, all).await,
        Ok(Err(e)) => tracing::info!(%peer, error = %e, "a TLS handshake failed"),
        Err(_) => tracing::info!(%peer, "a TLS handshake took too long"),
    }
}

async fn connection<I>(io: I, app: Arc<App>, peer: SocketAddr, all: Connections)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let app = app.clone();
        async move { Ok::<_, std::convert::Infallible>(app.answer(request, peer).await) }
    });
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE)
            .serve_connection(TokioIo::new(io), service)
    );
    let mut finishing = false;
    let ended = loop {
        tokio::select! {
            ended = &mut connection => break ended,
            () = all.finish.cancelled(), if !finishing => {
                finishing = true;
                connection.as_mut().graceful_shutdown();
            }
            () = all.cut.cancelled() => return,
        }
    };
    if let Err(e) = ended {
        tracing::debug!(%peer, error = %e, "connection ended");
    }
}
