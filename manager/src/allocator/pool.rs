//! Task addresses. A node holds blocks of a network and gives its tasks addresses from them, so that the
//! other nodes need a route per block and not per task. Who holds a block is derived from the tasks alone:
//! the node with the most addresses in it. When no block is free any more, single addresses are borrowed
//! from other nodes' blocks and routed one by one.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, Ipv6Addr};

use skep_proto::v1;

use super::cidr::Cidr;
use super::layout::Layout;
use super::v6::Both;
use crate::orchestrator::task;
use crate::store::{Diff, Key, StoreView};

/// The task addresses of every network.
#[derive(Clone, Debug, Default)]
pub struct Pools(HashMap<String, Pool>);

impl Pools {
    /// The addresses held by the tasks of the view.
    pub fn of(view: &StoreView) -> Self {
        let mut pools = Pools::default();
        for network in view.networks() {
            pools.network(network);
        }
        for t in view.tasks_in_any_order().filter(|t| !t.addresses.is_empty()) {
            pools.hold(t);
        }
        pools
    }

    /// Makes sure of a pool for the network once its subnet is decided.
    pub fn network(&mut self, network: &v1::Network) {
        if let Ok(subnet) = network.subnet.parse::<Cidr>() {
            self.0.entry(network.id.clone()).or_insert_with(|| {
                let mut pool = Pool::new(Layout::of(subnet));
                pool.both = Both::of(network);
                pool
            });
        }
    }

    /// Follows a change of a network.
    pub fn follow_network(&mut self, diff: &Diff<v1::Network>) {
        match &diff.after {
            Some(network) => self.network(network),
            None => {
                self.0.remove(&diff.latest().id);
            }
        }
    }

    /// Follows a change of a task.
    pub fn follow(&mut self, diff: &Diff<v1::Task>) {
        if let Some(before) = &diff.before {
            self.each(before, |pool, addr, node| pool.release(addr, node));
        }
        if let Some(after) = &diff.after {
            self.hold(after);
        }
    }

    fn hold(&mut self, task: &v1::Task) {
        self.each(task, |pool, addr, node| pool.hold(addr, node));
    }

    fn each(&mut self, t: &v1::Task, f: impl Fn(&mut Pool, u32, &str)) {
        if task::finished(t) {
            return;
        }
        for a in &t.addresses {
            if let (Some(pool), Ok(addr)) = (self.0.get_mut(&a.network_id), a.addr.parse::<Ipv4Addr>()) {
                f(pool, addr.into(), &t.node_id);
            }
        }
    }

    /// Takes an address for a task on `node`; `None`: the network has none left (or no subnet yet).
    pub fn take(&mut self, network_id: &str, node: &str) -> Option<Ipv4Addr> {
        self.0.get_mut(network_id)?.take(node).map(Ipv4Addr::from)
    }

    /// The IPv6 address beside one of [`Pools::take`], where the network has IPv6.
    pub fn beside(&self, network_id: &str, addr: Ipv4Addr) -> Option<Ipv6Addr> {
        self.0.get(network_id)?.both.map(|both| both.beside(addr.into()))
    }

    /// Gives back what [`Pools::take`] gave.
    pub fn give_back(&mut self, network_id: &str, addr: Ipv4Addr, node: &str) {
        if let Some(pool) = self.0.get_mut(network_id) {
            pool.release(addr.into(), node);
        }
    }
}

/// The task addresses of one network.
#[derive(Clone, Debug)]
struct Pool {
    layout: Layout,
    /// Where the network has IPv6.
    both: Option<Both>,
    /// Offset -> held, one bit each.
    held: Vec<u64>,
    /// Block -> how many addresses each node holds in it.
    blocks: Vec<Vec<(Key, u32)>>,
    by_node: HashMap<Key, Vec<u32>>,
    /// Every block below has a holder.
    first_free_block: u32,
    /// Every address below is held.
    first_free: u32,
}

impl Pool {
    fn new(layout: Layout) -> Self {
        let end = layout.tasks().end;
        let blocks = end.div_ceil(1 << layout.block_bits);
        Self {
            layout,
            both: None,
            held: vec![0; (end as usize).div_ceil(64)],
            blocks: vec![Vec::new(); blocks as usize],
            by_node: HashMap::new(),
            first_free_block: 0,
            first_free: layout.tasks().start,
        }
    }

