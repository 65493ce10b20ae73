//! Bridge networks on the real kernel: connectivity, published ports, isolation, restarts, drift,
//! teardown.

mod lab;
#[path = "lab/names.rs"]
mod names;
#[path = "lab/notices.rs"]
mod notices;

use std::net::Ipv4Addr;

use lab::{Host, ask, in_order, publish, request, serve, start, up};
use notices::notices;
use skep_overlay::{AttachRequest, BridgeSpec, DataPlane, DefaultBridge, Error, Join, Publish};

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

fn spec(name: &str, subnet: &str) -> BridgeSpec {
    BridgeSpec { name: name.into(), subnet: Some(subnet.parse().expect("subnet")), ..BridgeSpec::default() }
}

#[test]
fn containers_of_one_bridge_reach_each_other_and_nobody_else() {
    let host = Host::new();
    host.run(async {
        let plane = start(&host).await;
        plane.create_bridge(spec("blue", "10.77.1.0/24")).await.expect("blue");
        plane.create_bridge(spec("red", "10.77.2.0/24")).await.expect("red");
        let a = up(&plane, request("a", &["blue"])).await;
        let b = up(&plane, request("b", &["blue"])).await;
        let c = up(&plane, request("c", &["red"])).await;
        let (addr_b, addr_c) = (b.endpoints[0].addr.expect("IPv4"), c.endpoints[0].addr.expect("IPv4"));
        assert_eq!(addr_b, Ipv4Addr::new(10, 77, 1, 3));
        assert_eq!(ask(&a.netns, addr_b, 80), Some(("b".into(), "10.77.1.2".into())));
        assert_eq!(lab::knock(&a.netns, addr_c, 80), None, "networks are apart");
        assert_eq!(ask(host.netns(), addr_c, 80).map(|r| r.0), Some("c".into()));
        in_order(&plane).await;
        assert!(a.resolv_conf.starts_with("nameserver 127.0.0.11\n"), "{}", a.resolv_conf);
        plane.shutdown().await;
    });
}

#[test]
fn published_ports_answer_on_loopback_from_afar_and_round_the_corner() {
    let (host, far) = (Host::new(), Host::new());
    host.connect(&far, "under", "10.66.0.1", "10.66.0.2");
    host.run(async {
        let plane = start(&host).await;
        let mut web = request("web", &["bridge"]);
        web.ports = vec![publish(8080, 80), publish(0, 80)];
        let web = up(&plane, web).await;
        let other = up(&plane, request("other", &["bridge"])).await;
        let here = Ipv4Addr::new(10, 66, 0, 1);
        let served = |answer: Option<(String, String)>| answer.map(|a| a.0);
        assert_eq!(served(ask(host.netns(), LOOPBACK, 8080)), Some("web".into()), "loopback");
        assert_eq!(served(ask(host.netns(), here, 8080)), Some("web".into()), "own address");
        assert_eq!(
            ask(far.netns(), here, 8080),
            Some(("web".into(), "10.66.0.2".into())),
            "from afar, with the client's address"
        );
        assert_eq!(served(ask(&other.netns, here, 8080)), Some("web".into()), "from a neighbour");
        assert_eq!(served(ask(&web.netns, here, 8080)), Some("web".into()), "from itself");
        let random = web.ports.iter().map(|p| p.host_port).find(|p| *p != 8080).expect("a second port");
        assert!((32_768..=60_999).contains(&random), "{random}");
        assert_eq!(served(ask(far.netns(), here, random)), Some("web".into()));
        // The way out hides the container behind the host.
        serve(far.netns(), 81, "far");
        let far_addr = Ipv4Addr::new(10, 66, 0, 2);
        assert_eq!(ask(&other.netns, far_addr, 81), Some(("far".into(), "10.66.0.1".into())));
        plane.detach("web").await.expect("detach");
        assert_eq!(lab::knock(far.netns(), here, 8080), None);
        plane.shutdown().await;
    });
}

