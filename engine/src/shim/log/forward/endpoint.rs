//! Connections to receivers.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::time::Duration;

use super::tls::{self, TlsStream, Trust};
use crate::log_config::Address;

/// Longest a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest a receiver may take nothing.
const STALLED: Duration = Duration::from_secs(30);
/// Sockets of this host's syslog.
const LOCAL: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];

/// A connection.
pub(super) enum Link {
    Tcp(TcpStream),
    Tls(Box<TlsStream>),
    Udp(UdpSocket),
    Unix(UnixStream),
    Datagram(UnixDatagram),
}

impl Link {
    /// Connects; the error names the receiver.
    pub(super) fn connect(to: &Address, trust: Option<&Trust>) -> io::Result<Self> {
        match to {
            Address::Local => {
                let found = LOCAL.iter().find_map(|path| unix(Path::new(path)).ok());
                found.ok_or_else(|| {
                    io::Error::other("Unix syslog delivery error: no syslog listens at /dev/log")
                })
            }
            Address::Unix(path) => unix(path).map_err(|e| named("unix", &path.display(), &e)),
            Address::Datagram(path) => {
                datagram(path).map(Self::Datagram).map_err(|e| named("unixgram", &path.display(), &e))
            }
            Address::Tcp(host, port) => {
                tcp(host, *port).map(Self::Tcp).map_err(|e| named("tcp", &format_args!("{host}:{port}"), &e))
            }
            Address::Tls(host, port) => {
                let trust = trust.ok_or_else(|| io::Error::other("TLS is not set up"))?;
                let stream = tcp(host, *port).and_then(|s| trust.wrap(s, host));
                let stream = stream.map_err(|e| named("tcp+tls", &format_args!("{host}:{port}"), &e))?;
                Ok(Self::Tls(Box::new(stream)))
            }
            Address::Udp(host, port) => {
                udp(host, *port).map(Self::Udp).map_err(|e| named("udp", &format_args!("{host}:{port}"), &e))
            }
        }
    }

    /// Sends it whole. A stream whose other end has been closed fails before anything is lost in it.
    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(s) => open(s.as_raw_fd()).and_then(|()| s.write_all(bytes)),
            Self::Unix(s) => open(s.as_raw_fd()).and_then(|()| s.write_all(bytes)),
            Self::Tls(s) => tls::open(s).and_then(|()| s.write_all(bytes)).and_then(|()| s.flush()),
            Self::Udp(s) => s.send(bytes).map(drop),
            Self::Datagram(s) => s.send(bytes).map(drop),
        }
    }

    /// Ends the connection so that the receiver gets all that was sent.
    pub(super) fn end(self) {
        if let Self::Tls(s) = self {
            tls::end(*s);
        }
    }

    /// Reads what the receiver answers.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(s) => s.read(buffer),
            Self::Unix(s) => s.read(buffer),
            Self::Tls(s) => s.read(buffer),
            Self::Udp(s) => s.recv(buffer),
            Self::Datagram(s) => s.recv(buffer),
        }
    }
}

fn named(network: &str, address: &dyn std::fmt::Display, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("dial {network} {address}: {e}"))
}

/// The other end has not closed it.
fn open(fd: RawFd) -> io::Result<()> {
    let mut byte = 0u8;
    // SAFETY: one live byte.
    let n = unsafe { libc::recv(fd, (&raw mut byte).cast(), 1, libc::MSG_PEEK | libc::MSG_DONTWAIT) };
    if n == 0 { Err(io::Error::new(io::ErrorKind::BrokenPipe, tls::CLOSED)) } else { Ok(()) }
}

fn each<T>(host: &str, port: u16, connect: impl Fn(&SocketAddr) -> io::Result<T>) -> io::Result<T> {
    let mut last = io::Error::other(format!("{host} has no address"));
    for address in (host, port).to_socket_addrs()? {
        match connect(&address) {
            Ok(link) => return Ok(link),
            Err(e) => last = e,
        }
    }
    Err(last)
}

fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = each(host, port, |a| TcpStream::connect_timeout(a, CONNECT))?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(STALLED))?;
    stream.set_read_timeout(Some(STALLED))?;
    Ok(stream)
}

fn udp(host: &str, port: u16) -> io::Result<UdpSocket> {
    each(host, port, |a| {
        let socket = UdpSocket::bind(if a.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
        socket.connect(a)?;
        Ok(socket)
    })
}

fn unix(path: &Path) -> io::Result<Link> {
    match UnixStream::connect(path) {
        Ok(stream) => {
            stream.set_write_timeout(Some(STALLED))?;
            stream.set_read_timeout(Some(STALLED))?;
            Ok(Link::Unix(stream))
        }
        // EPROTOTYPE: it is a socket of datagrams, as /dev/log usually is.
        Err(e) if e.raw_os_error() == Some(libc::EPROTOTYPE) => datagram(path).map(Link::Datagram),
        Err(e) => Err(e),
    }
}

fn datagram(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    socket.set_write_timeout(Some(STALLED))?;
    Ok(socket)
}
