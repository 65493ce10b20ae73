//! VXLAN interfaces, where their packets go, and rules that choose among routing tables (ip-rule(8)).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::message::*;
use super::{Links, Mac, Route, Step, parse_route};
use crate::cidr::{Address, Cidr, address_of};
use crate::error::{Error, Result};
use crate::netlink::{
    Attrs, Message, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, attr, u16_at, u32_at,
};

const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;
const AF_BRIDGE: u8 = 7;
const NUD_NOARP: u16 = 0x40;
const NTF_SELF: u8 = 2;
const RTNH_F_ONLINK: u32 = 4;
const FR_TO_TABLE: u8 = 1;
const FR_GOTO: u8 = 2;
const FR_NOTHING: u8 = 3;
const FIB_RULE_INVERT: u32 = 2;
const FRA_DST: u16 = 1;
const FRA_GOTO: u16 = 4;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_PROTOCOL: u16 = 21;

/// A VXLAN interface: what cannot be changed once it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VxLan {
    /// Number of the network.
    pub vni: u32,
    /// This host's end.
    pub local: Ipv4Addr,
    /// UDP port of all ends.
    pub port: u16,
    /// Hardware address.
    pub mac: Mac,
}

/// Where a VXLAN interface sends what is for a hardware address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Forward {
    /// For whom.
    pub mac: Mac,
    /// The other host's end.
    pub to: Ipv4Addr,
}

/// A rule of ours that chooses a routing table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Policy<A = Ipv4Addr> {
    /// Lower comes first.
    pub priority: u32,
    /// What it does.
    pub action: Action,
    /// For packets with this mark, under this mask.
    pub mark: Option<(u32, u32)>,
    /// For packets that are not so.
    pub unless: bool,
    /// For packets to there.
    pub to: Option<Cidr<A>>,
}

/// What a [`Policy`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Looks in this table, and goes on where that says nothing.
    Table(u32),
    /// Goes on at the rule of this priority.
    Goto(u32),
    /// Goes on.
    Nothing,
}

impl Links {
    /// Permanent neighbours of an interface.
    pub fn neighbours<A: Address>(&mut self, index: u32) -> Result<BTreeMap<A, Mac>> {
        let all = self.all_neighbours()?.into_iter();
        Ok(all.filter(|(at, _, _)| *at == index).map(|(_, addr, mac)| (addr, mac)).collect())
    }

    /// Permanent neighbours of all interfaces: index, address, hardware address.
    pub fn all_neighbours<A: Address>(&mut self) -> Result<Vec<(u32, A, Mac)>> {
        let replies = self.socket.dump(RTM_GETNEIGH, neighbour_header(A::FAMILY, 0, 0, 0));
        let replies = replies.map_err(Error::io("list", "neighbours"))?;
        let ours = replies.iter().filter_map(|r| {
            let (at, state) = (u32_at(&r.payload, 4)?, u16_at(&r.payload, 8)?);
            let body = r.payload.get(12..)?;
            let mac = attr(body, NDA_LLADDR)?.try_into().ok()?;
            let entry = (at, attr(body, NDA_DST).and_then(address_of)?, mac);
            (state & NUD_PERMANENT != 0 && r.payload[0] == A::FAMILY).then_some(entry)
        });
        Ok(ours.collect())
    }

    /// Where a VXLAN interface sends what.
    pub fn forwards(&mut self, index: u32) -> Result<Vec<Forward>> {
        let replies = self.socket.dump(RTM_GETNEIGH, neighbour_header(AF_BRIDGE, 0, 0, 0));
        let replies = replies.map_err(Error::io("list", "forwarding entries"))?;
        let ours = replies.iter().filter_map(|r| {
            let body = r.payload.get(12..)?;
            let mac = attr(body, NDA_LLADDR)?.try_into().ok()?;
            let entry = Forward { mac, to: attr(body, NDA_DST).and_then(address_of)? };
            (u32_at(&r.payload, 4)? == index && r.payload[0] == AF_BRIDGE).then_some(entry)
        });
        Ok(ours.collect())
    }

    /// The routes by an interface, with their tables; none = the main table. Of IPv6 those that are ours: the kernel makes
    /// some itself.
    pub fn routes_by<A: Address>(&mut self, index: u32) -> Result<Vec<(Option<u32>, Route<A>)>> {
        let header = route_header(A::FAMILY, 0, 0);
        let replies = self.socket.dump(RTM_GETROUTE, header).map_err(Error::io("list", "routes"))?;
        let ours = replies.iter().filter_map(|r| parse_route::<A>(&r.payload));
        let ours = ours.filter(|r| r.index == index && r.kind == RTN_UNICAST);
        let ours = ours.filter(|r| A::FAMILY == AF_INET || r.protocol == RTPROT_SKEP);
        Ok(ours.map(|r| ((!r.is_main()).then_some(r.table), r.route)).collect())
    }