#[test]
fn a_taken_port_is_refused_by_name_and_nothing_is_left_behind() {
    let host = Host::new();
    host.run(async {
        let plane = start(&host).await;
        let _listener = std::net::TcpListener::bind("0.0.0.0:7777").expect("bind");
        let mut first = request("first", &["bridge"]);
        first.ports = vec![publish(7776, 80), publish(7777, 80)];
        let error = plane.attach(first.clone()).await.expect_err("the port is taken");
        let place = "failed to bind host port for 0.0.0.0:7777:";
        let error = error.to_string();
        assert!(
            error.starts_with("driver failed programming external connectivity on endpoint first-name ("),
            "{error}"
        );
        assert!(error.contains(place) && error.contains(":80/tcp: Address already in use"), "{error}");
        first.ports.truncate(1);
        plane.attach(first).await.expect("7776 was given back");
        let mut second = request("second", &["bridge"]);
        second.ports = vec![publish(7776, 80)];
        assert!(plane.attach(second.clone()).await.is_err(), "another container has it");
        let squatter = std::net::TcpListener::bind("0.0.0.0:7776");
        assert!(squatter.is_err(), "other programs are kept off");
        plane.detach("first").await.expect("detach");
        plane.attach(second).await.expect("free again");
        let mut odd = request("odd", &["bridge"]);
        odd.ports = vec![Publish { protocol: "icmp".into(), ..publish(1, 1) }];
        assert!(plane.attach(odd).await.is_err());
        plane.shutdown().await;
    });
}

/// A port whose last server closed its connections first, so that they are in TIME_WAIT.
fn lately_served() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let addr = listener.local_addr().expect("address");
    let mut client = std::net::TcpStream::connect(addr).expect("connect");
    drop(listener.accept().expect("accept"));
    assert_eq!(std::io::Read::read(&mut client, &mut [0]).expect("end of stream"), 0);
    addr.port()
}

#[test]
fn a_port_lately_served_is_free_and_then_kept_from_all_others() {
    let host = Host::new();
    host.run(async {
        let plane = start(&host).await;
        let port = lately_served();
        let strict = nix::sys::socket::socket(
            nix::sys::socket::AddressFamily::Inet,
            nix::sys::socket::SockType::Stream,
            nix::sys::socket::SockFlag::empty(),
            None,
        )
        .expect("socket");
        let addr =
            nix::sys::socket::SockaddrIn::from(std::net::SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port));
        let bound = nix::sys::socket::bind(std::os::fd::AsRawFd::as_raw_fd(&strict), &addr);
        assert_eq!(bound, Err(nix::errno::Errno::EADDRINUSE), "connections in TIME_WAIT are there");
        let mut web = request("web", &["bridge"]);
        web.ports = vec![publish(port, 80)];
        plane.attach(web).await.expect("nobody serves the port");
        std::net::TcpListener::bind(("127.0.0.1", port)).expect_err("other programs are kept off");
        plane.detach("web").await.expect("detach");
        std::net::TcpListener::bind(("127.0.0.1", port)).expect("given back");
    });
}

#[test]
fn an_internal_network_has_no_way_out() {
    let (host, far) = (Host::new(), Host::new());
    host.connect(&far, "under", "10.66.0.1", "10.66.0.2");
    serve(far.netns(), 81, "far");
    host.run(async {
        let plane = start(&host).await;
        let spec = BridgeSpec { internal: true, ..spec("inner", "10.77.3.0/24") };
        plane.create_bridge(spec).await.expect("inner");
        let a = up(&plane, request("a", &["inner"])).await;
        let b = up(&plane, request("b", &["inner"])).await;
        assert_eq!(ask(&a.netns, b.endpoints[0].addr.expect("IPv4"), 80).map(|r| r.0), Some("b".into()));
        // Even a container that makes itself a route does not get out.
        lab::within(&a.netns, || {
            let added = std::process::Command::new("ip")
                .args(["route", "add", "default", "via", "10.77.3.1"])
                .status();
            assert!(added.expect("ip").success());
        });
        assert_eq!(lab::knock(&a.netns, Ipv4Addr::new(10, 66, 0, 2), 81), None);
        plane.shutdown().await;
    });
}

