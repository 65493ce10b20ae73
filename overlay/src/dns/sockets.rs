//! Sockets opened inside a container's network namespace and used from outside it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};

use super::Error;

/// Where a container finds its name server.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
const PORT: u16 = 53;

/// Both ways in.
pub(super) struct Sockets {
    pub udp: UdpSocket,
    pub tcp: TcpListener,
}

/// Opens them on a thread of its own, which enters the namespace and ends there: no thread of the
/// runtime ever leaves the host's.
pub(super) async fn open(netns: &Path, container: &str) -> Result<Sockets, Error> {
    let (netns, container): (PathBuf, String) = (netns.into(), container.into());
    let (result, opened) = tokio::sync::oneshot::channel();
    let (place, name) = (netns.clone(), container.clone());
    let enter = move |source| Error::Enter { container: container.clone(), netns: netns.clone(), source };
    let thread = std::thread::Builder::new().name("dns-netns".into());
    thread
        .spawn(move || {
            // Whoever asked may have been cancelled: then the sockets close again.
            let _ = result.send(open_inside(&place, &name));
        })
        .map_err(&enter)?;
    opened.await.map_err(|_| enter(io::Error::other("the thread died")))?
}

fn open_inside(netns: &Path, container: &str) -> Result<Sockets, Error> {
    let enter = |source| Error::Enter { container: container.to_owned(), netns: netns.to_owned(), source };
    let file = std::fs::File::open(netns).map_err(enter)?;
    setns(file, CloneFlags::CLONE_NEWNET).map_err(|e| enter(e.into()))?;
    let address = SocketAddr::from((ADDRESS, PORT));
    let listen = |protocol| {
        let container = container.to_owned();
        move |source| Error::Listen { container, address, protocol, source }
    };
    let udp =
        UdpSocket::bind(address).and_then(|s| s.set_nonblocking(true).map(|()| s)).map_err(listen("udp"))?;
    // The standard library sets SO_REUSEADDR: connections of a daemon before us do not block the port.
    let tcp = TcpListener::bind(address)
        .and_then(|s| s.set_nonblocking(true).map(|()| s))
        .map_err(listen("tcp"))?;
    Ok(Sockets { udp, tcp })
}
