//! The fixed headers and attribute numbers of rtnetlink.

use std::os::fd::AsRawFd;

use super::{On, Route, Upper, Veth};
use crate::cidr::Address;
use crate::netlink::{Attrs, Message, NLM_F_CREATE, NLM_F_EXCL};

pub const RTM_NEWLINK: u16 = 16;
pub const RTM_DELLINK: u16 = 17;
pub const RTM_GETLINK: u16 = 18;
pub const RTM_NEWADDR: u16 = 20;
pub const RTM_DELADDR: u16 = 21;
pub const RTM_GETADDR: u16 = 22;
pub const RTM_NEWROUTE: u16 = 24;
pub const RTM_DELROUTE: u16 = 25;
pub const RTM_GETROUTE: u16 = 26;
pub const RTM_NEWNEIGH: u16 = 28;
pub const IFLA_ADDRESS: u16 = 1;
pub const IFLA_IFNAME: u16 = 3;
pub const IFLA_MTU: u16 = 4;
pub const IFLA_LINK: u16 = 5;
pub const IFLA_MASTER: u16 = 10;
pub const IFLA_OPERSTATE: u16 = 16;
pub const IF_OPER_UP: u8 = 6;
pub const IFLA_LINKINFO: u16 = 18;
pub const IFLA_INFO_KIND: u16 = 1;
pub const IFLA_INFO_DATA: u16 = 2;
pub const IFLA_INFO_SLAVE_DATA: u16 = 5;
pub const IFLA_BRPORT_ISOLATED: u16 = 33;
pub const IFLA_VXLAN_ID: u16 = 1;
pub const IFLA_VXLAN_LOCAL: u16 = 4;
pub const IFLA_VXLAN_LEARNING: u16 = 7;
pub const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_NET_NS_FD: u16 = 28;
const VETH_INFO_PEER: u16 = 1;
pub const IFF_UP: u32 = 1;
pub const IFA_ADDRESS: u16 = 1;
pub const IFA_LOCAL: u16 = 2;
pub const IFA_BROADCAST: u16 = 4;
pub const RTA_DST: u16 = 1;
pub const RTA_OIF: u16 = 4;
pub const RTA_GATEWAY: u16 = 5;
pub const RTA_PREFSRC: u16 = 7;
pub const RTA_TABLE: u16 = 15;
pub const RT_TABLE_MAIN: u8 = 254;
pub const NDA_DST: u16 = 1;
pub const NDA_LLADDR: u16 = 2;
pub const NUD_PERMANENT: u16 = 0x80;
pub const AF_INET: u8 = 2;
pub const IFA_F_NODAD: u8 = 2;
/// Marks our routes in `ip route` (any number the distribution does not use).
pub const RTPROT_SKEP: u8 = 83;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
pub const RTN_UNICAST: u8 = 1;

pub fn link_header(index: u32, flags: u32, change: u32) -> Attrs {
    Attrs::default()
        .raw(&[0; 4])
        .raw(&index.to_ne_bytes())
        .raw(&flags.to_ne_bytes())
        .raw(&change.to_ne_bytes())
}

pub fn route_header(family: u8, len: u8, scope: u8) -> Attrs {
    Attrs::default().raw(&[family, len, 0, 0, RT_TABLE_MAIN, RTPROT_SKEP, scope, RTN_UNICAST]).raw(&[0; 4])
}

pub fn route_body<A: Address>(index: u32, route: &Route<A>) -> Attrs {
    let scope = if route.via.is_some() { RT_SCOPE_UNIVERSE } else { RT_SCOPE_LINK };
    let mut body = route_header(A::FAMILY, route.to.len, scope).u32(RTA_OIF, index);
    if route.to.len > 0 {
        body = body.put(RTA_DST, &route.to.addr.bytes());
    }
    if let Some(via) = route.via {
        body = body.put(RTA_GATEWAY, &via.bytes());
    }
    if let Some(src) = route.src {
        body = body.put(RTA_PREFSRC, &src.bytes());
    }
    body
}

pub fn neighbour_header(family: u8, index: u32, state: u16, flags: u8) -> Attrs {
    let head = Attrs::default().raw(&[family, 0, 0, 0]).raw(&index.to_ne_bytes());
    head.raw(&state.to_ne_bytes()).raw(&[flags, 0])
}

pub fn upper_message(on: &On<'_>) -> Message {
    const IFLA_MACVLAN_MODE: u16 = 1;
    const IFLA_IPVLAN_MODE: u16 = 1;
    const IFLA_IPVLAN_FLAGS: u16 = 2;
    let (kind, data) = match *on.upper {
        Upper::Macvlan { mode } => ("macvlan", Attrs::default().u32(IFLA_MACVLAN_MODE, mode)),
        Upper::Ipvlan { mode, flag } => {
            let mode = Attrs::default().put(IFLA_IPVLAN_MODE, &mode.to_ne_bytes());
            ("ipvlan", mode.put(IFLA_IPVLAN_FLAGS, &flag.to_ne_bytes()))
        }
    };
    let info = Attrs::default().text(IFLA_INFO_KIND, kind).nest(IFLA_INFO_DATA, data);
    let mut body = link_header(0, 0, 0)
        .text(IFLA_IFNAME, on.guest)
        .u32(IFLA_LINK, on.parent)
        .u32(IFLA_NET_NS_FD, on.netns.as_raw_fd() as u32);
    if let Some(mac) = &on.mac {
        body = body.put(IFLA_ADDRESS, mac);
    }
    Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body.nest(IFLA_LINKINFO, info))
}

pub fn veth_message(veth: &Veth<'_>) -> Message {
    // Up only later: while the pair is being made, the far end has no peer yet (ENOTCONN).
    let peer = link_header(0, 0, 0)
        .text(IFLA_IFNAME, veth.guest)
        .put(IFLA_ADDRESS, &veth.guest_mac)
        .u32(IFLA_MTU, veth.mtu)
        .u32(IFLA_NET_NS_FD, veth.netns.as_raw_fd() as u32);
    let info = Attrs::default()
        .text(IFLA_INFO_KIND, "veth")
        .nest(IFLA_INFO_DATA, Attrs::default().nest(VETH_INFO_PEER, peer));
    let mut body = link_header(0, IFF_UP, IFF_UP)
        .text(IFLA_IFNAME, veth.host)
        .put(IFLA_ADDRESS, &veth.host_mac)
        .u32(IFLA_MTU, veth.mtu);
    if let Some(bridge) = veth.bridge {
        body = body.u32(IFLA_MASTER, bridge);
    }
    Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body.nest(IFLA_LINKINFO, info))
}