#[test]
fn a_restarted_daemon_takes_up_what_it_finds() {
    let host = Host::new();
    let (netns, addr) = host.run(async {
        let plane = start(&host).await;
        plane.create_bridge(spec("blue", "10.77.1.0/24")).await.expect("blue");
        let mut web = request("web", &["blue"]);
        web.ports = vec![publish(8080, 80)];
        let web = up(&plane, web).await;
        plane.attach(request("gone", &["bridge"])).await.expect("attach");
        plane.shutdown().await;
        (web.netns.clone(), web.endpoints[0].addr.expect("IPv4"))
    });
    let before = host.sh("nft -a list ruleset; ip -o link");
    assert_eq!(ask(host.netns(), LOOPBACK, 8080).map(|a| a.0), Some("web".into()), "no daemon needed");
    host.run(async {
        let plane = start(&host).await;
        lab::assert_same(&before, &host.sh("nft -a list ruleset; ip -o link"));
        plane.retain(&["web".to_owned()]).await.expect("retain");
        let again = plane.attach(request("web", &["blue"])).await.expect("attach");
        assert_eq!((again.netns, again.endpoints[0].addr.expect("IPv4")), (netns, addr));
        let next = plane.attach(request("next", &["blue"])).await.expect("attach");
        assert_ne!(next.endpoints[0].addr.expect("IPv4"), addr);
        assert!(plane.inspect_bridge("bridge").expect("bridge").containers.is_empty());
        plane.shutdown().await;
        in_order(&plane).await;
    });
}

#[test]
fn drift_is_seen_and_repaired() {
    let host = Host::new();
    host.run(async {
        let plane = start(&host).await;
        let mut web = request("web", &["bridge"]);
        web.ports = vec![publish(8080, 80)];
        let web = up(&plane, web).await;
        let table = format!("skep_{}", host.instance);
        let bridge = plane.inspect_bridge("bridge").expect("bridge").interface;
        let breakages = [
            format!("nft flush table ip {table}"),
            format!("nft delete table ip {table}"),
            format!("nft flush map ip {table} ports_any"),
            format!("nft add rule ip {table} guard accept"),
            format!("nft add set ip {table} stray '{{ type mark; }}'"),
            format!("ip link del {bridge}"),
            format!("ip addr flush dev {bridge}"),
            "ip link add sk${I}x1 type bridge".replace("${I}", &host.instance),
            "sysctl -qw net.ipv4.ip_forward=0".to_owned(),
            format!(
                "for l in $(ls -1 /proc/sys/net/ipv4/conf | grep {}v); do ip link del $l; done",
                host.instance
            ),
        ];
        for breakage in breakages {
            assert!(notices(&plane, &host, &breakage).await, "unseen: {breakage}");
            plane.reconcile().await.expect("reconcile");
            assert_eq!(plane.check().await.expect("check"), Vec::<String>::new(), "{breakage}");
            let answer = ask(host.netns(), LOOPBACK, 8080);
            assert_eq!(answer.map(|a| a.0), Some("web".into()), "after {breakage}");
        }
        drop(web);
        plane.shutdown().await;
    });
}

#[test]
fn teardown_leaves_nothing() {
    let host = Host::new();
    host.run(async {
        let plane = start(&host).await;
        let list = "ip -o link | cut -d: -f2 | cut -d@ -f1 | sort; ip route | sed 's/ linkdown//' | sort; nft list ruleset";
        let before = host.sh(list);
        plane.create_bridge(spec("blue", "10.77.1.0/24")).await.expect("blue");
        for number in 0..5 {
            let mut each = request(&format!("c{number}"), &["blue", "bridge"]);
            each.ports = vec![publish(9000 + number, 80)];
            plane.attach(each).await.expect("attach");
        }
        let busy = plane.remove_bridge("blue").await.expect_err("in use");
        assert!(busy.to_string().contains("c0-name"), "{busy}");
        plane.retain(&[]).await.expect("retain");
        plane.remove_bridge("blue").await.expect("remove");
        plane.detach("c0").await.expect("twice is fine");
        plane.shutdown().await;
        lab::assert_same(&before, &host.sh(list));
        let files = |path: &str| std::fs::read_dir(host.root.path().join(path)).expect("dir").count();
        assert_eq!((files("run/netns"), files("data/network/containers")), (0, 0));
    });
}

