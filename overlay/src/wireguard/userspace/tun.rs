//! The TUN interface with segmentation offload: the kernel hands over and takes TCP in pieces of up to
//! 64 KiB, one system call each, instead of packet by packet.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use gotatun::packet::{Ip, Packet, PacketBufPool};
use gotatun::tun::{IpRecv, IpSend, MtuWatcher};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tun_rs::{AsyncDevice, DeviceBuilder, GROTable, VIRTIO_NET_HDR_LEN};

/// Most packets that one read is cut into.
const SEGMENTS: usize = super::SEGMENTS as usize;
/// Most packets that are joined for one write.
const BATCH: usize = 128;
/// Packets waiting to be written.
const QUEUE: usize = 1024;
/// How long the interface may be another's: of a process that ends, the kernel gives back locks at once, and files a
/// moment later, without a word.
const RELEASE: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(10);
/// The largest IP packet.
const LARGEST: usize = 65_535;

/// An opened interface.
pub(super) struct Opened {
    pub reader: Reader,
    pub writer: Writer,
    /// The interface was there, left by a process that died.
    pub took_over: bool,
    /// Cancelled once the interface is deleted.
    pub gone: CancellationToken,
}

/// Opens the interface, making it if it is not there. It stays when this process ends.
pub(super) async fn open(name: &str, mtu: u16) -> io::Result<Opened> {
    let took_over = nix::net::if_::if_nametoindex(name).is_ok();
    let deadline = Instant::now() + RELEASE;
    let device = loop {
        match DeviceBuilder::new().name(name).mtu(mtu).offload(true).build_async() {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                tokio::time::sleep(STEP).await;
            }
            built => break built?,
        }
    };
    device.persist()?;
    let device = Arc::new(device);
    let gone = CancellationToken::new();
    let (packets, queue) = mpsc::channel(QUEUE);
    tokio::spawn(write_all(device.clone(), queue, gone.clone()));
    let reader = Reader {
        device,
        raw: vec![0; VIRTIO_NET_HDR_LEN + LARGEST],
        segments: Vec::with_capacity(SEGMENTS),
        sizes: vec![0; SEGMENTS],
        mtu,
        gone: gone.clone(),
    };
    Ok(Opened { reader, writer: Writer { packets }, took_over, gone })
}

/// Whether an error says that the interface was deleted.
fn deleted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADFD | libc::EBADF | libc::ENODEV))
}

/// Reads packets that the host routes into the tunnel.
pub(super) struct Reader {
    device: Arc<AsyncDevice>,
    raw: Vec<u8>,
    segments: Vec<Segment>,
    sizes: Vec<usize>,
    mtu: u16,
    gone: CancellationToken,
}

/// A packet buffer, as the splitter wants to see it.
struct Segment(Packet);

impl AsRef<[u8]> for Segment {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl AsMut<[u8]> for Segment {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl IpRecv for Reader {
    async fn recv<'a>(
        &'a mut self,
        pool: &mut PacketBufPool,
    ) -> io::Result<impl Iterator<Item = Packet<Ip>> + Send + 'a> {
        let count = loop {
            while self.segments.len() < SEGMENTS {
                let mut packet = pool.get();
                if packet.len() < usize::from(self.mtu) {
                    packet.buf_mut().resize(usize::from(self.mtu), 0);
                }
                self.segments.push(Segment(packet));
            }
            match self.device.recv_multiple(&mut self.raw, &mut self.segments, &mut self.sizes, 0).await {
                Ok(count) => break count,
                Err(e) if deleted(&e) => {
                    self.gone.cancel();
                    return Err(e);
                }
                // One malformed packet must not end the tunnel.
                Err(e) if e.raw_os_error().is_none() => tracing::debug!("packet from the host dropped: {e}"),
                Err(e) => {
                    tracing::warn!("reading from the interface: {e}");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        };
        let read = self.segments.drain(..count).zip(&self.sizes);
        Ok(read.filter_map(|(Segment(mut packet), size)| {
            packet.truncate(*size);
            packet.try_into_ip().ok()
        }))
    }

    fn mtu(&self) -> MtuWatcher {
        MtuWatcher::new(self.mtu)
    }
}

/// Takes decrypted packets; a task joins and writes them.
pub(super) struct Writer {
    packets: mpsc::Sender<Packet<Ip>>,
}

impl IpSend for Writer {
    async fn send(&mut self, packet: Packet<Ip>) -> io::Result<()> {
        self.packets.send(packet).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Writes what is queued, joining neighbours of one TCP or UDP flow, until the interface is deleted.
async fn write_all(device: Arc<AsyncDevice>, mut queue: mpsc::Receiver<Packet<Ip>>, gone: CancellationToken) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut table = GROTable::default();
    let mut buffers: Vec<BytesMut> =
        (0..BATCH).map(|_| BytesMut::with_capacity(VIRTIO_NET_HDR_LEN + LARGEST)).collect();
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        let count = batch.len();
        for (buffer, packet) in buffers.iter_mut().zip(batch.drain(..)) {
            buffer.clear();
            buffer.extend_from_slice(&[0; VIRTIO_NET_HDR_LEN]);
            buffer.extend_from_slice(&packet.into_bytes());
        }
        match device.send_multiple(&mut table, &mut buffers[..count], VIRTIO_NET_HDR_LEN).await {
            Err(e) if deleted(&e) => {
                gone.cancel();
                return;
            }
            Err(e) => tracing::debug!("packet to the host dropped: {e}"),
            Ok(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    #[tokio::test]
    async fn an_interface_is_waited_for_while_the_process_before_still_has_it() {
        // Of this thread, which the runtime does not leave.
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of its own");
        let before = open("skep-busy", 1420).await.expect("made");
        let mut after = Box::pin(open("skep-busy", 1420));
        tokio::select! {
            biased;
            opened = &mut after => panic!("two have it: {:?}", opened.map(|o| o.took_over)),
            () = tokio::time::sleep(STEP / 2) => {}
        }
        drop(before);
        assert!(after.await.expect("once it is free").took_over);
    }
}
