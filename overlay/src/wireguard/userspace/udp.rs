//! The underlay socket with offload: packets for one peer leave and arrive many to a system call.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket as StdSocket};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use gotatun::packet::{Packet, PacketBufPool};
use gotatun::udp::{UdpRecv, UdpSend, UdpTransportFactory, UdpTransportFactoryParams};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType,
    SockaddrIn, SockaddrIn6, SockaddrStorage, bind, recvmsg, sendmsg, setsockopt, socket, sockopt,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Most datagrams in one offloaded send; older kernels refuse more.
const SEGMENTS: usize = 64;
/// Most bytes in one offloaded send: the largest UDP payload, less an IPv6 header.
const LARGEST_SEND: usize = 65_535 - 8 - 40;
/// Packets given to one call of `send_many_to`.
const BATCH: usize = 128;
/// Reads for one wake-up, so that one busy peer cannot keep the task for ever.
const READS: usize = 16;
/// Room in the socket for bursts, as wireguard-go asks for.
const BUFFER: usize = 7 << 20;

/// Opens sockets for the device.
pub(super) struct Factory;

impl UdpTransportFactory for Factory {
    type Send = Socket;
    type Recv = Socket;

    async fn bind(&mut self, params: &UdpTransportFactoryParams) -> io::Result<(Socket, Socket)> {
        let fd = match params.addr {
            Some(addr) => open(addr, params.port)?,
            // Both families on one socket, or IPv4 alone where IPv6 is switched off.
            None => match open(std::net::Ipv6Addr::UNSPECIFIED.into(), params.port) {
                Err(e) if matches!(e.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => {
                    open(std::net::Ipv4Addr::UNSPECIFIED.into(), params.port)?
                }
                result => result?,
            },
        };
        if let Some(mark) = params.fwmark {
            setsockopt(&fd, sockopt::Mark, &mark)?;
        }
        if let Err(e) = setsockopt(&fd, sockopt::UdpGroSegment, &true) {
            tracing::warn!("this kernel does not join received datagrams: {e}");
        }
        let socket = Socket { socket: Arc::new(UdpSocket::from_std(StdSocket::from(fd))?) };
        Ok((socket.clone(), socket))
    }
}

/// A bound socket that fragments like the kernel's WireGuard does, rather than losing what is too big.
fn open(addr: IpAddr, port: u16) -> io::Result<OwnedFd> {
    let family = if addr.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(family, SockType::Datagram, flags, SockProtocol::Udp)?;
    for (option, done) in [
        ("receive", setsockopt(&fd, sockopt::RcvBufForce, &BUFFER)),
        ("send", setsockopt(&fd, sockopt::SndBufForce, &BUFFER)),
    ] {
        if let Err(e) = done {
            tracing::warn!("{option} buffer of the underlay socket stays small: {e}");
        }
    }
    set_int(&fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)?;
    match addr {
        IpAddr::V4(addr) => bind(fd.as_raw_fd(), &SockaddrIn::from(std::net::SocketAddrV4::new(addr, port)))?,
        IpAddr::V6(addr) => {
            setsockopt(&fd, sockopt::Ipv6V6Only, &!addr.is_unspecified())?;
            set_int(&fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT)?;
            bind(fd.as_raw_fd(), &SockaddrIn6::from(std::net::SocketAddrV6::new(addr, port, 0, 0)))?;
        }
    }
    Ok(fd)
}

/// An integer socket option that `nix` does not know.
fn set_int(fd: &impl AsFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    let size = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the descriptor is open for the call and the pointer is to a whole i32 of that size.
    let done =
        unsafe { libc::setsockopt(fd.as_fd().as_raw_fd(), level, option, (&raw const value).cast(), size) };
    Errno::result(done).map(drop).map_err(Into::into)
}

/// The socket, for sending and for receiving.
#[derive(Clone)]
pub(super) struct Socket {
    socket: Arc<UdpSocket>,
}

impl Socket {
    /// Sends datagrams of one size (the last may be shorter) to one peer, in one call.
    async fn send_run(&self, run: &[(Packet, SocketAddr)]) -> io::Result<()> {
        let [(first, target), ..] = run else { return Ok(()) };
        let target = SockaddrStorage::from(*target);
        let size = u16::try_from(first.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut slices = [IoSlice::new(&[]); SEGMENTS];
        for (slice, (packet, _)) in slices.iter_mut().zip(run) {
            *slice = IoSlice::new(packet);
        }
        let offload = [ControlMessage::UdpGsoSegments(&size)];
        let offload = if run.len() > 1 { &offload[..] } else { &[] };
        let send = || {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            sendmsg(self.socket.as_raw_fd(), &slices[..run.len()], offload, flags, Some(&target))?;
            Ok(())
        };
        self.socket.async_io(Interest::WRITABLE, send).await
    }
}

/// How many packets from the front may leave in one call.
fn run_length(packets: &[(Packet, SocketAddr)]) -> usize {
    let Some((first, target)) = packets.first() else { return 0 };
    let (mut count, mut bytes) = (1, first.len());
    for (packet, to) in packets.iter().skip(1).take(SEGMENTS - 1) {
        bytes += packet.len();
        if to != target || packet.len() > first.len() || bytes > LARGEST_SEND {
            break;
        }
        count += 1;
        if packet.len() < first.len() {
            break;
        }
    }
    count
}

impl UdpSend for Socket {
    type SendManyBuf = ();

