//! The life of the process: device, control socket, and the things that end it.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use gotatun::device::uapi::UapiServer;
use gotatun::x25519::StaticSecret;
use tokio::signal::unix::{SignalKind, signal};

use super::options::Options;
use super::{control, tun, uapi, udp};
use crate::wireguard::helper;
use crate::wireguard::load_or_create_key;

/// How often to look whether the daemon's state was removed under us.
const ORPHAN_CHECK: Duration = Duration::from_secs(5);
/// How long the port may still be that of a process before this one, and how often to look. Where another program has it, a round
/// of the daemon's takes so much longer, with the swarm's networks waiting.
const PORT_PATIENCE: Duration = Duration::from_secs(2);
const PORT_STEP: Duration = Duration::from_millis(10);
/// How long to go on telling a peer that this process took over from a dead one.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(20);

/// The device with our transports.
pub(super) type Device = gotatun::device::Device<(udp::Factory, tun::Writer, tun::Reader)>;

/// Worker threads: reading, writing, sealing and opening are what can go on at once.
pub(super) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get().min(4))
}

/// Serves until there is a reason to end.
pub(super) async fn serve(options: &Options, lock: &Path, ready: impl FnOnce()) -> Result<(), String> {
    let (private, _) = load_or_create_key(&options.private_key_file).map_err(|e| e.to_string())?;
    let opened = tun::open(&options.name, options.mtu)
        .await
        .map_err(|e| format!("opening TUN interface {} (/dev/net/tun): {e}", options.name))?;
    let (client, server) = UapiServer::new();
    let device: Device = gotatun::device::build()
        .with_udp(udp::Factory)
        .with_ip_pair(opened.writer, opened.reader)
        .with_private_key(StaticSecret::from(private.bytes()))
        .with_uapi(server)
        .build()
        .await
        .map_err(|e| format!("making the device: {e}"))?;
    listen(&device, options.listen_port)
        .await
        .map_err(|e| format!("UDP port {}: {e}", options.listen_port))?;
    let mut end = signal(SignalKind::terminate()).map_err(|e| format!("SIGTERM: {e}"))?;
    let mut changes = uapi::start(&options.name, client)
        .map_err(|e| format!("control socket {}: {e}", helper::socket(&options.name).display()))?;
    tracing::info!(interface = %options.name, port = options.listen_port, took_over = opened.took_over, "serving");
    ready();

    let mut orphaned = pin!(orphaned(lock));
    let mut handshakes = FuturesUnordered::new();
    let reason = loop {
        tokio::select! {
            Some(change) = changes.recv() => {
                let (result, added) = control::apply(&device, change.set).await;
                // The client may have hung up.
                let _ = change.answer.send(result);
                if opened.took_over {
                    // Peers still hold sessions with the process before us, and would go on sealing
                    // for it for up to 15 seconds.
                    for key in added {
                        let device = &device;
                        handshakes.push(async move {
                            tokio::time::timeout(HANDSHAKE_PATIENCE, device.force_handshake(&key)).await
                        });
                    }
                }
            }
            Some(_) = handshakes.next(), if !handshakes.is_empty() => {}
            () = opened.gone.cancelled() => break "the interface is gone",
            _ = end.recv() => break "told to end",
            () = &mut orphaned => break "the daemon's state was removed",
        }
    };
    tracing::info!(interface = %options.name, reason, "ending");
    // Whoever looks for the socket next must not find one that nobody answers.
    let _ = std::fs::remove_file(helper::socket(&options.name));
    Ok(())
}

/// Takes the port. The kernel lets go of the lock of a process that was killed a moment before its sockets.
async fn listen(device: &Device, port: u16) -> std::io::Result<()> {
    let deadline = Instant::now() + PORT_PATIENCE;
    loop {
        match control::listen(device, port).await {
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                tokio::time::sleep(PORT_STEP).await;
            }
            result => return result,
        }
    }
}

/// Returns once the lock file that this process holds has been unlinked.
async fn orphaned(lock: &Path) {
    let ours = std::fs::metadata(lock).map(|m| m.ino()).ok();
    loop {
        tokio::time::sleep(ORPHAN_CHECK).await;
        let there = std::fs::metadata(lock).map(|m| m.ino()).ok();
        if there.is_none() || there != ours {
            return;
        }
    }
}
