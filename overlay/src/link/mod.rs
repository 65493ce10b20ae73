//! Interfaces, addresses, routes and neighbours of one network namespace, through rtnetlink.

mod message;
pub mod policy;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;
use serde::{Deserialize, Serialize};

use crate::cidr::{Address, Cidr, address_of};
use crate::error::{Error, Result};
use crate::netlink::{Attrs, Message, Socket, attr, attrs, text_of, u32_at};
use message::*;
pub use policy::{Action, Forward, Policy, VxLan};

/// A hardware address.
pub type Mac = [u8; 6];

/// A veth pair whose far end is born inside a container's namespace.
pub struct Veth<'a> {
    /// Name of the host's end.
    pub host: &'a str,
    /// Hardware address of the host's end.
    pub host_mac: Mac,
    /// Name inside the container.
    pub guest: &'a str,
    /// Hardware address inside the container.
    pub guest_mac: Mac,
    /// The container's namespace.
    pub netns: BorrowedFd<'a>,
    /// MTU of both ends.
    pub mtu: u32,
    /// Index of the bridge the host's end belongs to.
    pub bridge: Option<u32>,
}

/// What sits on an interface of the host, as the kernel numbers its modes (if_link.h).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Upper {
    /// With a hardware address of its own.
    Macvlan {
        /// MACVLAN_MODE_*.
        mode: u32,
    },
    /// With its parent's hardware address.
    Ipvlan {
        /// IPVLAN_MODE_*.
        mode: u16,
        /// IPVLAN_F_*, 0 = bridge.
        flag: u16,
    },
}

impl Upper {
    /// IPVLAN_MODE_L2.
    pub const L2: u16 = 0;
    /// MACVLAN_MODE_PASSTHRU.
    pub const PASSTHRU: u32 = 8;

    /// Packets are routed by address, and there is no neighbour to send them to.
    pub fn is_layer3(&self) -> bool {
        matches!(self, Self::Ipvlan { mode, .. } if *mode != Self::L2)
    }
}

/// An interface born inside a container's namespace, on one of the host.
pub struct On<'a> {
    /// What it is.
    pub upper: &'a Upper,
    /// Index of the host's.
    pub parent: u32,
    /// Name inside the container.
    pub guest: &'a str,
    /// Hardware address, where it has one of its own.
    pub mac: Option<Mac>,
    /// The container's namespace.
    pub netns: BorrowedFd<'a>,
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route<A = Ipv4Addr> {
    /// Where to.
    pub to: Cidr<A>,
    /// Next hop; none = on the link.
    pub via: Option<A>,
    /// Preferred source.
    pub src: Option<A>,
}

/// An interface as the kernel has it.
#[derive(Clone, Debug)]
pub struct Link {
    /// Index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// It is set up.
    pub up: bool,
    /// Index of its bridge.
    pub master: Option<u32>,
    /// MTU.
    pub mtu: u32,
    /// The kernel has taken note of its carrier: only then it forwards, and sends.
    pub operational: bool,
    /// As a port of a bridge it is kept from other such ports.
    pub isolated: bool,
    /// It is a VXLAN interface.
    pub vxlan: Option<VxLan>,
}

/// rtnetlink in one namespace.
#[derive(Debug)]
pub struct Links {
    socket: Socket,
}

impl Links {
    /// Opens it in the calling thread's namespace.
    pub fn open() -> Result<Self> {
        let socket =
            Socket::open(SockProtocol::NetlinkRoute).map_err(Error::io("open", "the rtnetlink socket"))?;
        Ok(Self { socket })
    }

    /// Runs the named requests; all are tried, `tolerated` errors are none.
    pub fn run(&mut self, steps: Vec<(String, Message)>, tolerated: &[Errno]) -> Result<()> {
        let (names, messages): (Vec<_>, Vec<_>) = steps.into_iter().unzip();
        let answers = self.socket.execute(&messages).map_err(Error::io("talk to", "rtnetlink"))?;
        let errors = names.into_iter().zip(answers).filter_map(|(name, answer)| match answer {
            Err(errno) if !tolerated.contains(&errno) => {
                Some(Error::Io { operation: "set up the network:", subject: name, source: errno.into() })
            }
            _ => None,
        });
        Error::gather(errors.collect())
    }