    async fn send_to(&self, packet: Packet, target: SocketAddr) -> io::Result<()> {
        self.socket.send_to(&packet, target).await.map(drop)
    }

    fn max_number_of_packets_to_send(&self) -> usize {
        BATCH
    }

    async fn send_many_to(&self, (): &mut (), packets: &mut Vec<(Packet, SocketAddr)>) -> io::Result<()> {
        let mut rest = packets.as_slice();
        while !rest.is_empty() {
            let (run, after) = rest.split_at(run_length(rest));
            if let Err(e) = self.send_run(run).await {
                tracing::trace!("offloaded send of {}: {e}", run.len());
                // A path or a driver that cannot take them together may take them one by one.
                for (packet, target) in run {
                    if let Err(e) = self.socket.send_to(packet, *target).await {
                        tracing::debug!(%target, "packet to a peer dropped: {e}");
                    }
                }
            }
            rest = after;
        }
        packets.clear();
        Ok(())
    }

    fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        self.socket.local_addr().map(Some)
    }

    fn set_fwmark(&self, mark: u32) -> io::Result<()> {
        Ok(setsockopt(&self.socket, sockopt::Mark, &mark)?)
    }
}

/// Room for one read of joined datagrams.
pub(super) struct ReceiveBuffer(Vec<u8>);

impl Default for ReceiveBuffer {
    fn default() -> Self {
        Self(vec![0; 1 << 16])
    }
}

/// One read: the bytes, the size of each datagram in them, and the sender.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, usize, Option<SocketAddr>)> {
    let mut control = nix::cmsg_space!(i32);
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags)?;
    let joined = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::UdpGroSegments(size) => usize::try_from(size).ok().filter(|size| *size > 0),
        _ => None,
    });
    let from = message.address.and_then(|address| {
        let v4 = address.as_sockaddr_in().map(|a| SocketAddr::from(*a));
        v4.or_else(|| address.as_sockaddr_in6().map(|a| SocketAddr::from(*a)))
    });
    let from = from.map(|address| SocketAddr::new(address.ip().to_canonical(), address.port()));
    Ok((message.bytes, joined.unwrap_or(message.bytes), from))
}

impl UdpRecv for Socket {
    type RecvManyBuf = ReceiveBuffer;

    async fn recv_from(&mut self, pool: &mut PacketBufPool) -> io::Result<(Packet, SocketAddr)> {
        let mut packet = pool.get();
        let (size, from) = self.socket.recv_from(&mut packet).await?;
        packet.truncate(size);
        Ok((packet, SocketAddr::new(from.ip().to_canonical(), from.port())))
    }

    async fn recv_many_from(
        &mut self,
        buffer: &mut ReceiveBuffer,
        pool: &mut PacketBufPool,
        packets: &mut Vec<(Packet, SocketAddr)>,
    ) -> io::Result<()> {
        loop {
            let read = self.socket.async_io(Interest::READABLE, || {
                for read in 0..READS {
                    let (bytes, size, from) = match receive(&self.socket, &mut buffer.0) {
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock && read > 0 => break,
                        result => result?,
                    };
                    let Some(from) = from else { continue };
                    for datagram in buffer.0[..bytes].chunks(size.max(1)) {
                        let mut packet = pool.get();
                        packet.buf_mut().clear();
                        packet.buf_mut().extend_from_slice(datagram);
                        packets.push((packet, from));
                    }
                }
                Ok(())
            });
            match read.await {
                Ok(()) => return Ok(()),
                // The device would end for good; the socket's errors pass.
                Err(e) => {
                    tracing::warn!("reading from the underlay: {e}");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_of_one_size_and_one_peer() {
        let (a, b): (SocketAddr, SocketAddr) =
            ("1.1.1.1:1".parse().expect("address"), "2.2.2.2:2".parse().expect("address"));
        for (sizes, expected) in [
            (vec![(100, a); 3], 3),
            (vec![(100, a), (100, a), (60, a), (100, a)], 3),
            (vec![(100, a), (120, a)], 1),
            (vec![(100, a), (100, b)], 1),
            (vec![(100, a); 100], SEGMENTS),
            (vec![(9000, a); 10], LARGEST_SEND / 9000),
            (vec![], 0),
        ] {
            let packets: Vec<_> =
                sizes.iter().map(|(size, to)| (Packet::copy_from(&vec![0u8; *size][..]), *to)).collect();
            assert_eq!(run_length(&packets), expected, "{sizes:?}");
        }
    }
}
