//! The name servers of this host's containers, and their life.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use hickory_proto::op::ResponseCode;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answer::{Decision, Transport, decide, failure};
use super::forward::{forward, read_message, write_message};
use super::sockets::{self, Sockets};
use super::{Error, Zone};

/// Requests one container may have passed on at a time; more are refused at once.
const FORWARDED: usize = 256;
/// TCP connections one container may have open.
const CONNECTIONS: usize = 64;
/// How long a TCP connection may be silent.
const IDLE: Duration = Duration::from_secs(10);
/// Largest request over UDP.
const LARGEST: usize = 4096;

/// Serves names to containers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Resolver {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    upstreams: ArcSwap<Vec<SocketAddr>>,
    servers: Mutex<HashMap<String, Server>>,
}

/// The tasks of one container's server.
#[derive(Debug)]
struct Server {
    end: CancellationToken,
    tasks: TaskTracker,
}

impl Server {
    /// Ends the tasks and waits until their sockets are closed.
    async fn stop(self) {
        self.end.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// What the tasks of one server share.
#[derive(Clone)]
struct Context {
    zone: Arc<ArcSwap<Zone>>,
    resolver: Arc<Inner>,
    forwarded: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    end: CancellationToken,
    tasks: TaskTracker,
}

impl Resolver {
    /// A resolver that passes unknown names on to these servers, from the namespace of the daemon.
    pub fn new(upstreams: Vec<SocketAddr>) -> Self {
        let inner = Inner { upstreams: ArcSwap::from_pointee(upstreams), servers: Mutex::default() };
        Self { inner: Arc::new(inner) }
    }

    /// Changes the servers for all containers from the next request on.
    pub fn set_upstreams(&self, upstreams: Vec<SocketAddr>) {
        self.inner.upstreams.store(Arc::new(upstreams));
    }

    /// Serves a container at [`super::ADDRESS`] in its namespace, from `zone` as it is at each request.
    /// Again for the same container: the old server ends first.
    pub async fn serve(
        &self,
        netns: &Path,
        container_id: &str,
        zone: Arc<ArcSwap<Zone>>,
    ) -> Result<(), Error> {
        self.stop(container_id).await;
        let Sockets { udp, tcp } = sockets::open(netns, container_id).await?;
        let listen = |protocol| {
            let (container, address) =
                (container_id.to_owned(), SocketAddr::from((sockets::ADDRESS, sockets::PORT)));
            move |source| Error::Listen { container, address, protocol, source }
        };
        let udp = Arc::new(UdpSocket::from_std(udp).map_err(listen("udp"))?);
        let tcp = TcpListener::from_std(tcp).map_err(listen("tcp"))?;
        let context = Context {
            zone,
            resolver: self.inner.clone(),
            forwarded: Arc::new(Semaphore::new(FORWARDED)),
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
            end: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        context.spawn(serve_udp(context.clone(), udp));
        context.spawn(serve_tcp(context.clone(), tcp));
        let server = Server { end: context.end, tasks: context.tasks };
        let displaced = self.servers().insert(container_id.to_owned(), server);
        if let Some(other) = displaced {
            // Two calls at once for one container: the later one stays.
            other.stop().await;
        }
        Ok(())
    }

    /// Ends a container's server, if it has one; its port is free when this returns.
    pub async fn stop(&self, container_id: &str) {
        let server = self.servers().remove(container_id);
        if let Some(server) = server {
            server.stop().await;
        }
    }

    fn servers(&self) -> std::sync::MutexGuard<'_, HashMap<String, Server>> {
        self.inner.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Context {
    /// Runs a task until it is done or the server ends.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let end = self.end.clone();
        self.tasks.spawn(async move {
            end.run_until_cancelled(task).await;
        });
    }

    /// The answer from the other servers, or that there is none. Bounded in number and time.
    async fn forward(&self, request: &[u8], transport: Transport) -> Vec<u8> {
        let Ok(_permit) = self.forwarded.try_acquire() else {
            return failure(request, ResponseCode::Refused);
        };
        let upstreams = {
            let zone = self.zone.load();
            match zone.upstreams() {
                [] => self.resolver.upstreams.load_full(),
                own => Arc::new(own.to_vec()),
            }
        };
        let answer = forward(request, &upstreams, transport).await;
        answer.unwrap_or_else(|| failure(request, ResponseCode::ServFail))
    }
}

async fn serve_udp(context: Context, socket: Arc<UdpSocket>) {
    let mut buffer = vec![0; LARGEST];
    loop {
        let (len, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(e) => {
                tracing::debug!("DNS over UDP: {e}");
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        let request = &buffer[..len];
        let decision = decide(request, &context.zone.load(), Transport::Udp);
        match decision {
            Decision::Ignore => {}
            Decision::Reply(reply) => {
                // A client that is gone does not want it any more.
                let _ = socket.send_to(&reply, from).await;
            }
            Decision::Forward => {
                let (own, socket, request) = (context.clone(), socket.clone(), request.to_vec());
                context.spawn(async move {
                    let reply = own.forward(&request, Transport::Udp).await;
                    let _ = socket.send_to(&reply, from).await;
                });
            }
        }
    }
}

async fn serve_tcp(context: Context, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let Ok(permit) = context.connections.clone().try_acquire_owned() else { continue };
                let own = context.clone();
                context.spawn(async move {
                    let _permit = permit;
                    converse(own, stream).await;
                });
            }
            Err(e) => {
                tracing::debug!("DNS over TCP: {e}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// Answers the requests of one connection, in their order.
async fn converse(context: Context, mut stream: TcpStream) {
    while let Ok(Ok(request)) = tokio::time::timeout(IDLE, read_message(&mut stream)).await {
        let decision = decide(&request, &context.zone.load(), Transport::Tcp);
        let reply = match decision {
            Decision::Ignore => return,
            Decision::Reply(reply) => reply,
            Decision::Forward => context.forward(&request, Transport::Tcp).await,
        };
        if !matches!(tokio::time::timeout(IDLE, write_message(&mut stream, &reply)).await, Ok(Ok(()))) {
            return;
        }
    }
}
