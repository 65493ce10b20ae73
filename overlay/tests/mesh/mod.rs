//! What the ingress mesh is tried with: datagrams, connections that stay, and packets inside VXLAN as an intruder would
//! make them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use crate::lab::{PATIENCE, enter, within};

/// A server on all addresses that tells each datagram's sender the server's name and the sender's address. What it got
/// comes out of the channel, too.
pub fn serve_udp(netns: &Path, port: u16, name: &str) -> mpsc::Receiver<IpAddr> {
    let (netns, name) = (netns.to_owned(), name.to_owned());
    let (ready, wait) = mpsc::channel();
    let (told, got) = mpsc::channel();
    std::thread::spawn(move || {
        enter(&netns);
        // Both families.
        let socket = UdpSocket::bind(("::", port)).expect("bind");
        ready.send(()).expect("tell");
        let mut bytes = [0; 8192];
        while let Ok((length, from)) = socket.recv_from(&mut bytes) {
            // A client that has gone is no concern of the server's, nor is a test that does not listen.
            let client = from.ip().to_canonical();
            // As large as what was asked.
            let answer = format!("{:length$}", format!("{name} {client} "));
            let _ = socket.send_to(answer.as_bytes(), from);
            let _ = told.send(client);
        }
    });
    wait.recv_timeout(PATIENCE).expect("server is up");
    got
}

/// What the server says to a datagram from a port of its own.
pub fn ask_udp(netns: &Path, addr: impl Into<IpAddr>, port: u16) -> Option<(String, String)> {
    Datagrams::open(netns, addr, port)?.ask()
}

/// A client that goes on sending from one port.
pub struct Datagrams(UdpSocket);

impl Datagrams {
    pub fn open(netns: &Path, addr: impl Into<IpAddr>, port: u16) -> Option<Self> {
        let addr = addr.into();
        within(netns, || {
            let any = if addr.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).expect("bind");
            socket.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
            // Connected: an answer from another address than the one asked is none.
            socket.connect((addr, port)).ok()?;
            Some(Self(socket))
        })
    }

    /// The server's name and the address it saw.
    pub fn ask(&self) -> Option<(String, String)> {
        self.ask_at_length(3)
    }

    /// The same in so many bytes, both ways.
    pub fn ask_at_length(&self, bytes: usize) -> Option<(String, String)> {
        self.0.send("?".repeat(bytes).as_bytes()).ok()?;
        let mut answer = [0; 8192];
        let n = self.0.recv(&mut answer).ok()?;
        assert!(n >= bytes, "{n} of {bytes} bytes");
        let text = String::from_utf8_lossy(&answer[..n]).into_owned();
        let mut words = text.split_whitespace().map(str::to_owned);
        Some((words.next()?, words.next()?))
    }
}

/// A server that answers line after line.
pub fn serve_lines(netns: &Path, port: u16, name: &str) {
    let (netns, name) = (netns.to_owned(), name.to_owned());
    let (ready, wait) = mpsc::channel();
    std::thread::spawn(move || {
        enter(&netns);
        let listener = TcpListener::bind(("::", port)).expect("bind");
        ready.send(()).expect("tell");
        for client in listener.incoming().flatten() {
            let name = name.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(&client).lines().map_while(Result::ok) {
                    // Whole segments both ways: their size is part of what is tried.
                    if (&client).write_all(format!("{name} {}\n", "x".repeat(line.len())).as_bytes()).is_err()
                    {
                        return;
                    }
                }
            });
        }
    });
    wait.recv_timeout(PATIENCE).expect("server is up");
}

/// A connection to such a server.
pub struct Lines(BufReader<TcpStream>);

impl Lines {
    pub fn open(netns: &Path, addr: impl Into<IpAddr>, port: u16) -> Self {
        let addr = SocketAddr::from((addr.into(), port));
        within(netns, || {
            let stream = TcpStream::connect_timeout(&addr, PATIENCE).expect("connect");
            stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
            Self(BufReader::new(stream))
        })
    }

    /// Sends so many bytes and has as many back; the server's name.
    pub fn ask(&mut self, bytes: usize) -> String {
        let line = "x".repeat(bytes) + "\n";
        self.0.get_ref().write_all(line.as_bytes()).expect("send");
        let mut answer = String::new();
        self.0.read_line(&mut answer).expect("answer");
        let (name, echo) = answer.trim_end().split_once(' ').expect("name and echo");
        assert_eq!(echo.len(), bytes);
        name.to_owned()
    }
}

/// A datagram from `from` to `to`, as a node of the mesh would send it: within VXLAN `vni`, from one hardware address
/// to another.
pub fn forged(vni: u32, macs: [[u8; 6]; 2], from: Ipv4Addr, to: Ipv4Addr, port: u16) -> Vec<u8> {
    let payload = b"forged";
    let mut bytes = vec![0x08, 0, 0, 0];
    bytes.extend((vni << 8).to_be_bytes());
    bytes.extend(macs[1]);
    bytes.extend(macs[0]);
    bytes.extend([0x08, 0x00]);
    let start = bytes.len();
    bytes.extend([0x45, 0]);
    bytes.extend((28 + payload.len() as u16).to_be_bytes());
    bytes.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    bytes.extend(from.octets());
    bytes.extend(to.octets());
    let sum =
        bytes[start..].chunks(2).fold(0u32, |sum, pair| sum + u32::from(pair[0]) * 256 + u32::from(pair[1]));
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    bytes[start + 10..start + 12].copy_from_slice(&sum.to_be_bytes());
    bytes.extend(4000u16.to_be_bytes());
    bytes.extend(port.to_be_bytes());
    bytes.extend((8 + payload.len() as u16).to_be_bytes());
    // No checksum, as UDP allows.
    bytes.extend([0, 0]);
    bytes.extend(payload);
    bytes
}

/// Sends a datagram as it is.
pub fn throw(netns: &Path, to: (Ipv4Addr, u16), bytes: &[u8]) {
    within(netns, || UdpSocket::bind("0.0.0.0:0").and_then(|s| s.send_to(bytes, to)).expect("send"));
}