    fn offset(&self, addr: u32) -> Option<u32> {
        let offset = addr.checked_sub(self.layout.subnet.base())?;
        self.layout.tasks().contains(&offset).then_some(offset)
    }

    fn is_held(&self, offset: u32) -> bool {
        self.held.get(offset as usize / 64).is_some_and(|w| w >> (offset % 64) & 1 == 1)
    }

    fn mark(&mut self, offset: u32, held: bool) {
        if let Some(word) = self.held.get_mut(offset as usize / 64) {
            let bit = 1u64 << (offset % 64);
            *word = if held { *word | bit } else { *word & !bit };
        }
    }

    fn hold(&mut self, addr: u32, node: &str) {
        let Some(offset) = self.offset(addr) else { return };
        self.mark(offset, true);
        let block = offset >> self.layout.block_bits;
        let Some(holders) = self.blocks.get_mut(block as usize) else { return };
        match holders.iter_mut().find(|(n, _)| n.as_str() == node) {
            Some((_, count)) => *count += 1,
            None => {
                let key = Key::from(node);
                holders.push((key.clone(), 1));
                self.by_node.entry(key).or_default().push(block);
            }
        }
    }

    fn release(&mut self, addr: u32, node: &str) {
        let Some(offset) = self.offset(addr) else { return };
        self.mark(offset, false);
        self.first_free = self.first_free.min(offset);
        let block = offset >> self.layout.block_bits;
        let Some(holders) = self.blocks.get_mut(block as usize) else { return };
        if let Some(i) = holders.iter().position(|(n, _)| n.as_str() == node) {
            holders[i].1 -= 1;
            if holders[i].1 == 0 {
                holders.swap_remove(i);
                if let Some(blocks) = self.by_node.get_mut(node.as_bytes()) {
                    blocks.retain(|b| *b != block);
                }
            }
        }
        if holders.is_empty() {
            self.first_free_block = self.first_free_block.min(block);
        }
    }

    fn take(&mut self, node: &str) -> Option<u32> {
        let offset = self.own(node).or_else(|| self.fresh_block()).or_else(|| self.borrow())?;
        let addr = self.layout.subnet.base() + offset;
        self.hold(addr, node);
        Some(addr)
    }

    /// A free address in a block the node holds; the newest block first, the older ones are full.
    fn own(&self, node: &str) -> Option<u32> {
        let blocks = self.by_node.get(node.as_bytes())?;
        blocks
            .iter()
            .rev()
            .filter(|b| owner(&self.blocks[**b as usize]).is_some_and(|o| o.as_str() == node))
            .find_map(|b| self.free_in(*b))
    }

    fn free_in(&self, block: u32) -> Option<u32> {
        let bits = self.layout.block_bits;
        let tasks = self.layout.tasks();
        let range = (block << bits).max(tasks.start)..((block + 1) << bits).min(tasks.end);
        range.into_iter().find(|o| !self.is_held(*o))
    }

    fn fresh_block(&mut self) -> Option<u32> {
        while let Some(holders) = self.blocks.get(self.first_free_block as usize) {
            if holders.is_empty()
                && let Some(offset) = self.free_in(self.first_free_block)
            {
                return Some(offset);
            }
            self.first_free_block += 1;
        }
        None
    }

    fn borrow(&mut self) -> Option<u32> {
        let end = self.layout.tasks().end;
        while self.first_free < end && self.is_held(self.first_free) {
            self.first_free += 1;
        }
        (self.first_free < end).then_some(self.first_free)
    }
}

fn owner(holders: &[(Key, u32)]) -> Option<&Key> {
    holders.iter().max_by(|a, b| a.1.cmp(&b.1).then_with(|| b.0.cmp(&a.0))).map(|(n, _)| n)
}