#[test]
fn what_cannot_be_is_refused_with_a_reason() {
    let host = Host::new();
    host.sh("ip link add under type bridge && ip link set under up && ip addr add 172.17.9.9/24 dev under");
    host.run(async {
        let plane = start(&host).await;
        let default = plane.inspect_bridge("bridge").expect("bridge");
        assert_eq!(
            default.subnet.map(|s| s.to_string()).as_deref(),
            Some("172.18.0.0/16"),
            "172.17.9.0/24 is routed already"
        );
        plane.create_bridge(spec("blue", "10.77.1.0/29")).await.expect("blue");
        let bad = [
            spec("blue", "10.77.5.0/24"),
            spec("over", "10.77.0.0/16"),
            spec("-bad", "10.77.5.0/24"),
            spec("host", "10.77.5.0/24"),
            spec("tiny", "10.77.5.0/32"),
            spec("loop", "127.0.0.0/8"),
            BridgeSpec { gateway: Some(Ipv4Addr::new(10, 1, 1, 1)), ..spec("gate", "10.77.5.0/24") },
            BridgeSpec {
                options: [("com.docker.network.driver.mtu".to_owned(), "9".to_owned())].into(),
                ..spec("opt", "10.77.5.0/24")
            },
        ];
        for spec in bad {
            let error = plane.create_bridge(spec.clone()).await.expect_err(&spec.name);
            assert!(!error.to_string().is_empty());
        }
        assert!(plane.remove_bridge("bridge").await.is_err());
        assert!(plane.attach(request("a", &["nowhere"])).await.is_err());
        assert!(plane.attach(request("a", &["blue", "blue"])).await.is_err());
        assert!(plane.attach(request("a", &["blue=10.78.0.1"])).await.is_err());
        assert!(plane.attach(request("../a", &["blue"])).await.is_err());
        for number in 0..5 {
            plane.attach(request(&format!("n{number}"), &["blue"])).await.expect("fits");
        }
        let full = plane.attach(request("full", &["blue"])).await.expect_err("all given");
        assert!(matches!(full, Error::Exhausted { .. }), "{full}");
        plane.detach("n3").await.expect("detach");
        plane.attach(request("full", &["blue=10.77.1.5"])).await.expect("its address is free");
        plane.shutdown().await;
        in_order(&plane).await;
    });
}

/// RFC 3021: of two addresses one is the host's and the other a container's.
#[test]
fn a_pair_of_addresses_is_a_network() {
    let host = Host::new();
    serve(host.netns(), 81, "host");
    host.run(async {
        let addr = Some("10.77.7.1/31".parse().expect("address"));
        let told = skep_overlay::DataPlaneOptions {
            default_bridge: DefaultBridge { addr, ..Default::default() },
            ..host.options()
        };
        let plane = DataPlane::start(told).await.expect("data plane");
        plane.create_bridge(spec("pair", "10.77.6.0/31")).await.expect("pair");
        for (network, gateway, given) in
            [("pair", [10, 77, 6, 0], [10, 77, 6, 1]), ("bridge", [10, 77, 7, 1], [10, 77, 7, 0])]
        {
            let (gateway, given) = (Ipv4Addr::from(gateway), Ipv4Addr::from(given));
            assert_eq!(plane.inspect_bridge(network).expect("network").gateway, Some(gateway));
            let one =
                up(&plane, AttachRequest { ports: vec![publish(8080, 80)], ..request("one", &[network]) })
                    .await;
            let place = &one.endpoints[0];
            assert_eq!((place.addr, place.prefix_len, place.gateway), (Some(given), 31, Some(gateway)));
            assert_eq!(ask(host.netns(), given, 80), Some(("one".into(), gateway.to_string())));
            assert_eq!(ask(host.netns(), LOOPBACK, 8080).map(|a| a.0), Some("one".into()));
            assert_eq!(ask(&one.netns, gateway, 81), Some(("host".into(), given.to_string())));
            let full = plane.attach(request("two", &[network])).await.expect_err("there are two");
            assert!(matches!(full, Error::Exhausted { .. }), "{full}");
            in_order(&plane).await;
            plane.detach("one").await.expect("detach");
        }
        plane.shutdown().await;
    });
}

