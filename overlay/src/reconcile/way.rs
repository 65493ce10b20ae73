//! Routes of either family, and what is to be done about those that differ.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv6Addr;
use std::sync::{Mutex, PoisonError};

use super::links::Repair;
use crate::cidr::Address;
use crate::link::{Route, Step, step};

/// A route of the host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// IPv4.
    Four(Route),
    /// IPv6.
    Six(Route<Ipv6Addr>),
}

impl Way {
    /// What makes it, by an interface.
    pub fn make(&self, index: u32) -> Step {
        match self {
            Self::Four(route) => step::route(index, route),
            Self::Six(route) => step::route(index, route),
        }
    }

    /// What removes it.
    pub fn remove(&self, index: u32) -> Step {
        match self {
            Self::Four(route) => step::drop_route(index, route),
            Self::Six(route) => step::drop_route(index, route),
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Four(route) => route.to.fmt(f),
            Self::Six(route) => route.to.fmt(f),
        }
    }
}

impl From<Route> for Way {
    fn from(route: Route) -> Self {
        Self::Four(route)
    }
}

impl From<Route<Ipv6Addr>> for Way {
    fn from(route: Route<Ipv6Addr>) -> Self {
        Self::Six(route)
    }
}

/// What is to be done about the routes by an interface of which these are `wanted`: `own` are those that may be ours,
/// `all` whoever's.
pub fn differences<A: Address>(
    name: &str,
    index: u32,
    wanted: BTreeSet<Route<A>>,
    own: &[(u32, Route<A>)],
    all: &[(u32, Route<A>)],
    said: &Mutex<BTreeSet<Route<A>>>,
) -> Vec<Repair>
where
    Way: From<Route<A>>,
{
    // A host that needs the same range for itself would be cut off by ours.
    let foreign = |r: &Route<A>| all.iter().any(|(at, h)| *at != index && h.to == r.to);
    let (clashing, wanted): (BTreeSet<_>, BTreeSet<_>) = wanted.into_iter().partition(foreign);
    // Said once, not on every pass, until it is over.
    let said = std::mem::replace(&mut *said.lock().unwrap_or_else(PoisonError::into_inner), clashing.clone());
    for route in clashing.difference(&said) {
        tracing::warn!(range = %route.to, "this host has a route of its own to a range of the overlay: containers here cannot reach that network's others; make the network anew with another --subnet");
    }
    let held: BTreeSet<&Route<A>> = own.iter().filter(|(at, _)| *at == index).map(|(_, r)| r).collect();
    let gone = held.iter().filter(|r| !wanted.contains(r));
    let gone = gone.map(|r| Repair::DropRoute(name.to_owned(), (*r).clone().into()));
    let new = wanted.iter().filter(|r| !held.contains(r));
    gone.chain(new.map(|r| Repair::Route(name.to_owned(), r.clone().into()))).collect()
}
