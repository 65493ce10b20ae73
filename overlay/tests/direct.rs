//! Networks on an interface of the host, by macvlan and ipvlan: who is reached, what comes and goes, what is refused.
//!
//! Kernels differ in what they can make. Where one cannot, the refusal is what is looked at.

mod lab;
#[path = "lab/names.rs"]
mod names;
#[path = "lab/notices.rs"]
mod notices;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use lab::{Host, ask, in_order, publish, request, serve, start, up};
use notices::notices;
use skep_overlay::{BridgeSpec, Error, Join, LocalDriver};

fn options(all: &[(&str, &str)]) -> BTreeMap<String, String> {
    all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn spec(driver: LocalDriver, name: &str, subnet: &str, more: &[(&str, &str)]) -> BridgeSpec {
    BridgeSpec {
        name: name.into(),
        driver,
        subnet: Some(subnet.parse().expect("subnet")),
        options: options(more),
        ..BridgeSpec::default()
    }
}

/// Whether this kernel makes links of a kind, on `lan` where it must be on one.
fn makes(host: &Host, kind: &str) -> bool {
    let on = if kind == "dummy" { "" } else { "link lan" };
    let id = if kind == "vlan" { "id 99" } else { "" };
    host.sh(&format!(
        "ip link add {on} name probe0 type {kind} {id} 2>/dev/null && ip link del probe0 && echo yes || echo no"
    ))
    .trim()
        == "yes"
}

fn links(host: &Host) -> String {
    host.sh("ip -o link show | cut -d: -f2 | cut -d@ -f1")
}

#[test]
fn containers_on_the_hosts_interface_are_neighbours_of_other_hosts() {
    let (host, far) = (Host::new(), Host::new());
    host.connect(&far, "lan", "10.88.0.1", "10.88.0.2");
    serve(far.netns(), 80, "far");
    host.run(async {
        let plane = start(&host).await;
        let lan = BridgeSpec {
            gateway: Some(Ipv4Addr::new(10, 88, 0, 2)),
            ip_range: Some("10.88.0.64/28".parse().expect("range")),
            ..spec(LocalDriver::Macvlan, "lan", "10.88.0.0/24", &[("parent", "lan")])
        };
        let made = plane.create_bridge(lan).await.expect("lan");
        assert_eq!((made.driver, made.interface.as_str()), (LocalDriver::Macvlan, "lan"));
        let mut web = request("web", &["lan"]);
        web.ports = vec![publish(8080, 80)];
        let web = up(&plane, web).await;
        let other = up(&plane, request("other", &["lan=10.88.0.200"])).await;
        assert_eq!(web.ports, [], "it has an address of its own");
        let addr = web.endpoints[0].addr.expect("IPv4");
        assert_eq!(addr, Ipv4Addr::new(10, 88, 0, 64));
        assert_eq!(ask(far.netns(), addr, 80), Some(("web".into(), "10.88.0.2".into())), "from afar");
        assert_eq!(ask(&other.netns, addr, 80), Some(("web".into(), "10.88.0.200".into())), "its neighbour");
        assert_eq!(ask(&web.netns, Ipv4Addr::new(10, 88, 0, 2), 80), Some(("far".into(), addr.to_string())));
        assert_eq!(names::look_up::<4>(&other.netns, "web-name", 1).1, Some(addr.octets()));
        let routes = host.sh(&format!("nsenter --net={} ip route", web.netns.display()));
        assert!(routes.contains("default via 10.88.0.2 dev eth0"), "{routes}");
        in_order(&plane).await;

        // A bridge besides: connected and disconnected while it runs, and taken up again.
        plane.create_bridge(spec(LocalDriver::Bridge, "blue", "10.77.1.0/24", &[])).await.expect("blue");
        let blue =
            plane.connect("web", Join { network: "blue".into(), ..Join::default() }).await.expect("blue");
        in_order(&plane).await;
        plane.disconnect("web", &blue.endpoints[0].network_id).await.expect("off the interface");
        in_order(&plane).await;
        assert_eq!(lab::knock(far.netns(), addr, 80), None);
        plane.connect("web", Join { network: "lan".into(), ..Join::default() }).await.expect("again");
        plane.shutdown().await;
        let plane = start(&host).await;
        in_order(&plane).await;
        let now = plane.inspect_bridge("lan").expect("lan").containers["web"].endpoint.addr;
        assert_eq!(ask(far.netns(), now.expect("IPv4"), 80).map(|a| a.0), Some("web".into()));
        let breakage = format!("nsenter --net={} ip link del eth0", other.netns.display());
        assert!(notices(&plane, &host, &breakage).await, "unseen: {breakage}");
        plane.reconcile().await.expect("repaired");
        in_order(&plane).await;
        assert_eq!(ask(far.netns(), Ipv4Addr::new(10, 88, 0, 200), 80).map(|a| a.0), Some("other".into()));

        // Its hardware address is free as soon as it is gone.
        for _ in 0..3 {
            plane.detach("other").await.expect("detach");
            plane.attach(request("other", &["lan=10.88.0.200"])).await.expect("attach");
        }
        let used = plane.remove_bridge("lan").await.expect_err("in use");
        assert!(matches!(used, Error::NetworkInUse { .. }), "{used}");
        for id in ["web", "other"] {
            plane.detach(id).await.expect("detach");
        }
        plane.remove_bridge("lan").await.expect("removed");
        assert!(links(&host).contains("lan"), "the parent is the host's");
        in_order(&plane).await;
        plane.shutdown().await;
    });
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let (host, far) = (Host::new(), Host::new());
    host.connect(&far, "lan", "10.88.0.1", "10.88.0.2");
    host.run(async {
        let plane = start(&host).await;
        let private = [("parent", "lan"), ("macvlan_mode", "private")];
        plane
            .create_bridge(spec(LocalDriver::Macvlan, "apart", "10.88.1.0/24", &private))
            .await
            .expect("private");
        let a = up(&plane, request("a", &["apart"])).await;
        let b = up(&plane, request("b", &["apart"])).await;
        assert_eq!(lab::knock(&b.netns, a.endpoints[0].addr.expect("IPv4"), 80), None, "private");
        assert_eq!(a.endpoints[0].gateway, None, "none was given");
        let passthru = [("parent", "lan"), ("macvlan_mode", "passthru")];
        for (driver, subnet, more, words) in [
            (
                LocalDriver::Macvlan,
                "10.88.2.0/24",
                &passthru[..],
                "cannot use mode passthru, macvlan network",
            ),
            (
                LocalDriver::Ipvlan,
                "10.88.2.0/24",
                &[("parent", "lan")],
                "is already using parent interface lan",
            ),
            (
                LocalDriver::Macvlan,
                "10.88.2.0/24",
                &[("parent", "eth9")],
                "invalid subinterface vlan name eth9",
            ),
            (
                LocalDriver::Macvlan,
                "10.88.2.0/24",
                &[("parent", "eth9.5")],
                "does not exist on the host: eth9",
            ),
            (LocalDriver::Macvlan, "10.88.2.0/24", &[("parent", "lan.5000")], "vlan id must be between"),
            (
                LocalDriver::Macvlan,
                "10.88.2.0/24",
                &[("parent", "longinterfacename.1")],
                "names have at most 15 characters",
            ),
            (LocalDriver::Macvlan, "10.88.1.0/25", &[("parent", "lan")], "overlaps"),
        ] {
            let error = plane.create_bridge(spec(driver, "bad", subnet, more)).await.expect_err(words);
            assert!(error.to_string().contains(words), "{error}");
            assert!(plane.inspect_bridge("bad").is_err());
        }
        plane.shutdown().await;
    });
}

#[test]
fn parents_that_are_missing_are_made_and_go_again() {
    let (host, far) = (Host::new(), Host::new());
    host.connect(&far, "lan", "10.88.0.1", "10.88.0.2");
    host.run(async {
        let plane = start(&host).await;
        let before = links(&host);
        for (kind, network) in [
            (
                "dummy",
                BridgeSpec { internal: true, ..spec(LocalDriver::Macvlan, "own", "10.88.3.0/24", &[]) },
            ),
            ("vlan", spec(LocalDriver::Macvlan, "tagged", "10.88.4.0/24", &[("parent", "lan.10")])),
        ] {
            let name = network.name.clone();
            let made = plane.create_bridge(network).await;
            if !makes(&host, kind) {
                let error = made.expect_err("this kernel has no such links").to_string();
                assert!(error.contains("add "), "{error}");
                lab::assert_same(&before, &links(&host));
                continue;
            }
            let parent = made.expect("made").interface;
            assert!(links(&host).contains(&parent));
            let (one, two) = (format!("{name}1"), format!("{name}2"));
            let a = up(&plane, request(&one, &[&name])).await;
            let b = up(&plane, request(&two, &[&name])).await;
            assert_eq!(ask(&a.netns, b.endpoints[0].addr.expect("IPv4"), 80).map(|r| r.0), Some(two.clone()));
            for id in [&one, &two] {
                plane.detach(id).await.expect("detach");
            }
            host.sh(&format!("ip link del {parent}"));
            plane.reconcile().await.expect("made again");
            in_order(&plane).await;
            assert!(links(&host).contains(&parent));
            plane.remove_bridge(&name).await.expect("removed");
            lab::assert_same(&before, &links(&host));
        }
        plane.shutdown().await;
    });
}

#[test]
fn ipvlan_shares_the_hosts_hardware_address() {
    let (host, far) = (Host::new(), Host::new());
    host.connect(&far, "lan", "10.88.0.1", "10.88.0.2");
    host.run(async {
        let plane = start(&host).await;
        let has = makes(&host, "ipvlan");
        for mode in ["l2", "l3", "l3s"] {
            let more = [("parent", "lan"), ("ipvlan_mode", mode)];
            let network = spec(LocalDriver::Ipvlan, mode, "10.88.5.0/24", &more);
            plane.create_bridge(network).await.expect("the network is only written down");
            if !has {
                let error = plane.attach(request("a", &[mode])).await.expect_err("no ipvlan").to_string();
                assert!(error.contains("failed to create the ipvlan port on lan"), "{error}");
                plane.remove_bridge(mode).await.expect("removed");
                in_order(&plane).await;
                continue;
            }
            let a = up(&plane, request("a", &[mode])).await;
            let b = up(&plane, request("b", &[mode])).await;
            let addr = a.endpoints[0].addr.expect("IPv4");
            assert_eq!(a.endpoints[0].mac, "");
            assert_eq!(ask(&b.netns, addr, 80).map(|r| r.0), Some("a".into()), "{mode}");
            far.sh(&format!("ip route replace 10.88.5.0/24 dev lan src 10.88.0.2; ip neigh flush dev lan; ping -c 1 -W 5 {addr} >/dev/null || true"));
            if mode != "l2" {
                let routes = host.sh(&format!("nsenter --net={} ip route", a.netns.display()));
                assert!(routes.contains("default dev eth0"), "{routes}");
            }
            let mac = Join { network: mode.into(), mac: Some([2, 0, 0, 0, 0, 1]), ..Join::default() };
            let refused = plane.attach(skep_overlay::AttachRequest { networks: vec![mac], ..request("c", &[]) }).await;
            let error = refused.expect_err("a hardware address").to_string();
            assert!(error.contains("custom mac address"), "{error}");
            in_order(&plane).await;
            for id in ["a", "b"] {
                plane.detach(id).await.expect("detach");
            }
            plane.remove_bridge(mode).await.expect("removed");
        }
        plane.shutdown().await;
    });
}