    /// Rules of ours with these priorities.
    pub fn policies<A: Address>(&mut self, priorities: std::ops::Range<u32>) -> Result<Vec<Policy<A>>> {
        let replies = self.socket.dump(RTM_GETRULE, Attrs::default().raw(&[A::FAMILY]).raw(&[0; 11]));
        let replies = replies.map_err(Error::io("list", "routing rules"))?;
        let ours = replies.iter().filter_map(|r| {
            let header = r.payload.get(..12)?;
            let body = r.payload.get(12..)?;
            let number = |kind| attr(body, kind).and_then(|v| u32_at(v, 0));
            let priority = number(FRA_PRIORITY).filter(|p| priorities.contains(p))?;
            let own = attr(body, FRA_PROTOCOL).and_then(|v| v.first()) == Some(&RTPROT_SKEP);
            let action = match header[7] {
                FR_TO_TABLE => Action::Table(number(FRA_TABLE).unwrap_or(header[4].into())),
                FR_GOTO => Action::Goto(number(FRA_GOTO)?),
                FR_NOTHING => Action::Nothing,
                _ => return None,
            };
            let to = attr(body, FRA_DST).and_then(address_of).map(|addr| Cidr { addr, len: header[1] });
            let mark = number(FRA_FWMARK).map(|mark| (mark, number(FRA_FWMASK).unwrap_or(u32::MAX)));
            let unless = u32_at(header, 8)? & FIB_RULE_INVERT != 0;
            own.then_some(Policy { priority, action, mark, unless, to })
        });
        Ok(ours.collect())
    }
}

/// Reads what [`vxlan`] made.
pub(super) fn parse_vxlan(info: &[u8], mac: Mac) -> Option<VxLan> {
    let number = |kind| attr(info, kind);
    Some(VxLan {
        vni: u32_at(number(IFLA_VXLAN_ID)?, 0)?,
        local: number(IFLA_VXLAN_LOCAL).and_then(address_of)?,
        port: u16::from_be_bytes(number(IFLA_VXLAN_PORT)?.try_into().ok()?),
        mac,
    })
}

/// Makes a VXLAN interface. It learns nothing.
pub fn vxlan(name: &str, vxlan: &VxLan, mtu: u32) -> Step {
    let data = Attrs::default()
        .u32(IFLA_VXLAN_ID, vxlan.vni)
        .put(IFLA_VXLAN_LOCAL, &vxlan.local.octets())
        .put(IFLA_VXLAN_LEARNING, &[0])
        .put(IFLA_VXLAN_PORT, &vxlan.port.to_be_bytes());
    let info = Attrs::default().text(IFLA_INFO_KIND, "vxlan").nest(IFLA_INFO_DATA, data);
    let body = link_header(0, 0, 0)
        .text(IFLA_IFNAME, name)
        .put(IFLA_ADDRESS, &vxlan.mac)
        .u32(IFLA_MTU, mtu)
        .nest(IFLA_LINKINFO, info);
    (format!("add VXLAN interface {name}"), Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body))
}

/// Has a VXLAN interface send what is for a hardware address to one host, and takes that back.
pub fn forward(index: u32, forward: &Forward, on: bool) -> Step {
    let body = neighbour_header(AF_BRIDGE, index, NUD_PERMANENT | NUD_NOARP, NTF_SELF)
        .put(NDA_LLADDR, &forward.mac)
        .put(NDA_DST, &forward.to.octets());
    let name = format!("forwarding entry to {}", forward.to);
    match on {
        true => (format!("add {name}"), Message::new(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body)),
        false => (format!("delete {name}"), Message::new(RTM_DELNEIGH, 0, body)),
    }
}

/// Forgets a neighbour.
pub fn drop_neighbour<A: Address>(index: u32, addr: A) -> Step {
    let body = neighbour_header(A::FAMILY, index, 0, 0).put(NDA_DST, &addr.bytes());
    (format!("delete neighbour {addr}"), Message::new(RTM_DELNEIGH, 0, body))
}

/// Makes a route whose next hop is on the link, whatever the other routes say, in a table; or removes it.
pub fn route_in<A: Address>(index: u32, table: Option<u32>, route: &Route<A>, on: bool) -> Step {
    let mut body = route_body(index, route);
    body.set(8, &RTNH_F_ONLINK.to_ne_bytes());
    if let Some(table) = table {
        body.set(4, &[0]);
        body = body.u32(RTA_TABLE, table);
    }
    match on {
        true => (
            format!("add route {}", route.to),
            Message::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, body),
        ),
        false => (format!("delete route {}", route.to), Message::new(RTM_DELROUTE, 0, body)),
    }
}

/// Makes or removes a rule.
pub fn policy<A: Address>(policy: &Policy<A>, on: bool) -> Step {
    let action = match policy.action {
        Action::Table(_) => FR_TO_TABLE,
        Action::Goto(_) => FR_GOTO,
        Action::Nothing => FR_NOTHING,
    };
    let flags = if policy.unless { FIB_RULE_INVERT } else { 0 };
    let len = policy.to.map_or(0, |to| to.len);
    let mut body = Attrs::default()
        .raw(&[A::FAMILY, len, 0, 0, 0, 0, 0, action])
        .raw(&flags.to_ne_bytes())
        .u32(FRA_PRIORITY, policy.priority)
        .put(FRA_PROTOCOL, &[RTPROT_SKEP]);
    match policy.action {
        Action::Table(table) => body = body.u32(FRA_TABLE, table),
        Action::Goto(priority) => body = body.u32(FRA_GOTO, priority),
        Action::Nothing => {}
    }
    if let Some((mark, mask)) = policy.mark {
        body = body.u32(FRA_FWMARK, mark).u32(FRA_FWMASK, mask);
    }
    if let Some(to) = policy.to {
        body = body.put(FRA_DST, &to.addr.bytes());
    }
    let name = format!("routing rule {}", policy.priority);
    let flags = NLM_F_CREATE | NLM_F_EXCL | NLM_F_APPEND;
    match on {
        true => (format!("add {name}"), Message::new(RTM_NEWRULE, flags, body)),
        false => (format!("delete {name}"), Message::new(RTM_DELRULE, 0, body)),
    }
}
