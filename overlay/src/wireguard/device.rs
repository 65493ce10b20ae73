//! One WireGuard interface of this host, whoever does the cryptography: made sure of, given its peers,
//! compared, removed.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rtnetlink::Handle;
use rtnetlink::packet_route::link::InfoKind;
use wireguard_control::{Backend, DeviceUpdate, InterfaceName};

use super::peers::{PeerConfig, PeerState, difference};
use super::userspace::SEGMENTS;
use super::{Error, helper, key, link};

/// Bytes that WireGuard over UDP adds to a packet: 32 of its own, 8 UDP, and the outer IP header.
const OVERHEAD_V4: u16 = 60;
const OVERHEAD_V6: u16 = 80;
/// The least that IPv6 links may carry; below that the tunnel would be useless rather than slow.
const LEAST_MTU: u16 = 1280;
/// Some room below the 64 KiB an IP packet may have.
const MOST_MTU: u16 = 65_000;

/// What to make sure of.
#[derive(Clone, Debug)]
pub struct DeviceOptions {
    /// Interface name, `wg-<instance>`; also names the control socket.
    pub name: String,
    /// Where the private key is kept; made when absent.
    pub private_key_path: PathBuf,
    /// UDP port on the underlay.
    pub listen_port: u16,
    /// Binary that serves `wireguard <arguments>` where the kernel has no WireGuard.
    pub helper_exe: PathBuf,
    /// Folder for the helper's lock and log.
    pub exec_root: PathBuf,
    /// This node's address in the overlay, once known.
    pub addr: Option<Ipv4Addr>,
    /// The same of IPv6, where any network has it.
    pub addr6: Option<Ipv6Addr>,
    /// This node's address on the underlay, for the path MTU; the default route's link otherwise.
    pub underlay: Option<IpAddr>,
    /// A fixed MTU of the tunnel, instead of the underlay's less the overhead.
    pub mtu: Option<u16>,
}

/// A WireGuard interface. Cheap to clone.
#[derive(Clone)]
pub struct Device {
    inner: Arc<Inner>,
}

struct Inner {
    options: DeviceOptions,
    name: InterfaceName,
    backend: Backend,
    public_key: String,
    adopted: bool,
    mtu: u16,
    /// The endpoint last configured for each peer, to tell a change of configuration from roaming.
    given: Mutex<BTreeMap<String, SocketAddr>>,
    /// One change at a time: a difference is computed from what was read.
    changing: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device")
            .field("name", &self.inner.options.name)
            .field("kernel", &self.is_kernel())
            .field("mtu", &self.inner.mtu)
            .finish()
    }
}

impl Device {
    /// Makes the interface, or adopts it as it stands with all its peers and sessions, and sees to its
    /// key, port, MTU, address and state. Safe to call again at any time: what is right is not touched,
    /// and a userspace process that died is started again.
    pub async fn ensure(options: DeviceOptions) -> Result<Self, Error> {
        let name = options
            .name
            .parse::<InterfaceName>()
            .map_err(|reason| Error::BadName { name: options.name.clone(), reason: reason.to_string() })?;
        let key_path = options.private_key_path.clone();
        let (private, public_key) = blocking(move || key::load_or_create_key(&key_path)).await?;
        let netlink = link::connect(&options.name)?;

        let mtu = match options.mtu {
            Some(mtu) => mtu,
            None => {
                let underlay = link::underlay_mtu(&netlink, &options.name, options.underlay).await?;
                let overhead =
                    if options.underlay.is_some_and(|a| a.is_ipv4()) { OVERHEAD_V4 } else { OVERHEAD_V6 };
                underlay.saturating_sub(overhead)
            }
        }
        .clamp(LEAST_MTU, MOST_MTU);

        let (backend, adopted) = establish(&netlink, &options, mtu).await?;
        let inner = Inner {
            options,
            name,
            backend,
            public_key,
            adopted,
            mtu,
            given: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
        };
        let device = Self { inner: Arc::new(inner) };
        device.configure(&private).await?;
        device.set_link(&netlink).await?;
        Ok(device)
    }

    /// Key and port, where they differ.
    async fn configure(&self, private: &key::PrivateKey) -> Result<(), Error> {
        let found = self.read().await?;
        let port = self.inner.options.listen_port;
        let mut update = DeviceUpdate::new();
        let mut differs = false;
        if found.private_key.as_ref() != Some(&private.0) {
            update = update.set_private_key(private.0.clone());
            differs = true;
        }
        if found.listen_port != Some(port) {
            update = update.set_listen_port(port);
            differs = true;
        }
        if differs {
            self.update("setting key and port", update).await.map_err(|e| match e {
                Error::Configure { source, name, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
                    Error::PortTaken { port, name }
                }
                other => other,
            })?;
        }
        Ok(())
    }