#[test]
fn another_firewalls_default_does_not_stop_containers() {
    let (host, far) = (Host::new(), Host::new());
    host.connect(&far, "under", "10.66.0.1", "10.66.0.2");
    serve(far.netns(), 81, "far");
    host.sh(
        "nft add table ip filter && nft 'add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'",
    );
    host.sh("nft 'add chain ip filter INPUT { type filter hook input priority 0; policy drop; }'");
    let before = host.sh("nft list ruleset; ip -o link | cut -d: -f2; ip route");
    host.run(async {
        let plane = start(&host).await;
        let a = up(&plane, request("a", &["bridge"])).await;
        let there = Ipv4Addr::new(10, 66, 0, 2);
        assert_eq!(ask(&a.netns, there, 81).map(|a| a.0), Some("far".into()));
        host.sh("nft flush chain ip filter FORWARD");
        assert_eq!(lab::knock(&a.netns, there, 81), None);
        assert_eq!(plane.check().await.expect("check").len(), 1);
        plane.reconcile().await.expect("reconcile");
        assert_eq!(ask(&a.netns, there, 81).map(|a| a.0), Some("far".into()));
        plane.reconcile().await.expect("reconcile");
        assert_eq!(host.sh("nft list chain ip filter FORWARD").matches("skep:").count(), 6);
        assert_eq!(host.sh("nft list chain ip filter INPUT").matches("skep:").count(), 1);
        plane.uninstall().await.expect("uninstall");
        // One that was waiting for its turn meanwhile has nothing to mend any more.
        plane.reconcile().await.expect("reconcile");
    });
    lab::assert_same(&before, &host.sh("nft list ruleset; ip -o link | cut -d: -f2; ip route"));
}

/// The address a name stands for, asked of the container's own server.
fn resolve(netns: &std::path::Path, name: &str) -> Option<Ipv4Addr> {
    names::look_up::<4>(netns, name, 1).1.map(Ipv4Addr::from)
}

#[test]
fn names_follow_containers_as_they_come_and_go() {
    let host = Host::new();
    host.run(async {
        let plane = start(&host).await;
        plane
            .create_bridge(BridgeSpec { internal: true, ..spec("blue", "10.77.1.0/24") })
            .await
            .expect("blue");
        let a = plane.attach(request("a", &["blue"])).await.expect("attach");
        let mut other = request("0123456789abcdef", &["blue"]);
        other.networks[0].aliases = vec!["db".into()];
        assert_eq!(resolve(&a.netns, "db"), None);
        let b = plane.attach(other).await.expect("attach");
        let addr = Some(b.endpoints[0].addr.expect("IPv4"));
        for name in ["db", "0123456789abcdef-name", "0123456789ab"] {
            assert_eq!(resolve(&a.netns, name), addr, "{name}");
        }
        assert_eq!(resolve(&b.netns, "a-name"), Some(a.endpoints[0].addr.expect("IPv4")));
        plane.shutdown().await;
        let plane = start(&host).await;
        assert_eq!(resolve(&a.netns, "db"), addr, "served again after a restart");
        plane.detach("0123456789abcdef").await.expect("detach");
        assert_eq!(resolve(&a.netns, "db"), None);
        plane.shutdown().await;
    });
}