/// Routes of a network: its blocks by the node that holds each, and single addresses (/32) of nodes
/// that hold one in another's block. Together they cover every address held.
pub fn blocks(view: &StoreView, network_id: &str) -> Vec<(Cidr, String)> {
    let Some(subnet) = view.network(network_id).and_then(|n| n.subnet.parse::<Cidr>().ok()) else {
        return Vec::new();
    };
    let layout = Layout::of(subnet);
    let mut held: BTreeMap<u32, Vec<(u32, &str)>> = BTreeMap::new();
    for (addr, node) in addresses(view, network_id) {
        if let Some(offset) = addr.checked_sub(subnet.base()).filter(|_| subnet.contains(addr)) {
            held.entry(offset >> layout.block_bits).or_default().push((addr, node));
        }
    }
    let mut routes = Vec::new();
    for (block, addrs) in held {
        let mut holders: Vec<(Key, u32)> = Vec::new();
        for (_, node) in &addrs {
            match holders.iter_mut().find(|(n, _)| n.as_str() == *node) {
                Some((_, count)) => *count += 1,
                None => holders.push((Key::from(*node), 1)),
            }
        }
        let Some(owner) = owner(&holders) else { continue };
        routes.push((layout.block(block), owner.as_str().to_owned()));
        let borrowed = addrs.iter().filter(|(_, n)| *n != owner.as_str());
        let mut borrowed: Vec<_> = borrowed.map(|(a, n)| (Cidr::of(*a, 32), (*n).to_owned())).collect();
        borrowed.sort();
        routes.extend(borrowed);
    }
    routes
}

/// The address for one more task of `node` in the network: the one it wants, or one of the node's blocks. The
/// error says why there is none.
pub fn take_one(
    view: &StoreView,
    network_id: &str,
    node: &str,
    wanted: Option<Ipv4Addr>,
) -> Result<Ipv4Addr, String> {
    let network = view.network(network_id).ok_or_else(|| format!("network {network_id} not found"))?;
    let name = crate::store::network_name(network);
    let subnet: Cidr = network.subnet.parse().map_err(|_| format!("network {name} has no subnet yet"))?;
    let mut pool = Pool::new(Layout::of(subnet));
    for (addr, holder) in addresses(view, network_id) {
        pool.hold(addr, holder);
    }
    let Some(wanted) = wanted else {
        let free =
            pool.take(node).ok_or_else(|| format!("network {name} has no address left in {subnet}"))?;
        return Ok(free.into());
    };
    match pool.offset(wanted.into()) {
        None => {
            let tasks = pool.layout.tasks();
            let at = |offset: u32| Ipv4Addr::from(subnet.base() + offset);
            let (first, last) = (at(tasks.start), at(tasks.end.saturating_sub(1)));
            Err(format!(
                "address {wanted} is not one for containers in network {name}: give one from {first} to {last}"
            ))
        }
        Some(offset) if pool.is_held(offset) => {
            Err(format!("address {wanted} is already in use in network {name}"))
        }
        Some(_) => Ok(wanted),
    }
}

/// The addresses held in a network, and the node of each.
fn addresses<'a>(view: &'a StoreView, network_id: &'a str) -> impl Iterator<Item = (u32, &'a str)> {
    held(view, network_id)
        .filter_map(|(addr, node)| Some((u32::from(addr.addr.parse::<Ipv4Addr>().ok()?), node)))
}

/// The same as they are kept, of both families.
pub(super) fn held<'a>(
    view: &'a StoreView,
    network_id: &'a str,
) -> impl Iterator<Item = (&'a v1::TaskAddress, &'a str)> {
    let of_services = services_in(view, network_id).flat_map(move |s| view.tasks_of_service(&s.id));
    let tasks = of_services.chain(view.attachments()).filter(|t| !task::finished(t));
    tasks.filter_map(move |t| {
        let addr = t.addresses.iter().find(|a| a.network_id == network_id)?;
        Some((addr, t.node_id.as_str()))
    })
}

/// Services whose tasks may be in the network: any of their revisions names it, or it is the ingress
/// network and they publish ports.
fn services_in<'a>(view: &'a StoreView, network_id: &'a str) -> impl Iterator<Item = &'a v1::Service> {
    let ingress = view.network(network_id).and_then(|n| n.spec.as_ref()).is_some_and(|s| s.ingress);
    view.services().map(AsRef::as_ref).filter(move |s| {
        ingress
            || view
                .revisions_of(&s.id)
                .filter_map(|r| r.spec.as_ref())
                .any(|spec| spec.networks.iter().any(|a| a.network == network_id))
    })
}
