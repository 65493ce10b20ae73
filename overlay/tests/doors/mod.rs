//! Swarm ports that are open on one address of a host, of either family, or on one interface.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use skep_overlay::desired::{Desired, Door};
use skep_overlay::{BridgeSpec, Publish};

use super::lab::{self, PATIENCE, ask, request, up};
use super::{BACKENDS, DOOR, PORT, Swarm, start};

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

/// A container's own ports on an interface: where that has addresses, of both families, also under the next daemon.
pub fn containers_doors() {
    let mut swarm = Swarm::new();
    let (host, client) = (&swarm.hosts[1], swarm.client.netns().to_owned());
    let (six, second, third) = ("fd00:67::1", "10.67.0.2", "10.67.0.3");
    swarm.client.sh("ip addr add fd00:67::9/64 dev side nodad && ip route add 10.66.0.2 via 10.67.0.1");
    host.sh(&format!("ip addr add {six}/64 dev side nodad"));
    let addr = |text: &str| text.parse::<IpAddr>().expect("address");
    let publish = |interface: &str, container_port| Publish {
        interface: Some(interface.into()),
        ..lab::publish(8090, container_port)
    };
    let spec = BridgeSpec { name: "six".into(), ipv6: true, ..BridgeSpec::default() };
    let web = host.run(async {
        swarm.planes[1].create_bridge(spec).await.expect("bridge");
        let mut web = request("web", &["six"]);
        web.ports = vec![publish("side", 80), publish("nosuch0", 80)];
        up(&swarm.planes[1], web).await
    });
    let at = |ports: &[skep_overlay::Bound]| {
        let mut all: Vec<String> = ports.iter().map(|p| p.host_ip.to_string()).collect();
        all.sort_unstable();
        all
    };
    assert_eq!(at(&web.ports), [DOOR.to_string(), six.to_owned()]);
    assert_eq!(ask(&client, DOOR, 8090), Some(("web".into(), "10.67.0.9".into())));
    assert_eq!(ask(&client, addr(six), 8090), Some(("web".into(), "fd00:67::9".into())));
    assert_eq!(lab::knock(&client, addr("10.66.0.2"), 8090), None, "another interface's address");
    // Another container has it on another interface only.
    let clash = host.run(async {
        let mut other = request("other", &["six"]);
        other.ports = vec![publish("side", 80)];
        let clash = swarm.planes[1].attach(other).await.map(drop);
        let mut other = request("other", &["six"]);
        other.ports = vec![publish("under", 80)];
        up(&swarm.planes[1], other).await;
        clash
    });
    assert!(clash.expect_err("taken").to_string().contains("port is already allocated"));
    assert_eq!(ask(&client, addr("10.66.0.2"), 8090).map(|a| a.0), Some("other".into()));

    // Addresses come and go, and whoever runs the container hears of it.
    let followed = |plane: &skep_overlay::DataPlane, wanted: &[&str]| {
        host.run(async {
            let follow = async {
                loop {
                    assert_eq!(plane.ports_changed().await, "web");
                    let ports = plane.attached("web").await.expect("attached").ports;
                    if at(&ports) == wanted {
                        return;
                    }
                }
            };
            tokio::time::timeout(PATIENCE, follow).await.expect("told of it");
            // What is told is in the kernel.
            lab::in_order(plane).await;
        });
    };
    host.sh(&format!("ip addr add {second}/24 dev side && ip addr del {six}/64 dev side"));
    followed(&swarm.planes[1], &[&DOOR.to_string(), second]);
    assert_eq!(ask(&client, addr(second), 8090).map(|a| a.0), Some("web".into()));
    host.sh(&format!("ip addr add {six}/128 dev lo nodad"));
    assert_eq!(lab::knock(&client, addr(six), 8090), None, "the address is another interface's now");

    // A daemon that was not there finds it out.
    host.run(swarm.planes[1].shutdown());
    host.sh(&format!("ip addr add {third}/24 dev side && ip addr del {second}/24 dev side"));
    swarm.planes[1] = start(host);
    host.run(swarm.planes[1].retain(&["web".to_owned(), "other".to_owned()])).expect("retain");
    followed(&swarm.planes[1], &[&DOOR.to_string(), third]);
    assert_eq!(ask(&client, addr(third), 8090).map(|a| a.0), Some("web".into()));
    host.sh("ip link set side down && ip addr flush dev side");
    followed(&swarm.planes[1], &[]);
    host.run(swarm.planes[1].detach("web")).expect("detach");
}