#[test]
fn comings_goings_and_repairs_at_once_end_in_order() {
    let host = Host::new();
    host.run(async {
        let plane = start(&host).await;
        plane.create_bridge(spec("blue", "10.77.1.0/24")).await.expect("blue");
        let rounds = (0..12u16).map(|number| {
            let plane = plane.clone();
            tokio::spawn(async move {
                let id = format!("c{number}");
                for _ in 0..4 {
                    let mut each = request(&id, &["blue"]);
                    each.ports = vec![publish(0, 80)];
                    plane.attach(each).await.expect("attach");
                    plane.detach(&id).await.expect("detach");
                }
                plane.attach(request(&id, &["blue"])).await.expect("attach")
            })
        });
        let rounds: Vec<_> = rounds.collect();
        for _ in 0..6 {
            plane.reconcile().await.expect("reconcile");
            // What is being connected is not out of order.
            in_order(&plane).await;
        }
        let mut addresses = std::collections::BTreeSet::new();
        for round in rounds {
            addresses.insert(round.await.expect("task").endpoints[0].addr.expect("IPv4"));
        }
        assert_eq!(addresses.len(), 12, "no address twice");
        plane.shutdown().await;
        in_order(&plane).await;
    });
}

#[test]
fn networks_of_a_running_container_come_and_go() {
    let host = Host::new();
    let join =
        |network: &str| Join { network: network.into(), aliases: vec!["db".into()], ..Join::default() };
    host.run(async {
        let plane = start(&host).await;
        plane.create_bridge(spec("blue", "10.77.1.0/24")).await.expect("blue");
        let quiet = [("com.docker.network.bridge.enable_icc".to_owned(), "false".to_owned())];
        let red = BridgeSpec { options: quiet.into(), ..spec("red", "10.77.2.0/24") };
        plane.create_bridge(red).await.expect("red");
        let mut web = request("web", &["bridge"]);
        web.ports = vec![publish(8080, 80)];
        let web = up(&plane, web).await;
        let other = up(&plane, request("other", &["blue"])).await;
        let addr = other.endpoints[0].addr.expect("IPv4");
        assert_eq!(lab::knock(&web.netns, addr, 80), None);
        assert!(!web.resolv_conf.contains("127.0.0.11"));

        let joined = plane.connect("web", join("blue")).await.expect("connect");
        assert_eq!(joined.endpoints.len(), 2);
        assert!(joined.resolv_conf.contains("127.0.0.11"));
        assert_eq!(ask(&web.netns, addr, 80).map(|a| a.0), Some("other".into()));
        assert_eq!(resolve(&other.netns, "db"), Some(joined.endpoints[1].addr.expect("IPv4")));
        in_order(&plane).await;
        let twice = plane.connect("web", join("blue")).await.expect_err("it is in it");
        assert!(matches!(twice, Error::AlreadyConnected { .. }), "{twice}");
        plane.connect("web", join("red")).await.expect("connect");
        in_order(&plane).await;

        // The way out and the published port move on to what is left.
        let left = plane.disconnect("web", &joined.endpoints[0].network_id).await.expect("disconnect");
        assert_eq!(left.endpoints.len(), 2);
        assert_eq!(ask(host.netns(), LOOPBACK, 8080).map(|a| a.0), Some("web".into()));
        in_order(&plane).await;
        plane.shutdown().await;

        let plane = start(&host).await;
        in_order(&plane).await;
        assert_eq!(ask(&web.netns, addr, 80).map(|a| a.0), Some("other".into()));
        for endpoint in left.endpoints {
            plane.disconnect("web", &endpoint.network_id).await.expect("disconnect");
            in_order(&plane).await;
        }
        assert_eq!(resolve(&other.netns, "db"), None);
        assert!(plane.disconnect("web", &joined.endpoints[0].network_id).await.is_err());
        plane.connect("web", join("blue")).await.expect("connect");
        assert_eq!(ask(host.netns(), LOOPBACK, 8080).map(|a| a.0), Some("web".into()));
        plane.rename("web", "www").await.expect("rename");
        assert_eq!(resolve(&other.netns, "www"), resolve(&other.netns, "db"));
        assert_eq!(resolve(&other.netns, "web-name"), None);
        plane.shutdown().await;
    });
}

