//! Swarm ports that are open on one address of a host, of either family, or on one interface.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use skep_overlay::desired::{Desired, Door};

use super::lab::{PATIENCE, ask};
use super::{BACKENDS, DOOR, PORT, Swarm};

impl Swarm {
    /// As [`Swarm::apply`], with the port 8080 open at `door`.
    fn apply_at(&self, door: &str) {
        for node in 0..2 {
            let mut desired: Desired = self.desired(node, &BACKENDS);
            desired.ports[0].host = Door::from(door.to_owned());
            self.hosts[node].run(self.planes[node].apply(desired, PORT)).expect("apply");
        }
    }

    fn is_open(&self, at: IpAddr) -> bool {
        ask(self.client.netns(), at, 8080).is_some()
    }

    /// Addresses are followed as the kernel tells of them, and in any case sooner than the next comparison.
    fn becomes(&self, at: IpAddr, open: bool) {
        let began = Instant::now();
        while self.is_open(at) != open {
            assert!(began.elapsed() < PATIENCE, "{at} is open: {}", !open);
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

pub fn doors() {
    let swarm = Swarm::new();
    let (six, other6) = ("fd00:67::1", "fd00:67::2");
    let (second, third): (Ipv4Addr, Ipv4Addr) = ([10, 67, 0, 2].into(), [10, 67, 0, 3].into());
    swarm.client.sh("ip addr add fd00:67::9/64 dev side nodad && ip route add 10.66.0.2 via 10.67.0.1");
    for addr in [six, other6] {
        swarm.hosts[1].sh(&format!("ip addr add {addr}/64 dev side nodad"));
    }
    swarm.hosts[1].sh(&format!("ip addr add {second}/24 dev side"));
    let elsewhere: IpAddr = [10, 66, 0, 2].into();
    let addr = |text: &str| text.parse::<IpAddr>().expect("address");
    swarm.apply(&BACKENDS);
    for (node, host) in [(0, 70), (0, 71), (1, 130)] {
        swarm.container(node, &[1, 0], host);
    }

    // One address, of either family.
    let all = [addr(six), addr(other6), DOOR.into(), second.into(), elsewhere];
    for door in [six.to_owned(), second.to_string()] {
        swarm.apply_at(&door);
        swarm.check();
        for at in all {
            assert_eq!(swarm.is_open(at), at == addr(&door), "{at} where {door} is open");
        }
    }

    // An interface: its addresses of both families, and no other's.
    swarm.apply_at("side");
    swarm.check();
    for at in all {
        assert_eq!(swarm.is_open(at), at != elsewhere, "{at} where an interface is open");
    }
    // They come and go.
    swarm.hosts[1].sh(&format!("ip addr add {third}/24 dev side && ip addr del {second}/24 dev side"));
    swarm.becomes(third.into(), true);
    swarm.hosts[1].sh(&format!("ip addr add {second}/32 dev lo"));
    swarm.becomes(second.into(), false);
    swarm.check();
    let instance = &swarm.hosts[1].instance;
    for breakage in ["ip", "ip6"].map(|f| format!("nft flush map {f} skep_{instance} ingress_one_few")) {
        assert!(swarm.notices(1, &breakage), "unseen: {breakage}");
        swarm.hosts[1].run(swarm.planes[1].reconcile()).expect("reconcile");
        swarm.check();
    }
    // One that no host has.
    swarm.apply_at("nosuch0");
    swarm.check();
    assert!(all.into_iter().all(|at| !swarm.is_open(at)));
    swarm.apply_at("::");
    swarm.check();
    assert!([addr(six), DOOR.into(), elsewhere].into_iter().all(|at| swarm.is_open(at)));
}