    /// The interface of this name, or none.
    pub fn find(&mut self, name: &str) -> Result<Option<Link>> {
        let body = link_header(0, 0, 0).text(IFLA_IFNAME, name);
        match self.socket.get(RTM_GETLINK, body) {
            Ok(reply) => Ok(parse_link(&reply.payload)),
            Err(e) if e.raw_os_error() == Some(Errno::ENODEV as i32) => Ok(None),
            Err(e) => Err(Error::io("look up interface", name)(e)),
        }
    }

    /// Waits until the interface carries packets. The kernel takes note of a carrier in the background
    /// (since 6.8 at once when asked), and drops what is sent before.
    pub fn wait_operational(&mut self, name: &str) -> Result<()> {
        const LIMIT: Duration = Duration::from_secs(2);
        const STEP: Duration = Duration::from_micros(500);
        let start = Instant::now();
        while !self.find(name)?.is_some_and(|link| link.operational) {
            if start.elapsed() > LIMIT {
                return Err(Error::Io {
                    operation: "wait for the carrier of",
                    subject: name.into(),
                    source: std::io::ErrorKind::TimedOut.into(),
                });
            }
            std::thread::sleep(STEP);
        }
        Ok(())
    }

    /// Index of an interface that must be there.
    pub fn index(&mut self, name: &str) -> Result<u32> {
        self.find(name)?.map(|l| l.index).ok_or_else(|| Error::Io {
            operation: "look up interface",
            subject: name.into(),
            source: Errno::ENODEV.into(),
        })
    }

    /// All interfaces by name.
    pub fn list(&mut self) -> Result<BTreeMap<String, Link>> {
        let replies =
            self.socket.dump(RTM_GETLINK, link_header(0, 0, 0)).map_err(Error::io("list", "interfaces"))?;
        let links = replies.iter().filter_map(|r| parse_link(&r.payload));
        Ok(links.map(|l| (l.name.clone(), l)).collect())
    }

    /// All addresses of a family: interface index and address with prefix length.
    pub fn addresses<A: Address>(&mut self) -> Result<Vec<(u32, Cidr<A>)>> {
        let body = Attrs::default().raw(&[A::FAMILY, 0, 0, 0, 0, 0, 0, 0]);
        let replies = self.socket.dump(RTM_GETADDR, body).map_err(Error::io("list", "addresses"))?;
        Ok(replies
            .iter()
            .filter_map(|r| {
                let len = *r.payload.get(1)?;
                let index = u32_at(&r.payload, 4)?;
                let body = r.payload.get(8..)?;
                let addr = attr(body, IFA_LOCAL).or_else(|| attr(body, IFA_ADDRESS))?;
                Some((index, Cidr { addr: address_of(addr)?, len }))
            })
            .collect())
    }

    /// All unicast routes of the main table: interface index (0 = none) and route.
    pub fn routes<A: Address>(&mut self) -> Result<Vec<(u32, Route<A>)>> {
        let header = route_header(A::FAMILY, 0, 0);
        let replies = self.socket.dump(RTM_GETROUTE, header).map_err(Error::io("list", "routes"))?;
        let all = replies.iter().filter_map(|r| parse_route::<A>(&r.payload));
        Ok(all.filter(HeldRoute::is_main).map(|r| (r.index, r.route)).collect())
    }

    /// The routes of the main table that are ours, with their interfaces. Of IPv6 the kernel makes some itself for each
    /// address.
    pub fn own_routes<A: Address>(&mut self) -> Result<Vec<(u32, Route<A>)>> {
        let header = route_header(A::FAMILY, 0, 0);
        let replies = self.socket.dump(RTM_GETROUTE, header).map_err(Error::io("list", "routes"))?;
        let all = replies.iter().filter_map(|r| parse_route::<A>(&r.payload));
        Ok(all.filter(|r| r.is_main() && r.protocol == RTPROT_SKEP).map(|r| (r.index, r.route)).collect())
    }

    /// Makes a veth pair, the host's end up, the far one in the container's namespace.
    pub fn add_veth(&mut self, veth: &Veth<'_>) -> Result<()> {
        self.run(vec![(format!("add veth {}", veth.host), veth_message(veth))], &[])
    }

    /// Makes an interface of a container on one of the host.
    pub fn add_upper(&mut self, on: &On<'_>) -> Result<()> {
        self.run(vec![(format!("add interface {}", on.guest), upper_message(on))], &[])
    }