#[test]
fn gateway_modes_open_a_network_or_keep_the_host_out() {
    const MODE: &str = "com.docker.network.bridge.gateway_mode_ipv4";
    let (host, far) = (Host::new(), Host::new());
    host.connect(&far, "under", "10.66.0.1", "10.66.0.2");
    let with = |mode: &str, spec: BridgeSpec| BridgeSpec {
        options: [(MODE.to_owned(), mode.to_owned())].into(),
        ..spec
    };
    host.run(async {
        let plane = start(&host).await;
        plane.create_bridge(spec("shut", "10.77.1.0/24")).await.expect("shut");
        plane.create_bridge(with("nat-unprotected", spec("open", "10.77.2.0/24"))).await.expect("open");
        let shut = up(&plane, request("shut", &["shut"])).await;
        let open = up(&plane, request("open", &["open"])).await;
        far.sh("ip route add 10.77.0.0/16 via 10.66.0.1");
        assert_eq!(lab::knock(far.netns(), shut.endpoints[0].addr.expect("IPv4"), 80), None);
        assert_eq!(
            ask(far.netns(), open.endpoints[0].addr.expect("IPv4"), 80),
            Some(("open".into(), "10.66.0.2".into()))
        );
        assert_eq!(
            lab::knock(&shut.netns, open.endpoints[0].addr.expect("IPv4"), 80),
            None,
            "networks are apart"
        );
        in_order(&plane).await;

        let alone = with("isolated", spec("alone", "10.77.3.0/24"));
        let error = plane.create_bridge(alone.clone()).await.expect_err("not internal").to_string();
        assert!(error.contains("can only be used for an internal network"), "{error}");
        let made = plane.create_bridge(BridgeSpec { internal: true, ..alone }).await.expect("alone");
        assert_eq!(made.gateway, None);
        let a = up(&plane, request("a", &["alone"])).await;
        let b = up(&plane, request("b", &["alone"])).await;
        assert_eq!(a.endpoints[0].addr.expect("IPv4"), Ipv4Addr::new(10, 77, 3, 1));
        assert_eq!(ask(&b.netns, a.endpoints[0].addr.expect("IPv4"), 80).map(|r| r.0), Some("a".into()));
        assert_eq!(host.sh(&format!("ip -4 -o addr show dev {}", made.interface)), "");
        in_order(&plane).await;
        plane.shutdown().await;
    });
}

#[test]
fn the_way_out_and_the_names_of_interfaces_are_as_asked() {
    let host = Host::new();
    host.run(async {
        let plane = start(&host).await;
        plane.create_bridge(spec("blue", "10.77.1.0/24")).await.expect("blue");
        plane.create_bridge(spec("red", "10.77.2.0/24")).await.expect("red");
        let options =
            |all: &[(&str, &str)]| all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let red = Join {
            network: "red".into(),
            priority: 7,
            options: options(&[
                ("com.docker.network.endpoint.ifname", "web0"),
                ("com.docker.network.endpoint.sysctls", "net.ipv4.conf.IFNAME.log_martians=1"),
            ]),
            ..Join::default()
        };
        let a = up(&plane, request("a", &["blue"])).await;
        let inside = |command: &str| host.sh(&format!("nsenter --net={} {command}", a.netns.display()));
        let route = |via: &str| {
            let routes = inside("ip -4 route show default");
            assert!(routes.contains(via), "{routes}");
        };
        route("via 10.77.1.1 dev eth0");
        let joined = plane.connect("a", red.clone()).await.expect("connect");
        route("via 10.77.2.1 dev web0");
        assert_eq!(inside("cat /proc/sys/net/ipv4/conf/web0/log_martians").trim(), "1");
        let low = Join { network: "bridge".into(), priority: -1, ..Join::default() };
        plane.connect("a", low).await.expect("connect");
        route("via 10.77.2.1 dev web0");
        assert!(inside("ip -o link").contains(" eth1@"));
        plane.disconnect("a", &joined.endpoints[1].network_id).await.expect("disconnect");
        route("via 10.77.1.1 dev eth0");
        for (name, value) in [("com.docker.network.endpoint.ifname", "eth0"), ("mtu", "9")] {
            let bad = Join { options: options(&[(name, value)]), ..red.clone() };
            let error = plane.connect("a", bad).await.expect_err(name).to_string();
            assert!(error.contains(value) || error.contains(name), "{error}");
        }
        in_order(&plane).await;
        plane.shutdown().await;
    });
}