    async fn set_link(&self, netlink: &Handle) -> Result<(), Error> {
        let Options { name, addr, addr6 } = self.link_options();
        let Some(found) = link::find(netlink, name).await? else {
            return Err(Error::Configure {
                operation: "finding",
                name: name.to_owned(),
                source: std::io::ErrorKind::NotFound.into(),
            });
        };
        let segments = (!self.is_kernel()).then_some(SEGMENTS);
        let port = self.inner.options.listen_port;
        link::bring_up(netlink, name, found.index, self.inner.mtu, segments, port).await?;
        if let Some(addr) = addr {
            link::set_address(netlink, name, found.index, addr.into()).await?;
        }
        if let Some(addr) = addr6 {
            let interface = name.to_owned();
            let on = blocking(move || crate::reconcile::settle6(&interface)).await;
            on.map_err(|e| Error::Configure {
                operation: "turning on IPv6 at",
                name: name.to_owned(),
                source: std::io::Error::other(e),
            })?;
            return link::set_address(netlink, name, found.index, addr.into()).await;
        }
        link::keep_address(netlink, name, found.index, true, None).await.map(drop)
    }

    fn link_options(&self) -> Options<'_> {
        let options = &self.inner.options;
        Options { name: &options.name, addr: options.addr, addr6: options.addr6 }
    }

    /// Makes the peers exactly these. Peers that are as wanted keep their sessions undisturbed; the
    /// others change in one step.
    pub async fn set_peers(&self, peers: &[PeerConfig]) -> Result<(), Error> {
        let _one_at_a_time = self.inner.changing.lock().await;
        let have = self.peers().await?;
        let update = {
            let given = self.inner.given.lock().unwrap_or_else(PoisonError::into_inner);
            difference(&have, peers, &given)?
        };
        if let Some(update) = update {
            self.update("setting the peers", update).await?;
        }
        let mut given = self.inner.given.lock().unwrap_or_else(PoisonError::into_inner);
        *given = peers.iter().map(|p| (p.public_key.clone(), p.endpoint)).collect();
        Ok(())
    }

    /// The peers as the device has them, by public key.
    pub async fn peers(&self) -> Result<Vec<PeerState>, Error> {
        let mut peers: Vec<PeerState> = self.read().await?.peers.iter().map(PeerState::from).collect();
        peers.sort_by(|a, b| a.public_key.cmp(&b.public_key));
        Ok(peers)
    }

    /// Interface name.
    pub fn name(&self) -> &str {
        &self.inner.options.name
    }

    /// MTU of the tunnel.
    pub fn mtu(&self) -> u16 {
        self.inner.mtu
    }

    /// This node's public key, base64.
    pub fn public_key(&self) -> &str {
        &self.inner.public_key
    }

    /// Whether the kernel does the work, rather than our own process.
    pub fn is_kernel(&self) -> bool {
        self.inner.backend == Backend::Kernel
    }

    /// Whether the interface was already there and working: its peers then are those of before.
    pub fn adopted(&self) -> bool {
        self.inner.adopted
    }

    /// Removes the interface, and ends the userspace process if there is one.
    pub async fn remove(&self) -> Result<(), Error> {
        let name = &self.inner.options.name;
        let netlink = link::connect(name)?;
        let deleted = link::delete(&netlink, name).await;
        if !self.is_kernel() {
            helper::stop(name, &self.inner.options.exec_root).await?;
        }
        deleted
    }

    async fn read(&self) -> Result<wireguard_control::Device, Error> {
        let (name, backend) = (self.inner.name, self.inner.backend);
        self.control("reading the state", move || wireguard_control::Device::get(&name, backend)).await
    }

    async fn update(&self, operation: &'static str, update: DeviceUpdate) -> Result<(), Error> {
        let (name, backend) = (self.inner.name, self.inner.backend);
        if backend == Backend::Userspace {
            // wireguard-control would start wireguard-go when nobody answers the socket.
            let path = helper::socket(&self.inner.options.name);
            self.control(operation, move || std::os::unix::net::UnixStream::connect(path).map(drop)).await?;
        }
        self.control(operation, move || update.apply(&name, backend)).await
    }

    /// Runs one call of the configuration protocol, which blocks.
    async fn control<T: Send + 'static>(
        &self,
        operation: &'static str,
        call: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let name = self.inner.options.name.clone();
        blocking(move || call().map_err(|source| Error::Configure { operation, name, source })).await
    }
}

/// The part of the options that the link needs.
struct Options<'a> {
    name: &'a str,
    addr: Option<Ipv4Addr>,
    addr6: Option<Ipv6Addr>,
}

/// Finds or makes the interface; says who drives it and whether it was there, working.
async fn establish(netlink: &Handle, options: &DeviceOptions, mtu: u16) -> Result<(Backend, bool), Error> {
    let name = &options.name;
    match link::find(netlink, name).await? {
        Some(link) => match link.kind {
            Some(InfoKind::Wireguard) => return Ok((Backend::Kernel, true)),
            // The kernel calls TAP and TUN alike "tun"; ours stays when its process dies.
            Some(InfoKind::Tun) => {}
            kind => {
                let kind = kind.map_or_else(|| "none (a physical one)".to_owned(), |kind| kind.to_string());
                return Err(Error::NameTaken { name: name.clone(), kind });
            }
        },
        None => {
            if link::create_kernel(netlink, name).await? {
                return Ok((Backend::Kernel, false));
            }
        }
    }
    let adopted = helper::ensure(options, mtu).await?;
    Ok((Backend::Userspace, adopted))
}

/// Runs what blocks, off the runtime.
pub(super) async fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(call).await {
        Ok(value) => value,
        Err(e) => match e.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(e) => std::panic::panic_any(format!("the runtime ended under a WireGuard call: {e}")),
        },
    }
}