    /// Removes an interface; no error when it is gone already.
    pub fn delete(&mut self, name: &str) -> Result<()> {
        let body = link_header(0, 0, 0).text(IFLA_IFNAME, name);
        let step = (format!("delete {name}"), Message::new(RTM_DELLINK, 0, body));
        self.run(vec![step], &[Errno::ENODEV])
    }
}

fn parse_link(payload: &[u8]) -> Option<Link> {
    let index = u32_at(payload, 4)?;
    let up = u32_at(payload, 8)? & IFF_UP != 0;
    let name = String::new();
    let mut link =
        Link { index, name, up, master: None, mtu: 0, operational: false, isolated: false, vxlan: None };
    let mac = attr(payload.get(16..)?, IFLA_ADDRESS).and_then(|v| v.try_into().ok()).unwrap_or_default();
    for (kind, value) in attrs(payload.get(16..)?) {
        match kind {
            IFLA_IFNAME => link.name = text_of(value),
            IFLA_MTU => link.mtu = u32_at(value, 0)?,
            IFLA_OPERSTATE => link.operational = value.first() == Some(&IF_OPER_UP),
            IFLA_MASTER => link.master = u32_at(value, 0),
            IFLA_LINKINFO => {
                let port = attr(value, IFLA_INFO_SLAVE_DATA);
                if attr(value, IFLA_INFO_KIND).map(text_of).as_deref() == Some("vxlan") {
                    link.vxlan = attr(value, IFLA_INFO_DATA).and_then(|v| policy::parse_vxlan(v, mac));
                }
                link.isolated = port.and_then(|p| attr(p, IFLA_BRPORT_ISOLATED)) == Some(&[1]);
            }
            _ => {}
        }
    }
    Some(link)
}

/// A route as the kernel has it.
struct HeldRoute<A> {
    /// Number of its table.
    table: u32,
    /// RTN_*.
    kind: u8,
    /// RTPROT_*: who made it.
    protocol: u8,
    /// Index of the interface; 0 = none.
    index: u32,
    route: Route<A>,
}

impl<A> HeldRoute<A> {
    fn is_main(&self) -> bool {
        self.table == u32::from(RT_TABLE_MAIN)
    }
}

/// Reads a route of the family.
fn parse_route<A: Address>(payload: &[u8]) -> Option<HeldRoute<A>> {
    let header = payload.get(..12)?;
    let body = payload.get(12..)?;
    if header[0] != A::FAMILY {
        return None;
    }
    let number = |kind| attr(body, kind).and_then(|v| u32_at(v, 0));
    let addr = attr(body, RTA_DST).and_then(address_of).unwrap_or(A::UNSPECIFIED);
    let via = attr(body, RTA_GATEWAY).and_then(address_of);
    let src = attr(body, RTA_PREFSRC).and_then(address_of);
    Some(HeldRoute {
        table: number(RTA_TABLE).unwrap_or(header[4].into()),
        kind: header[7],
        protocol: header[5],
        index: number(RTA_OIF).unwrap_or(0),
        route: Route { to: Cidr { addr, len: header[1] }, via, src },
    })
}

/// A request and the name that an error shows.
pub type Step = (String, Message);

