//! Passing a request on: the bytes as they came, EDNS and all, under an ID of our own.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout_at};

use super::answer::{HEADER, Transport, answers, is_refusal, is_truncated};

/// All servers together; clients ask again after five seconds.
const PATIENCE: Duration = Duration::from_millis(1900);
/// Head start of each server over the next.
const STAGGER: Duration = Duration::from_millis(350);
/// A datagram may be lost: asked again after this.
const RETRY: Duration = Duration::from_millis(700);

/// The servers of a `resolv.conf`, in its order.
pub fn nameservers(resolv_conf: &str) -> Vec<SocketAddr> {
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next()? == "nameserver").then_some(())?;
        // A link-local address carries its interface, which an address of the standard library cannot.
        words.next()?.parse::<IpAddr>().ok()
    };
    resolv_conf.lines().filter_map(address).map(|ip| SocketAddr::new(ip, 53)).collect()
}

/// The answer of the first server that has one; an error of theirs only if no other says better.
pub(super) async fn forward(
    request: &[u8],
    upstreams: &[SocketAddr],
    transport: Transport,
) -> Option<Vec<u8>> {
    let deadline = Instant::now() + PATIENCE;
    let mut asked: FuturesUnordered<_> = upstreams
        .iter()
        .enumerate()
        .map(|(n, upstream)| async move {
            tokio::time::sleep(STAGGER.saturating_mul(u32::try_from(n).unwrap_or(u32::MAX))).await;
            (upstream, ask(request, *upstream, transport).await)
        })
        .collect();
    let mut refusal = None;
    while let Ok(Some((upstream, answer))) = timeout_at(deadline, asked.next()).await {
        match answer {
            Ok(answer) if is_refusal(&answer) => refusal = Some(answer),
            Ok(answer) => return Some(answer),
            Err(e) => tracing::debug!(%upstream, "name server: {e}"),
        }
    }
    refusal
}

/// Asks one server, over TCP too where the answer is cut and the client can take it whole.
async fn ask(request: &[u8], upstream: SocketAddr, transport: Transport) -> io::Result<Vec<u8>> {
    let mut own = request.to_vec();
    let id: [u8; 2] = rand::random();
    own[..2].copy_from_slice(&id);
    let mut answer = ask_udp(&own, upstream).await?;
    if transport == Transport::Tcp && is_truncated(&answer) {
        answer = ask_tcp(&own, upstream).await?;
    }
    answer[..2].copy_from_slice(&request[..2]);
    Ok(answer)
}

/// From a port of its own each time, so that an answer cannot be guessed.
async fn ask_udp(request: &[u8], upstream: SocketAddr) -> io::Result<Vec<u8>> {
    let any: SocketAddr = if upstream.is_ipv4() { ([0; 4], 0).into() } else { ([0; 16], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(upstream).await?;
    let mut answer = vec![0; usize::from(u16::MAX)];
    loop {
        socket.send(request).await?;
        let again = Instant::now() + RETRY;
        while let Ok(received) = timeout_at(again, socket.recv(&mut answer)).await {
            let len = received?;
            if answers(&answer[..len], request) {
                answer.truncate(len);
                return Ok(answer);
            }
        }
    }
}

async fn ask_tcp(request: &[u8], upstream: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(upstream).await?;
    write_message(&mut stream, request).await?;
    let answer = read_message(&mut stream).await?;
    if answer.len() < HEADER || !answers(&answer, request) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is to another question"));
    }
    Ok(answer)
}

/// Reads one message with its length before it.
pub(super) async fn read_message(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let len = stream.read_u16().await?;
    let mut message = vec![0; usize::from(len)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Writes one message with its length before it.
pub(super) async fn write_message(
    stream: &mut (impl tokio::io::AsyncWrite + Unpin),
    message: &[u8],
) -> io::Result<()> {
    let len = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut bytes = Vec::with_capacity(2 + message.len());
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes.extend_from_slice(message);
    stream.write_all(&bytes).await
}

#[cfg(test)]
mod tests {
    use super::nameservers;

    #[test]
    fn servers_are_read_in_order_and_rubbish_skipped() {
        let text = "# comment\nsearch a.b\nnameserver 127.0.0.53\nnameserver  fd00::1\nnameserver fe80::1%eth0\nnameserver\noptions edns0\n";
        let servers: Vec<String> = nameservers(text).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["127.0.0.53:53", "[fd00::1]:53"]);
    }
}
