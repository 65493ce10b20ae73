//! The tunnel's interface over rtnetlink: found, made where the kernel has WireGuard, sized, addressed.

use std::net::{IpAddr, Ipv4Addr};

use futures::TryStreamExt as _;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags};
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader};
use rtnetlink::{Handle, LinkUnspec, LinkWireguard, RouteMessageBuilder};

use super::Error;

/// What is known of an interface.
pub(super) struct Link {
    pub index: u32,
    pub kind: Option<InfoKind>,
    pub mtu: u32,
}

impl Link {
    fn read(message: &LinkMessage) -> Self {
        let mut link = Self { index: message.header.index, kind: None, mtu: 1500 };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        if let LinkInfo::Kind(kind) = info {
                            link.kind = Some(kind.clone());
                        }
                    }
                }
                _ => {}
            }
        }
        link
    }
}

/// A netlink connection in the namespace of the calling thread.
pub(super) fn connect(name: &str) -> Result<Handle, Error> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(|source| Error::Configure {
        operation: "opening a netlink socket for the set-up",
        name: name.to_owned(),
        source,
    })?;
    tokio::spawn(connection);
    Ok(handle)
}

/// The errno inside a netlink error.
fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(message.raw_code().abs()),
        _ => None,
    }
}

/// The interface of that name, if there is one.
pub(super) async fn find(handle: &Handle, name: &str) -> Result<Option<Link>, Error> {
    let found = handle.link().get().match_name(name.to_owned()).execute().try_next().await;
    match found {
        Ok(message) => Ok(message.as_ref().map(Link::read)),
        Err(e) if matches!(errno(&e), Some(libc::ENODEV | libc::ENOENT)) => Ok(None),
        Err(e) => Err(Error::netlink("looking up interface", name)(e)),
    }
}

/// Makes a kernel WireGuard interface; `false` where this kernel has none.
pub(super) async fn create_kernel(handle: &Handle, name: &str) -> Result<bool, Error> {
    match handle.link().add(LinkWireguard::new(name).build()).execute().await {
        Ok(()) => Ok(true),
        Err(e) if errno(&e) == Some(libc::EOPNOTSUPP) => Ok(false),
        Err(e) => Err(Error::netlink("creating interface", name)(e)),
    }
}

/// Removes the interface; one that is not there counts as removed.
pub(super) async fn delete(handle: &Handle, name: &str) -> Result<(), Error> {
    let Some(link) = find(handle, name).await? else { return Ok(()) };
    match handle.link().del(link.index).execute().await {
        Err(e) if errno(&e) != Some(libc::ENODEV) => Err(Error::netlink("removing interface", name)(e)),
        _ => Ok(()),
    }
}

/// Sets the MTU and brings the interface up. `segments` bounds the packets that the kernel hands over
/// joined into one. The kernel's WireGuard opens its `port` only now.
pub(super) async fn bring_up(
    handle: &Handle,
    name: &str,
    index: u32,
    mtu: u16,
    segments: Option<u32>,
    port: u16,
) -> Result<(), Error> {
    let mut message = LinkUnspec::new_with_index(index).mtu(u32::from(mtu)).up();
    if let Some(segments) = segments {
        message = message.append_extra_attribute(LinkAttribute::GsoMaxSegs(segments));
    }
    match handle.link().set(message.build()).execute().await {
        Err(e) if errno(&e) == Some(libc::EADDRINUSE) => {
            Err(Error::PortTaken { port, name: name.to_owned() })
        }
        other => other.map_err(Error::netlink("setting MTU and state of interface", name)),
    }
}

/// Gives the interface exactly this address of its family, as the only one of its range: every other one is removed, but
/// for link-local ones.
pub(super) async fn set_address(handle: &Handle, name: &str, index: u32, addr: IpAddr) -> Result<(), Error> {
    let len = if addr.is_ipv4() { 32 } else { 128 };
    if keep_address(handle, name, index, addr.is_ipv6(), Some((addr, len))).await? {
        return Ok(());
    }
    let mut request = handle.address().add(index, addr, len);
    if addr.is_ipv6() {
        // Nobody else can have it. Without the flag it is tentative until the kernel's own task has looked, and a route
        // that names it as its source is refused meanwhile (EINVAL).
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
    }
    match request.execute().await {
        Err(e) if errno(&e) != Some(libc::EEXIST) => Err(Error::netlink("adding the address of", name)(e)),
        _ => Ok(()),
    }
}

/// Removes all addresses of a family but this one, and link-local ones; whether this one is there.
pub(super) async fn keep_address(
    handle: &Handle,
    name: &str,
    index: u32,
    v6: bool,
    kept: Option<(IpAddr, u8)>,
) -> Result<bool, Error> {
    let mut present = false;
    let mut found = handle.address().get().set_link_index_filter(index).execute();
    let mut others = Vec::new();
    while let Some(message) =
        found.try_next().await.map_err(Error::netlink("reading the addresses of", name))?
    {
        let local = message.attributes.iter().find_map(|a| match a {
            // Of IPv6 there is the other attribute only.
            AddressAttribute::Local(local @ IpAddr::V4(_))
            | AddressAttribute::Address(local @ IpAddr::V6(_)) => Some(*local),
            _ => None,
        });
        let local = local.filter(|local| match local {
            IpAddr::V4(_) => !v6,
            IpAddr::V6(local) => v6 && !local.is_unicast_link_local(),
        });
        match local.map(|local| (local, message.header.prefix_len)) {
            Some(local) if Some(local) == kept => present = true,
            Some(_) => others.push(message),
            None => {}
        }
    }
    for message in others {
        handle
            .address()
            .del(message)
            .execute()
            .await
            .map_err(Error::netlink("removing an old address of", name))?;
    }
    Ok(present)
}

/// The MTU of the underlay: of the interface that carries `local`, else of the one with the default
/// route, else Ethernet's.
pub(super) async fn underlay_mtu(handle: &Handle, name: &str, local: Option<IpAddr>) -> Result<u16, Error> {
    let index = match local {
        Some(local) => index_of_address(handle, name, local).await?,
        None => default_route(handle, name).await?,
    };
    let Some(index) = index else { return Ok(1500) };
    let link = handle.link().get().match_index(index).execute().try_next().await;
    let link = link.map_err(Error::netlink("reading the underlay MTU for", name))?;
    let mtu = link.as_ref().map_or(1500, |l| Link::read(l).mtu);
    Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
}

async fn index_of_address(handle: &Handle, name: &str, local: IpAddr) -> Result<Option<u32>, Error> {
    let mut found = handle.address().get().set_address_filter(local).execute();
    let first =
        found.try_next().await.map_err(Error::netlink("looking for the underlay address of", name))?;
    Ok(first.map(|message| message.header.index))
}

async fn default_route(handle: &Handle, name: &str) -> Result<Option<u32>, Error> {
    let mut routes = handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
    let mut first = None;
    // To the end: the connection complains of answers that nobody takes.
    while let Some(route) =
        routes.try_next().await.map_err(Error::netlink("reading the default route for", name))?
    {
        let device = route.attributes.iter().find_map(|a| match a {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        });
        // The ingress mesh has default routes of its own, in other tables.
        let main = route.header.table == RouteHeader::RT_TABLE_MAIN;
        if main && route.header.destination_prefix_length == 0 {
            first = first.or(device);
        }
    }
    Ok(first)
}