/// Requests for [`Links::run`], each with the name that an error shows.
pub mod step {
    use super::*;
    use crate::netlink::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};

    /// Sets the interface up, with this MTU and in this bridge where given.
    pub fn set(index: u32, mtu: Option<u32>, bridge: Option<u32>) -> (String, Message) {
        let mut body = link_header(index, IFF_UP, IFF_UP);
        if let Some(mtu) = mtu {
            body = body.u32(IFLA_MTU, mtu);
        }
        if let Some(bridge) = bridge {
            body = body.u32(IFLA_MASTER, bridge);
        }
        (format!("set up interface {index}"), Message::new(RTM_NEWLINK, 0, body))
    }

    /// Gives the interface another MTU.
    pub fn resize(index: u32, mtu: u32) -> (String, Message) {
        let body = link_header(index, 0, 0).u32(IFLA_MTU, mtu);
        (format!("set the MTU of interface {index}"), Message::new(RTM_NEWLINK, 0, body))
    }

    /// Lets a bridge send a packet back where it came from: a container that reaches itself by a
    /// published port.
    pub fn hairpin(index: u32) -> (String, Message) {
        const IFLA_BRPORT_MODE: u16 = 4;
        port_flag(index, IFLA_BRPORT_MODE, true, "hairpin mode")
    }

    /// Keeps a port of a bridge from other such ports; what the host itself sends still reaches it.
    pub fn isolate(index: u32, on: bool) -> (String, Message) {
        port_flag(index, IFLA_BRPORT_ISOLATED, on, "isolation")
    }

    fn port_flag(index: u32, flag: u16, on: bool, what: &str) -> (String, Message) {
        const IFLA_INFO_SLAVE_KIND: u16 = 4;
        let info = Attrs::default()
            .text(IFLA_INFO_SLAVE_KIND, "bridge")
            .nest(IFLA_INFO_SLAVE_DATA, Attrs::default().put(flag, &[u8::from(on)]));
        let body = link_header(index, 0, 0).nest(IFLA_LINKINFO, info);
        (format!("set {what} of interface {index}"), Message::new(RTM_NEWLINK, 0, body))
    }

    /// Makes a bridge, up.
    pub fn bridge(name: &str, mac: Mac, mtu: u32) -> (String, Message) {
        let body = link_header(0, IFF_UP, IFF_UP)
            .text(IFLA_IFNAME, name)
            .put(IFLA_ADDRESS, &mac)
            .u32(IFLA_MTU, mtu)
            .nest(IFLA_LINKINFO, Attrs::default().text(IFLA_INFO_KIND, "bridge"));
        (format!("add bridge {name}"), Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body))
    }

    /// Makes an interface that leads nowhere.
    pub fn dummy(name: &str) -> (String, Message) {
        let info = Attrs::default().text(IFLA_INFO_KIND, "dummy");
        let body = link_header(0, 0, 0).text(IFLA_IFNAME, name).nest(IFLA_LINKINFO, info);
        (format!("add interface {name}"), Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body))
    }

    /// Makes the interface of a VLAN on another.
    pub fn vlan(name: &str, below: u32, id: u16) -> (String, Message) {
        const IFLA_VLAN_ID: u16 = 1;
        let data = Attrs::default().put(IFLA_VLAN_ID, &id.to_ne_bytes());
        let info = Attrs::default().text(IFLA_INFO_KIND, "vlan").nest(IFLA_INFO_DATA, data);
        let body =
            link_header(0, 0, 0).text(IFLA_IFNAME, name).u32(IFLA_LINK, below).nest(IFLA_LINKINFO, info);
        (format!("add vlan {name}"), Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body))
    }

    /// Gives an interface an address, at once to be used: nobody is asked whether it is taken.
    pub fn address<A: Address>(index: u32, addr: Cidr<A>) -> (String, Message) {
        let octets = addr.addr.bytes();
        let flags = if A::FAMILY == AF_INET { 0 } else { IFA_F_NODAD };
        let mut body = Attrs::default()
            .raw(&[A::FAMILY, addr.len, flags, 0])
            .raw(&index.to_ne_bytes())
            .put(IFA_LOCAL, &octets)
            .put(IFA_ADDRESS, &octets);
        if A::FAMILY == AF_INET && addr.len < 31 {
            body = body.put(IFA_BROADCAST, &addr.last().bytes());
        }
        (format!("add address {addr}"), Message::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, body))
    }

    /// Takes an address away.
    pub fn drop_address<A: Address>(index: u32, addr: Cidr<A>) -> (String, Message) {
        let body = Attrs::default()
            .raw(&[A::FAMILY, addr.len, 0, 0])
            .raw(&index.to_ne_bytes())
            .put(IFA_LOCAL, &addr.addr.bytes());
        (format!("delete address {addr}"), Message::new(RTM_DELADDR, 0, body))
    }

    /// Makes or replaces a route.
    pub fn route<A: Address>(index: u32, route: &Route<A>) -> (String, Message) {
        let body = route_body(index, route);
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        (format!("add route {}", route.to), Message::new(RTM_NEWROUTE, flags, body))
    }

    /// Removes a route.
    pub fn drop_route<A: Address>(index: u32, route: &Route<A>) -> (String, Message) {
        let body = route_body(index, route);
        (format!("delete route {}", route.to), Message::new(RTM_DELROUTE, 0, body))
    }

    /// A neighbour that needs no asking.
    pub fn neighbour<A: Address>(index: u32, addr: A, mac: Mac) -> (String, Message) {
        let body = neighbour_header(A::FAMILY, index, NUD_PERMANENT, 0)
            .put(NDA_DST, &addr.bytes())
            .put(NDA_LLADDR, &mac);
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        (format!("add neighbour {addr}"), Message::new(RTM_NEWNEIGH, flags, body))
    }
}
